"""Time and memory of the pixel metrics, exact and bounded, beside torchmetrics and adeval.

    python benchmarks/metrics.py [--runs N] [--results FILE]

Every method gets the same maps, in a process of its own, and the methods take turns. Memory is the
peak above what the process held with its maps ready. torchmetrics gives AUROC and AP, adeval also
AUPRO; destseg gives these, F1max, IAP and IAP@90. Needs torchmetrics, and adeval without its own
dependencies: ``pip install --no-deps adeval``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.evaluation.pixels import pixel_metrics
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "metrics-cpu.json"
Pairs = list[tuple[NDArray[np.float32], NDArray[np.bool_]]]
# Maps, size of a side, maps that differ (the others repeat them).
SETS = {"83 x 256": (83, 256, 83), "16 x 1024": (16, 1024, 8)}


def pairs_of(name: str) -> Pairs:
    """Return sigmoids of smooth noise and of blurred, shifted defects; a quarter is good."""
    count, size, distinct = SETS[name]
    rng, pairs = np.random.default_rng(0), []
    for index in range(distinct):
        mask = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(1, 4) if index % 4 else 0):
            centre, axes = rng.integers(0, size, 2).tolist(), rng.integers(2, size // 8, 2).tolist()
            cv2.ellipse(mask, centre, axes, int(rng.integers(180)), 0, 360, 1, -1)
        noise = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 3) * 8
        signal = cv2.GaussianBlur(np.roll(mask, 2, axis=1).astype(np.float32), (0, 0), 4)
        logits = -6 + 1.5 * (noise + 8 * rng.uniform(0.2, 1) * signal)
        pairs.append(((1 / (1 + np.exp(-logits))).astype(np.float32), mask > 0))
    return [pairs[index % distinct] for index in range(count)]


def destseg_exact(pairs: Pairs) -> dict[str, float]:
    return _values(pixel_metrics(pairs))


def destseg_bounded(pairs: Pairs) -> dict[str, float]:
    return _values(pixel_metrics(pairs, exact=False))


def _values(metrics: object) -> dict[str, float]:
    return {name: value for name, value in vars(metrics).items() if isinstance(value, float)}


def torchmetrics_exact(pairs: Pairs) -> dict[str, float]:
    return _torchmetrics(pairs, None)


def torchmetrics_200_thresholds(pairs: Pairs) -> dict[str, float]:
    return _torchmetrics(pairs, 200)


def _torchmetrics(pairs: Pairs, thresholds: int | None) -> dict[str, float]:
    import torch
    from torchmetrics import MetricCollection
    from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

    # Both have the same state, which the collection keeps once.
    metrics = MetricCollection(
        {
            "auroc": BinaryAUROC(thresholds=thresholds),
            "ap": BinaryAveragePrecision(thresholds=thresholds),
        },
        compute_groups=[["auroc", "ap"]],
    )
    for anomaly_map, mask in pairs:
        metrics.update(torch.from_numpy(anomaly_map), torch.from_numpy(mask).long())
    return {name: float(value) for name, value in metrics.compute().items()}


def adeval_1000_strips(pairs: Pairs) -> dict[str, float]:
    from adeval import EvalAccumulator

    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # adeval 1.1.0 calls the name that numpy 2.4 no longer has
    counts = EvalAccumulator(0.0, 1.0)
    # Its summary also asks for image scores, of which there are none here.
    for anomaly_map, mask in pairs:
        counts.add_anomap(anomaly_map, mask.view(np.uint8))
    pixels = counts._pixel_acc
    return {
        "auroc": counts._auroc(pixels),
        "ap": counts._aupr(pixels),
        "aupro": counts._aupro(),
    }


METHODS: dict[str, Callable[[Pairs], dict[str, float]]] = {
    "destseg exact": destseg_exact,
    "destseg bounded": destseg_bounded,
    "torchmetrics exact": torchmetrics_exact,
    "torchmetrics 200 thresholds": torchmetrics_200_thresholds,
    "adeval 1000 strips": adeval_1000_strips,
}


def measured_here(method: str, name: str) -> dict[str, object]:
    pairs = pairs_of(name)
    call = METHODS[method]
    call([(maps[:64, :64].copy(), mask[:64, :64].copy()) for maps, mask in pairs[:4]])  # imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    begun = time.perf_counter()
    values = call(pairs)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_mib": (_status("VmHWM") - before) / 1024, "values": values}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def rows_of(name: str, count: int) -> list[dict[str, object]]:
    runs: dict[str, list[dict[str, object]]] = {method: [] for method in METHODS}
    failures: dict[str, str] = {}
    for _ in range(count):
        for method in METHODS:
            answer = subprocess.run(
                [sys.executable, __file__, "--one", method, name],
                capture_output=True,
                text=True,
                check=False,
            )
            if answer.returncode:
                # A library that cannot do a set is told as that, and the others go on.
                failures[method] = (answer.stderr.strip().splitlines() or ["no message"])[-1]
                print(name, method, "failed:", failures[method], flush=True)
                continue
            runs[method].append(json.loads(answer.stdout))
            print(name, method, f"{runs[method][-1]['seconds']:.3f} s", flush=True)
    exact = runs["destseg exact"][0]["values"]
    rows = [row_of(method, name, each, exact) for method, each in runs.items() if each]
    return rows + [{"method": method, "failed": why} for method, why in failures.items()]


def row_of(
    method: str, name: str, runs: list[dict[str, object]], exact: dict[str, float]
) -> dict[str, object]:
    seconds = [run["seconds"] for run in runs]
    values = runs[0]["values"]
    return {
        "method": method,
        "runs": len(runs),
        "seconds_median": round(float(np.median(seconds)), 4),
        "seconds_range": [round(min(seconds), 4), round(max(seconds), 4)],
        "ms_per_map": round(1e3 * float(np.median(seconds)) / SETS[name][0], 2),
        "peak_mib": round(float(np.median([run["peak_mib"] for run in runs])), 1),
        "values": {key: round(value, 8) for key, value in values.items()},
        "difference_from_exact": {
            key: float(f"{abs(value - exact[key]):.1e}") for key, value in values.items()
        },
    }


def device() -> str:
    """Cores and widest vector instructions; no model or host name."""
    found = environment()
    flags = next(
        (
            line.split()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        ),
        [],
    )
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    machine = str(found["machine"]).replace("_", "-")
    return f"{found['cores']} cores {machine}" + (f", {vectors}" if vectors else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--results", default=str(RESULTS), help="file that is written")
    parser.add_argument("--runs", type=int, default=5, help="of each method on each set")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SET"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        print(json.dumps(measured_here(*parsed.one)))
        return 0
    packages = ("numpy", "opencv-python-headless", "torch", "torchmetrics", "ADEval")
    answer = {
        "device": device(),
        "commit": commit(),
        **environment(*packages),
        # Near 0 on a quiet machine; with other work on the cores, seconds are upper bounds.
        "load_average_before": round(os.getloadavg()[0], 1),
        "sets": {name: rows_of(name, parsed.runs) for name in SETS},
    }
    path = Path(parsed.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
