"""Images per second of one predictor that several threads share, beside one thread alone.

    python benchmarks/threads.py BUNDLE [--rounds N] [--callers N ...] [--results FILE]

Every form that lies in the bundle, and PyTorch, on images in memory that are given one at a time.
All is in one process and takes turns, a few images each, so that all see the same minutes of the
machine.  ``ratio`` is the median over the rounds of the rate of so many callers over that of one,
with the 10th and 90th percentile; ``processor_ms`` is the processor time of an image in all
threads, which other programs change less than the rate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from destseg.inference.backends import BACKENDS, installed
from destseg.inference.bundle import load_bundle
from destseg.inference.exports import find_exports
from destseg.inference.predictor import Predictor, load
from provenance import commit, environment, processor

RESULTS = Path(__file__).parent / "results" / "threads-cpu.json"
IMAGES = 16  # a turn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--callers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[0, 1], help="of the runtime; 0: its own choice"
    )
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    bundle = load_bundle(parsed.bundle)
    there = ["torch", *find_exports(bundle)]
    predictors = {
        (name, threads): load(parsed.bundle, backend=name, device="cpu", threads=threads or None)
        for threads in parsed.threads
        for name in BACKENDS
        if name in there and installed(name)
    }
    callers = [1, *parsed.callers]
    size = bundle.settings.data.size
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *size, 3), dtype=np.uint8)
    times = measure(predictors, images, callers, parsed.rounds)
    rows = [row(*key, count, times) for key in predictors for count in callers]
    for each in rows:
        print(
            f"{each['backend']:13} threads {each['threads'] or 'own':>3}  callers "
            f"{each['callers']}: {each['images_per_s']:8.2f}/s  {each['ratio']:5.2f}x "
            f"({each['ratio_range'][0]:.2f} to {each['ratio_range'][1]:.2f})  "
            f"{each['processor_ms']:7.2f} ms of processor"
        )
    result = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("torch", "onnxruntime", "openvino", "numpy"),
        "processor": processor(),
        "rounds": parsed.rounds,
        "image_size": size,
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


Key = tuple[str, int]


def measure(
    predictors: dict[Key, Predictor], images: Any, callers: list[int], rounds: int
) -> dict[tuple[str, int, int], list[tuple[float, float]]]:
    """Return for each (backend, threads, callers) seconds and processor seconds of each round."""
    pools = {count: ThreadPoolExecutor(count) for count in callers if count > 1}
    times: dict[tuple[str, int, int], list[tuple[float, float]]] = {
        (*key, count): [] for key in predictors for count in callers
    }
    for number in range(rounds + 1):
        for key, predictor in predictors.items():
            for count in callers:
                taken = turn(predictor, images, pools.get(count))
                if number:  # the first round warms up
                    times[(*key, count)].append(taken)
        print(f"round {number} of {rounds}", file=sys.stderr)
    for pool in pools.values():
        pool.shutdown()
    return times


def turn(predictor: Predictor, images: Any, pool: ThreadPoolExecutor | None) -> tuple[float, float]:
    call: Callable[..., Any] = map if pool is None else pool.map
    processor_before, before = time.process_time(), time.perf_counter()
    list(call(predictor.predict, images))
    return time.perf_counter() - before, time.process_time() - processor_before


def row(name: str, threads: int, count: int, times: dict[Any, Any]) -> dict[str, Any]:
    mine, used = np.array(times[name, threads, count]).T
    alone = np.array(times[name, threads, 1])[:, 0]
    ratios = alone / mine
    return {
        "backend": name,
        "threads": threads or None,
        "callers": count,
        "images_per_s": round(IMAGES / float(np.median(mine)), 2),
        "ratio": round(float(np.median(ratios)), 2),
        "ratio_range": [round(float(np.percentile(ratios, q)), 2) for q in (10, 90)],
        "processor_ms": round(1e3 * float(np.median(used)) / IMAGES, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
