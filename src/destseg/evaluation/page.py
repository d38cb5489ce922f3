"""The report's page: its parts put together, and its data as one block of JSON.

The page is ``page.html`` with ``page.css``, ``charts.js`` and ``page.js`` put into it; the data
follow as JSON, so nothing of a data set is ever read as markup.  It needs no network, and its
content security policy forbids any.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from destseg.data.choice import evenly
from destseg.data.files import write_atomically
from destseg.data.paths import shown
from destseg.evaluation.report import Entry, Report
from destseg.inference.calibration import TOLERANCE
from destseg.pages.one_file import escaped, image_uri, one_file, part
from destseg.rate import Rate

_REGIONS_SHOWN = 50
_STEPS_SHOWN = 400


def write_report(path: str | Path, report: Report) -> None:
    """Write the page to a file, whole or not at all; missing folders are made."""
    write_atomically(path, render(report))


def render(report: Report) -> str:
    """Return the whole page as HTML that refers to nothing outside of itself."""
    room = "destseg.evaluation"
    return one_file(
        part(room, "page.html"),
        style=part("destseg.pages", "base.css") + part(room, "page.css"),
        script=part("destseg.pages", "elements.js")
        + part(room, "charts.js")
        + part(room, "page.js"),
        title=escaped(report.title),
        data=_json(_legible(_payload(report))),
    )


def _payload(report: Report) -> dict[str, Any]:
    defective = sum(entry.is_defective for entry in report.entries)
    return {
        "title": report.title,
        "facts": list(report.facts.items()),
        "metrics": [
            [name, _finite(value), report.reasons.get(name, "")]
            for name, value in report.metrics.items()
        ],
        "defectTypes": _table(report.defect_types),
        "curves": {name: _points(zip(c.x, c.y, strict=True)) for name, c in report.curves.items()},
        "intervals": {
            "defective": _intervals(defective),
            "good": _intervals(len(report.entries) - defective),
        },
        "threshold": report.threshold,
        "guaranteed": report.guaranteed_false_alarm_rate,
        "calibrationGroups": report.calibration_groups,
        "tolerance": TOLERANCE,
        "calibrationScores": sorted(report.calibration_scores),
        "training": {
            phase: _points([*evenly(steps[:-1], _STEPS_SHOWN), *steps[-1:]])
            for phase, steps in report.training.items()
        },
        "settings": _settings(report.settings),
        "entries": [_entry(entry) for entry in report.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "defectType": entry.defect_type,
        "defective": entry.is_defective,
        "score": entry.score,
        "p": entry.p_value,
        "height": entry.height,
        "width": entry.width,
        # The highest peaks come first; thousands of specks would only fill the file.
        "regions": [
            [r.x, r.y, r.width, r.height, r.area, round(r.peak, 4)]
            for r in entry.regions[:_REGIONS_SHOWN]
        ],
        "found": len(entry.regions),
        "image": image_uri("jpeg", entry.image),
        "heatmap": image_uri(
            "png" if entry.heatmap.startswith(b"\x89PNG") else "jpeg", entry.heatmap
        ),
        "mask": None if entry.mask is None else image_uri("png", entry.mask),
    }


def _points(points: Iterable[tuple[float, float]]) -> list[list[float]]:
    """Return points with six digits, more than a screen has pixels for."""
    return [[float(f"{value:.6g}") for value in point] for point in points]


def _intervals(total: int) -> list[list[float]]:
    """Return the 95 % interval of each count that a threshold can give, 0 first; none of none."""
    return _points(Rate(count, total).interval for count in range(total + 1) if total)


def _table(rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "columns": columns,
        "rows": [[_cell(row.get(name)) for name in columns] for row in rows],
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _settings(values: Mapping[str, object], group: str = "") -> list[list[str]]:
    """Return [group, name, value] of nested settings, flattened."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _settings(value, f"{group}.{name}" if group else str(name))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            rows.append([group, str(name), text])
    return rows


def _json(values: Any) -> str:
    """Return JSON that may lie inside a script element: no "<" can end it or open a comment."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _legible(values: Any) -> Any:
    """Return plain values with all texts as ``shown``: a page draws any odd name as one sign."""
    if isinstance(values, str):
        return shown(values)
    if isinstance(values, dict):
        return {key: _legible(value) for key, value in values.items()}
    return [_legible(value) for value in values] if isinstance(values, list | tuple) else values
