"""The report's page: its parts put together, and its data as one block of JSON.

The page is ``page.html`` with ``page.css``, ``charts.js`` and ``page.js`` put into it; the data
follow as JSON, so nothing of a data set is ever read as markup.  It needs no network, and its
content security policy forbids any.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from destseg.data.paths import shown
from destseg.inference.calibration import TOLERANCE

if TYPE_CHECKING:
    from destseg.evaluation.report import Entry, Report

_REGIONS_SHOWN = 50
_CURVE_POINTS = 400


def render(report: Report) -> str:
    """Return the whole page as HTML that refers to nothing outside of itself."""
    style = part("page.css")
    script = part("charts.js") + part("page.js")
    parts = {
        "title": ascii_text(html.escape(report.title)),
        # Only these two run, whatever a name in the data may try.
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'; script-src '{digest(script)}'",
        "style": style,
        "script": script,
        "data": _json(_legible(_payload(report))),
    }
    # One pass, so that what is put in is not searched for places again.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], part("page.html"))


def _payload(report: Report) -> dict[str, Any]:
    curves = {**_image_curves(report.entries), **report.curves}
    return {
        "title": report.title,
        "facts": list(report.facts.items()),
        "metrics": [
            [name, _share(value), report.reasons.get(name, "")]
            for name, value in report.metrics.items()
        ],
        "defectTypes": _table(report.defect_types),
        "curves": {name: _thinned(x, y) for name, (x, y) in curves.items()},
        "threshold": report.threshold,
        "guaranteed": report.guaranteed_false_alarm_rate,
        "tolerance": TOLERANCE,
        "calibrationScores": sorted(report.calibration_scores),
        "training": {
            phase: _thinned([step for step, _ in points], [loss for _, loss in points])
            for phase, points in report.training.items()
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
        "image": _uri("jpeg", entry.image),
        "heatmap": _uri("png" if entry.heatmap.startswith(b"\x89PNG") else "jpeg", entry.heatmap),
        "mask": None if entry.mask is None else _uri("png", entry.mask),
    }


def _image_curves(
    entries: Sequence[Entry],
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return ROC and PR points of the image scores, none where a class is absent."""
    defective = np.array([entry.is_defective for entry in entries], dtype=bool)
    scores = np.array([entry.score for entry in entries], dtype=np.float64)
    positives, negatives = int(defective.sum()), int((~defective).sum())
    if positives == 0 or negatives == 0:
        return {}
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(defective[order])[last_of_equals]
    alarms = np.cumsum(~defective[order])[last_of_equals]
    recall, precision = found / positives, found / (found + alarms)
    return {
        "image ROC": ([0.0, *(alarms / negatives).tolist()], [0.0, *recall.tolist()]),
        "image PR": ([0.0, *recall.tolist()], [float(precision[0]), *precision.tolist()]),
    }


def _thinned(x: Sequence[float], y: Sequence[float]) -> list[list[float]]:
    """Return [x, y] of at most 401 points, evenly along the curve, where its shape is kept."""
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) > _CURVE_POINTS:
        steps = np.diff(points, axis=0) / np.maximum(np.ptp(points, axis=0), 1e-12)
        along = np.append(0.0, np.cumsum(np.hypot(*steps.T)))
        places = np.searchsorted(along, np.linspace(0, along[-1], _CURVE_POINTS))
        points = points[np.unique(np.append(places, len(points) - 1))]
    return [[float(f"{value:.6g}") for value in point] for point in points.tolist()]


def _table(rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "columns": columns,
        "rows": [[_cell(row.get(name)) for name in columns] for row in rows],
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        share = _share(value)
        return "–" if share is None else f"{100 * share:.1f}"
    return "–" if value is None else str(value)


def _share(value: float | None) -> float | None:
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


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def part(name: str) -> str:
    """Return a file that pages are made of."""
    return resources.files("destseg.evaluation").joinpath(name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Return what a content security policy knows a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def ascii_text(text: str) -> str:
    """Return HTML that any encoding can write."""
    return shown(text).encode("ascii", "xmlcharrefreplace").decode()
