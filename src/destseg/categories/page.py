"""The page that sums up many categories, with links to each model's own report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import destseg
from destseg.categories.job import JobOutcome
from destseg.categories.summary import COLUMNS, CategorySummary, mean_row
from destseg.data.lists import counted
from destseg.model_folder import REPORT
from destseg.pages.one_file import escaped, one_file, part


def render(folder: Path, rows: Sequence[CategorySummary]) -> str:
    """Return the whole page as HTML.  It has no script, and refers to the reports beside it.

    Args:
        folder: that the page will lie in.
        rows: one a category.
    """
    done = sum(len(row.results) for row in rows)
    failed = sum(len(row.failures) for row in rows)
    room = "destseg.categories"
    return one_file(
        part(room, "page.html"),
        style=part("destseg.pages", "base.css") + part(room, "page.css"),
        title=escaped(f"{folder.resolve().name}: {counted(len(rows), 'category', 'categories')}"),
        version=escaped(destseg.__version__),
        lead=escaped(_lead(done, failed, len(rows))),
        head="".join(f"<th scope=col>{escaped(name)}" for name in (*COLUMNS, "report of seed")),
        body="\n".join(_row(folder, row) for row in rows),
        foot=_cells(mean_row(rows)) + "<td>" if len(rows) > 1 else "",
        failures=_failures(rows),
    )


def _lead(done: int, failed: int, categories: int) -> str:
    of = counted(categories, "category", "categories")
    models = f"{done} of {done + failed} models of {of} are trained"
    return f"{models}; {failed} failed, see below." if failed else f"{models}."


def _row(folder: Path, row: CategorySummary) -> str:
    links = " ".join(_link(folder, outcome) for outcome in row.outcomes)
    style = " class=failed" if row.failures else ""
    return f"<tr{style}>{_cells(row.cells())}<td class=links>{links}"


def _cells(texts: Sequence[str]) -> str:
    first, *others = map(escaped, texts)
    return f"<th scope=row>{first}" + "".join(f"<td>{text}" for text in others)


def _link(folder: Path, outcome: JobOutcome) -> str:
    seed = str(outcome.job.seed)
    if outcome.result is None:
        return f"<b>{seed}</b>"
    if not outcome.result["metrics"]:
        return seed
    where = os.path.relpath(outcome.job.folder / REPORT, folder.absolute())
    return f'<a href="{quote(os.fsencode(Path(where).as_posix()))}">{seed}</a>'


def _failures(rows: Sequence[CategorySummary]) -> str:
    reasons = {who: why for row in rows for who, why in row.reasons.items()}
    if not reasons:
        return ""
    told = "".join(f"<dt>{escaped(who)}<dd>{escaped(why)}\n" for who, why in reasons.items())
    return f"<section>\n<h2>What failed</h2>\n<dl class=reasons>{told}</dl>\n</section>"
