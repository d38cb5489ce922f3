"""``destseg train-many``: a model for each of many categories, side by side."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_settings_flags, base_settings, command_parser, settings_options
from destseg.cli.writing import finished, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from destseg.categories.summary import CategorySummary

DESCRIPTION = """Train a model for each category of parts, measure it, and sum them all up.

FOLDER has a folder for each category, as destseg train takes it: in MVTec AD's layout, whose test
images the model is then measured on, or any folder of good images.  Models go to
DIR/CATEGORY/seed-N, the table of all to DIR/index.html, summary.json and summary.csv.

Categories and seeds are trained side by side as far as there are CPUs and GPUs, by Ray, on this
machine or a cluster.  A job whose worker is lost goes on from its last saved state; a category that
cannot be trained is named and stops no other.  The same command again does what is missing.
Test images that cannot be read are named, and the exit code is 1; the others are measured.
"""

EPILOG = """examples:
  destseg train-many data/mvtec --output runs/mvtec --seeds 0 1 2 --per-category rotation.yaml
  destseg train-many data/mvtec --output runs/mvtec --gpus 1 --preset paper --address auto

FILE of --per-category says what is different for some categories, and overrides the flags:
  bottle: {rotation: 5, quarter_turns: true}
  cable: {rotation: 5, denoise_steps: 400}
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    base = base_settings(words)
    usage = "destseg train-many FOLDER --output DIR [flags]"
    parser = command_parser("train-many", DESCRIPTION, EPILOG, usage)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of categories")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="for the models")
    parser.add_argument("--only", nargs="+", metavar="CATEGORY", help="these only (default: all)")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="a model each (default: the one of --seed)",
    )
    parser.add_argument(
        "--per-category", metavar="FILE", type=Path, help="YAML: settings of some categories"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="train anew what earlier calls left"
    )
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    add_resource_flags(parser)
    add_settings_flags(parser, base)
    parsed = parser.parse_args(words)

    from rich.console import Console

    from destseg.categories.summary_files import FILES
    from destseg.cli.jobs_table import JobsShown

    # What Ray prints about its workers is not the answer: that alone goes to the standard output.
    with JobsShown(quiet=parsed.quiet) as shown, contextlib.redirect_stdout(sys.stderr):
        rows, not_written = finished(
            lambda: destseg.train_many(
                parsed.folder,
                output=parsed.output,
                seeds=parsed.seeds,
                only=parsed.only,
                per_category=parsed.per_category,
                overwrite=parsed.overwrite,
                cpus=parsed.cpus,
                gpus=parsed.gpus,
                retries=parsed.retries,
                address=parsed.address,
                on_progress=lambda _, total: shown.begin(total),
                on_waiting=shown.update,
                on_outcome=shown.ended,
                settings=parsed.settings,
                preset=parsed.preset,
                **settings_options(parsed),
            )
        )
    tell(not_written)
    console = Console()
    for table in tables(rows):
        console.print(table)
    for row in rows:
        if row.covered("images") != row.covered("with_mask"):
            print(
                f"{row.category}: image metrics over {row.covered('images')} images, pixel metrics "
                f"over {row.covered('with_mask')}"
            )
        for who, why in (row.reasons | row.unread).items():
            print(f"destseg: {who}: {why}", file=sys.stderr)
    if not not_written:
        print(f"written: {', '.join(str(parsed.output / name) for name in FILES)}")
    return 1 if any(row.failures or row.unread for row in rows) or not_written else 0


def add_resource_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what a job is given, and where it runs."""
    section = parser.add_argument_group("jobs")
    section.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="CPUs and threads of a job (default: 1)"
    )
    section.add_argument(
        "--gpus",
        type=float,
        default=0.0,
        metavar="N",
        help="GPUs of a job; 0.5 lets two share one (default: 0)",
    )
    section.add_argument(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="how often a job goes on after its worker was lost (default: 3)",
    )
    section.add_argument(
        "--address",
        metavar="NAME",
        help="Ray cluster, or auto for the one that this machine is in; FOLDER, DIR and the "
        "files of settings must be the same on all its machines (default: this machine alone)",
    )


def tables(rows: Sequence[CategorySummary]) -> list[Table]:
    """Return the table of all categories in two halves, which a terminal is wide enough for."""
    from destseg.categories.summary import COLUMNS, METRICS, mean_row

    of_pixels = [COLUMNS.index(name) for name in METRICS if name != "image AUROC"]
    # The number with masks has a line of its own where it differs: terminals are narrow.
    left_out = [*of_pixels, COLUMNS.index("with mask")]
    of_images = [place for place in range(1, len(COLUMNS)) if place not in left_out]
    lines = [(row.cells(), bool(row.failures)) for row in rows]
    if len(rows) > 1:
        lines.append((mean_row(rows), False))
    title = "per cent, mean ± standard deviation over seeds"
    return [
        _half(f"images, {title}", [0, *of_images], lines),
        _half(f"pixels, {title}", [0, *of_pixels], lines),
    ]


def _half(title: str, places: list[int], lines: list[tuple[tuple[str, ...], bool]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from destseg.categories.summary import COLUMNS

    made = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for place in places:
        name = COLUMNS[place].removeprefix("pixel ")
        made.add_column(name, justify="right" if place else "left", no_wrap=True)
    for cells, failed in lines:
        made.add_row(*(escape(cells[place]) for place in places), style="red" if failed else None)
    return made
