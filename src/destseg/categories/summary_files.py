"""The files that sum up all jobs: JSON for programs, CSV for a spreadsheet, a page for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import destseg
from destseg.categories.page import render
from destseg.categories.summary import COLUMNS, METRICS, CategorySummary, metric_of
from destseg.data.files import write_atomically

FILES = ("summary.json", "summary.csv", "index.html")


def to_json(rows: Sequence[CategorySummary]) -> str:
    """Return everything as JSON: each category's row, each job's result, each failure."""
    content = {
        "destseg": destseg.__version__,
        "categories": [dict(zip(COLUMNS, row.cells(), strict=True)) for row in rows],
        "runs": [result for row in rows for result in row.results],
        "failures": [
            {"category": each.job.category.name, "seed": each.job.seed, "reason": each.reason}
            for row in rows
            for each in row.failures
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def to_csv(rows: Sequence[CategorySummary]) -> str:
    """Return a line a job; metrics are in [0, 1], empty where they are not defined."""
    text = io.StringIO(newline="")
    head = ["category", "seed", "given", "images", "with mask"]
    head += [*METRICS, "false alarms", "good", "missed", "defective"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "minutes", "device", "model", "failure"])
    for outcome in (each for row in rows for each in row.outcomes):
        job, result = outcome.job, outcome.result
        if result is None:
            empty = [""] * len(head)  # without category and seed, with minutes and device
            writer.writerow([job.category.name, job.seed, *empty, job.folder, outcome.reason])
            continue
        counts = (result["metrics"] or {}).get
        rates = [counts(name) or {} for name in ("false_alarms", "misses")]
        coverage = counts("coverage") or {}
        writer.writerow(
            [
                *(job.category.name, job.seed),
                *(_empty(coverage.get(name)) for name in ("given", "images", "with_mask")),
                *(_empty(metric_of(result, name)) for name in METRICS),
                *(_empty(rate.get(name)) for rate in rates for name in ("count", "total")),
                *(result["minutes"], result["device"], job.folder, ""),
            ]
        )
    return text.getvalue()


def write_summary(folder: Path, rows: Sequence[CategorySummary]) -> list[Path]:
    """Write ``summary.json``, ``summary.csv`` and ``index.html`` and return their paths."""
    contents = (to_json(rows), to_csv(rows), render(folder, rows))
    for name, content in zip(FILES, contents, strict=True):
        write_atomically(folder / name, content)
    return [folder / name for name in FILES]


def _empty(value: object) -> object:
    return "" if value is None else value
