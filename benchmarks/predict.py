"""Images per second and latency of every preset, backend, precision and number of threads.

    python benchmarks/predict.py --fast BUNDLE [--paper BUNDLE] [--rounds N] [--results FILE]

Pixels in, maps out; reading files is left out.  Each configuration is a process of its own that
stays open; they take turns, a few batches each, so that all see the same minutes of the machine.
``ratio`` is the median over the rounds of the configuration's images per second over those of
``paper`` in eager PyTorch with the same threads and batch.  A bundle is measured in the forms that
lie in it (destseg export, destseg quantize) and in PyTorch.  Without --paper a model of its
architecture with random weights is made and exported: the time does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from destseg.inference.backends import BACKENDS, Runtime, installed, open_backend
from destseg.inference.bundle import load_bundle
from destseg.inference.exports import find_exports
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "predict-cpu.json"
BASE = ("paper", "torch")
WARM_UP = 3


@dataclass(frozen=True)
class Configuration:
    """What is measured as one row."""

    bundle: str
    preset: str
    backend: str
    threads: int
    batch: int

    @property
    def images_a_turn(self) -> int:
        """Of the slow ones fewer, so that a round lasts seconds."""
        return self.batch * (1 if self.preset == "paper" else max(1, 8 // self.batch))


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(Configuration(**json.loads(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--fast", required=True, help="bundle of the preset fast")
    parser.add_argument("--paper", help="bundle of the preset paper (default: random weights)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    bundles = {
        "paper": parsed.paper or random_paper(Path("runs/random-paper")),
        "fast": parsed.fast,
    }
    configurations = [
        Configuration(str(bundle), preset, backend, threads, batch)
        for batch in parsed.batches
        for threads in parsed.threads
        for preset, bundle in bundles.items()
        for backend in forms(bundle)
    ]
    times = measure(configurations, parsed.rounds)
    rows = [row(each, times, configurations) for each in configurations]
    for each in rows:
        print(
            f"{each['preset']:6} {each['backend']:9} {each['precision']:5} "
            f"threads {each['threads']} batch {each['batch']}: {each['images_per_s']:8.2f}/s  "
            f"p50 {each['p50_ms']:7.1f} ms  p99 {each['p99_ms']:7.1f} ms  {each['ratio']:6.2f}x "
            f"({each['ratio_range'][0]:.2f} to {each['ratio_range'][1]:.2f})"
        )
    result = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("torch", "onnxruntime", "openvino", "nncf", "timm", "numpy"),
        "rounds": parsed.rounds,
        "image_size": load_bundle(parsed.fast).settings.data.image_size,
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


def forms(bundle: str | Path) -> list[str]:
    there = ["torch", *find_exports(load_bundle(bundle))]
    return [name for name in BACKENDS if name in there and installed(name)]


def measure(configurations: list[Configuration], rounds: int) -> dict[Configuration, list[Any]]:
    """Return for each configuration a list a round of the seconds of its batches."""
    workers = {}
    for each in configurations:
        words = [sys.executable, __file__, "--worker", json.dumps(vars(each))]
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers[each] = subprocess.Popen(words, **pipe)
        assert workers[each].stdout.readline() == "ready\n", each
    times: dict[Configuration, list[Any]] = {each: [] for each in configurations}
    for number in range(rounds):
        for each, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            times[each].append(json.loads(worker.stdout.readline()))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return times


def work(configuration: Configuration) -> int:
    bundle = load_bundle(configuration.bundle)
    runtime = Runtime(configuration.backend, "cpu", configuration.threads)
    backend = open_backend(bundle, runtime)
    shape = (configuration.batch, *bundle.settings.data.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(WARM_UP):
        backend(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(configuration.images_a_turn // configuration.batch):
            begun = time.perf_counter()
            backend(images)
            seconds.append(time.perf_counter() - begun)
        print(json.dumps(seconds), flush=True)
    return 0


def row(
    each: Configuration,
    times: dict[Configuration, list[Any]],
    configurations: list[Configuration],
) -> dict[str, Any]:
    base = next(
        other
        for other in configurations
        if (other.preset, other.backend) == BASE
        and (other.threads, other.batch) == (each.threads, each.batch)
    )
    mine = np.array([np.median(turn) for turn in times[each]])
    its = np.array([np.median(turn) for turn in times[base]])
    ratios = its / mine
    single = np.concatenate([np.asarray(turn) for turn in times[each]])
    backend, _, precision = each.backend.partition("-")
    return {
        "preset": each.preset,
        "backend": backend,
        "precision": precision or "fp32",
        "threads": each.threads,
        "batch": each.batch,
        "images_per_s": round(each.batch / float(np.median(single)), 2),
        "p50_ms": round(1e3 * float(np.percentile(single, 50)), 2),
        "p99_ms": round(1e3 * float(np.percentile(single, 99)), 2),
        "ratio": round(float(np.median(ratios)), 2),
        "ratio_range": [round(float(np.percentile(ratios, q)), 2) for q in (10, 90)],
        "batches": len(single),
    }


def random_paper(folder: Path) -> Path:
    """Return a bundle of the paper's architecture with random weights, exported to both forms."""
    import torch

    from destseg.config import Settings
    from destseg.exporting.export import export
    from destseg.inference.bundle import save_bundle, save_calibration
    from destseg.inference.calibration import Calibration
    from destseg.model.destseg import build_model

    if (folder / "manifest.json").exists():
        return folder
    settings = Settings.from_preset("paper")
    torch.manual_seed(0)
    weights = {k: v.numpy() for k, v in build_model(settings.model).state_dict().items()}
    saved = save_bundle(folder, settings, weights, {"note": "random weights"})
    calibration_images = Calibration.fit([0.5], [0.5], ["none"], settings, saved.weights_sha256)
    bundle = save_calibration(saved, calibration_images)
    for name in ("onnx", "openvino"):
        export(bundle, name, lambda step: print(step, file=sys.stderr))
    return folder


if __name__ == "__main__":
    sys.exit(main())
