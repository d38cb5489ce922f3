"""What a qualification predicts of real defects, against what becomes of them.

    python benchmarks/qualification.py BUNDLE DATA [--trials N] [--figure FILE.png]

Drawn defects give a curve for each family and contrast.  Each real defect with a mask has a size
(largest extent of its largest region), a contrast (how far its mean level is from that of a ring
around it) and, from its type, a family.  The curves say with which probability it is found, the
model whether it is.  Both are compared in bins of size and of contrast.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import destseg
from destseg.data.choice import evenly
from destseg.data.images import read_image, write_image
from destseg.data.masks import read_mask
from destseg.data.samples import Sample, test_samples
from destseg.qualification.detection import FamilyDetection, detect, sizes_for
from destseg.qualification.drawing import FAMILIES
from destseg.qualification.trials import measure_good
from destseg.rate import Rate
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "qualification.jsonl"
CONTRASTS = (10.0, 20.0, 40.0, 80.0)  # grey levels
LOOKS_LIKE = {
    **{"blowhole": "pit", "break": "missing piece", "crack": "crack", "fray": "missing piece"},
    **{"uneven": "stain", "pitting": "pit", "scratch": "scratch", "contamination": "particle"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("data", help="data set in MVTec layout")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--limit", type=int, default=10**9, help="defective images, evenly spread")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--figure", help="PNG file")
    parser.add_argument("--results", default=str(RESULTS))
    parsed = parser.parse_args()
    predictor = destseg.load(parsed.bundle, backend=parsed.backend)
    samples = test_samples(parsed.data)
    good = measure_good(
        predictor, evenly([s.path for s in samples if not s.is_defective], parsed.images)
    )
    data = predictor.bundle.settings.data
    sizes = sizes_for(good, None if data.tile else data.size)
    found = detect(predictor, good, sizes, CONTRASTS, parsed.trials, seed=0)
    defective = evenly([s for s in samples if s.mask and read_mask(s.mask).any()], parsed.limit)
    rows = []
    answers = predictor.stream([each.path for each in defective])
    for sample, answer in zip(defective, answers, strict=True):
        assert isinstance(answer, destseg.Result)
        size, contrast = size_and_contrast(sample)
        rows.append(
            {
                "defect_type": sample.defect_type,
                "size": size,
                "contrast": contrast,
                "predicted": predicted(found, str(sample.defect_type), size, contrast),
                "found": answer.is_defective,
            }
        )
    tables = {
        "defect_type": {
            name: compared([r for r in rows if r["defect_type"] == name])
            for name in dict.fromkeys(r["defect_type"] for r in rows)
        },
        "size": binned(rows, "size", list(sizes[1:-1])),
        "contrast": binned(rows, "contrast", [15, 30, 60]),
        "predicted": binned(rows, "predicted", [0.2, 0.4, 0.6, 0.8]),
        "all": {"all": compared(rows)},
    }
    for name, table in tables.items():
        for label, row in table.items():
            print(f"{name:12} {label:16} " + "  ".join(f"{k} {v}" for k, v in row.items()))
    if parsed.figure:
        write_image(Path(parsed.figure), figure(tables))
    result = {
        "data": Path(parsed.data).resolve().name,
        "commit": commit(),
        **environment("openvino", "numpy"),
        "trials": parsed.trials,
        "good": len(good.paths),
        "tables": tables,
    }
    with Path(parsed.results).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return 0


def size_and_contrast(sample: Sample) -> tuple[float, float]:
    """Return the largest extent in pixels, and the difference from a ring in grey levels."""
    assert sample.mask is not None
    mask = read_mask(sample.mask)
    image = read_image(sample.path).astype(float).mean(axis=2)
    if mask.shape != image.shape:
        size = (image.shape[1], image.shape[0])
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    region = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    hull = cv2.convexHull(np.argwhere(region).astype(np.int32)).reshape(-1, 2).astype(float)
    extent = float(np.linalg.norm(hull[:, None] - hull[None], axis=2).max()) + 1
    width = max(3, round(extent / 8))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    ring = (cv2.dilate(region.astype(np.uint8), kernel) > 0) & ~mask
    around = image[ring] if ring.any() else image[~region]
    return extent, abs(float(image[region].mean() - around.mean())) if around.size else 0.0


def predicted(
    found: tuple[FamilyDetection, ...], defect_type: str, size: float, contrast: float
) -> float:
    """Return the probability of detection; between contrasts it is interpolated."""
    families = [LOOKS_LIKE[defect_type]] if defect_type in LOOKS_LIKE else list(FAMILIES)
    curves = {(each.family, each.contrast): each.curve for each in found}
    contrasts = sorted({each.contrast for each in found})
    logs = np.log(contrasts)
    return float(
        np.mean(
            [
                np.interp(
                    math.log(max(contrast, 1e-3)),
                    logs,
                    [curves[family, each].probability(size) for each in contrasts],
                )
                for family in families
            ]
        )
    )


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was predicted on average, what happened, and how far that is apart."""
    rate = Rate(sum(row["found"] for row in rows), len(rows))
    mean = float(np.mean([row["predicted"] for row in rows]))
    low, high = rate.interval
    return {
        "defects": len(rows),
        "predicted": round(mean, 3),
        "found": round(rate.value, 3),
        "interval": [round(low, 3), round(high, 3)],
        "deviation": round(rate.value - mean, 3),
    }


def binned(rows: list[dict[str, Any]], key: str, edges: list[float]) -> dict[str, dict[str, Any]]:
    """Return the comparison in bins of a value."""
    bounds = [-math.inf, *edges, math.inf]
    table = {}
    for low, high in itertools.pairwise(bounds):
        inside = [row for row in rows if low <= row[key] < high]
        if inside:
            table[f"{low:.3g} to {high:.3g}"] = compared(inside)
    return table


def figure(tables: dict[str, dict[str, dict[str, Any]]]) -> NDArray[np.uint8]:
    """Return bars of what was predicted (hatched) and found (solid, with its interval)."""
    groups = [(f"{n}: {k}", row) for n, table in tables.items() for k, row in table.items()]
    sheet = np.full((40 + 34 * len(groups), 900, 3), 255, np.uint8)
    ink, font = (30, 30, 30), cv2.FONT_HERSHEY_SIMPLEX
    title = "upper bar: predicted from drawn defects; lower: found of real ones, 95 % interval"
    cv2.putText(sheet, title, (10, 22), font, 0.5, ink, 1, cv2.LINE_AA)
    for number, (label, row) in enumerate(groups):
        top = 40 + 34 * number
        text = f"{label} ({row['defects']})"
        cv2.putText(sheet, text, (10, top + 18), font, 0.45, ink, 1, cv2.LINE_AA)
        x = [330 + round(500 * v) for v in (0, row["predicted"], row["found"], *row["interval"])]
        cv2.rectangle(sheet, (x[0], top + 2), (x[1], top + 11), ink, 1)
        for k in range(x[0], x[1], 6):
            cv2.line(sheet, (k, top + 11), (min(k + 5, x[1]), top + 2), ink, 1)
        cv2.rectangle(sheet, (x[0], top + 15), (x[2], top + 25), (120, 120, 120), -1)
        cv2.line(sheet, (x[3], top + 20), (x[4], top + 20), ink, 2)
        cv2.putText(
            sheet, f"{row['deviation']:+.2f}", (845, top + 18), font, 0.45, ink, 1, cv2.LINE_AA
        )
    return sheet


if __name__ == "__main__":
    sys.exit(main())
