"""What a GPU does with this package, in one command; nothing is downloaded.

    python benchmarks/gpu.py data/bottle --device-name "one H100"
    python benchmarks/gpu.py data/bottle --device cpu --quick       # the same path, in two minutes

DATA is a data set in MVTec AD's layout.  In turn: the tests that need a GPU; whether two equal runs
give equal weights; a short training of both presets in fp32, bf16 and fp16 with steps a second, the
fraction of time that the GPU waits, and peak memory; both presets trained to the end and measured
on the test images; images a second through PyTorch and ONNX Runtime, from pixels in memory to maps
in memory.  Where ResNet-18's weights are missing, ``paper`` gets the teacher of ``fast``, and its
rows say so.  Each section is a process of its own; one that fails is a row with its error.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import commit, environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu.json"
PRESETS = ("fast", "paper")
BATCHES = (1, 8, 32)
# The quick run shows that every path works, not how well: a few steps of small images.
QUICK = {"image_size": 64, "denoise_steps": 3, "segment_steps": 3, "batch_size": 4}
SHORT_STEPS = 150


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", help="data set in MVTec AD's layout")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="a few steps only: does it work?")
    parser.add_argument("--rotation", type=float, default=5.0, help="in degrees (default: 5)")
    parser.add_argument("--quarter-turns", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", help="folder for the models (default: a temporary one)")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parser.add_argument("--only", nargs="+", help="some sections only: speed, or speed:fast,fp32")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.section:
        name, _, rest = parsed.section.partition(":")
        print(json.dumps(SECTIONS[name](parsed, *filter(None, rest.split(",")))))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        parsed.work = parsed.work or scratch
        result = measure(parsed)
    failed = [row for row in result["rows"] if "error" in row]
    print(f"written: {parsed.results}; {len(failed)} of {len(result['rows'])} sections failed")
    return 1 if failed else 0


def measure(parsed: argparse.Namespace) -> dict[str, Any]:
    """Run the sections one after another; what is done is written after each."""
    begun = time.monotonic()
    result: dict[str, Any] = {
        "device": parsed.device_name or parsed.device,
        "quick": parsed.quick,
        "commit": commit(),
        **environment("torch", "timm", "accelerate", "numpy"),
        "data": Path(parsed.data).resolve().name,
        "rows": [],
    }
    for section in plan(parsed):
        row = {"section": section, **in_own_process(section, parsed)}
        result["rows"].append(row)
        result["minutes"] = round((time.monotonic() - begun) / 60, 2)
        Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)
    return result


def plan(parsed: argparse.Namespace) -> list[str]:
    """Return the sections in order, what matters most first."""
    precisions = ["fp32", "bf16", *(["fp16"] if parsed.device == "cuda" else [])]
    sections = [
        *(f"train:{preset}" for preset in PRESETS),
        *(f"speed:{preset},{precision}" for preset in PRESETS for precision in precisions),
        "determinism",
        *(f"inference:{preset}" for preset in PRESETS),
        *(["tests"] if parsed.device == "cuda" else []),
    ]
    return [
        each
        for each in sections
        if not parsed.only or {each, each.partition(":")[0]} & set(parsed.only)
    ]


def in_own_process(section: str, parsed: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, parsed.data, "--section", section, "--work", parsed.work]
    words += ["--device", parsed.device, "--rotation", str(parsed.rotation)]
    words += ["--quarter-turns" if parsed.quarter_turns else "--no-quarter-turns"]
    words += ["--quick"] if parsed.quick else []
    begun = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # the hub's retries would be timed too
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    seconds = round(time.monotonic() - begun, 1)
    if done.returncode:
        return {"seconds": seconds, "error": done.stderr.strip()[-2000:]}
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def run_training(parsed: argparse.Namespace, name: str, preset: str, **changes: Any) -> Any:
    """Train into a folder of the work folder and return the predictor."""
    import destseg

    changes = {
        "rotation": parsed.rotation,
        "quarter_turns": parsed.quarter_turns,
        "device": parsed.device,
        **changes,
    }
    if parsed.quick:
        changes |= QUICK
    if preset == "paper" and not resnet_is_here():
        changes["teacher"] = destseg.Settings().model.teacher
    settings = destseg.Settings.from_preset(preset, log_every=50, **changes)
    return destseg.train(
        parsed.data, output=Path(parsed.work) / name, settings=settings, quiet=True, overwrite=True
    )


@functools.cache
def resnet_is_here() -> bool:
    from destseg.config import Settings
    from destseg.errors import WeightsError
    from destseg.model.teacher import pretrained_teacher

    try:
        pretrained_teacher(Settings.from_preset("paper").model.teacher, None, image_size=256)
    except WeightsError:
        return False
    return True


def steps_per_second(folder: Path, batch: int) -> dict[str, float]:
    """Return the median over a phase's reports; the first of a phase has the warming up in it."""
    rates: dict[str, list[float]] = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("event") == "step":
            rates.setdefault(record["phase"], []).append(record["images_per_s"] / batch)
    return {phase: round(statistics.median(all_[1:] or all_), 2) for phase, all_ in rates.items()}


class Waiting:
    """Samples, ten times a second, how busy the driver says that the GPU was."""

    def __init__(self, device: str) -> None:
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True) if device == "cuda" else None

    def _run(self) -> None:
        import torch

        while not self._stop.wait(0.1):
            self._samples.append(torch.cuda.utilization())

    def __enter__(self) -> Waiting:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def fraction(self) -> float | None:
        """Of the samples between the first and the last at which it worked at all."""
        busy = [number for number, value in enumerate(self._samples) if value]
        if not busy:
            return None
        worked = self._samples[busy[0] : busy[-1] + 1]
        return round(1 - statistics.mean(worked) / 100, 3)


def speed(parsed: argparse.Namespace, preset: str, precision: str) -> dict[str, Any]:
    """Return steps a second, waiting and memory of a short training."""
    import torch

    steps = dict.fromkeys(("denoise_steps", "segment_steps"), SHORT_STEPS)
    with Waiting(parsed.device) as waiting:
        predictor = run_training(
            parsed, f"speed-{preset}-{precision}", preset, precision=precision, **steps
        )
    folder, settings = predictor.bundle.folder, predictor.bundle.settings
    gib = torch.cuda.max_memory_allocated() / 2**30 if parsed.device == "cuda" else None
    return {
        "preset": preset,
        "precision": precision,
        "teacher": settings.model.teacher,
        "batch_size": settings.training.batch_size,
        "steps_per_s": steps_per_second(folder, settings.training.batch_size),
        "gpu_waits": waiting.fraction,
        "peak_gib": None if gib is None else round(gib, 2),
    }


def train(parsed: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Return minutes and accuracy of a training to the end."""
    from destseg.data.samples import test_samples
    from destseg.evaluation.evaluate import evaluate

    begun = time.monotonic()
    predictor = run_training(parsed, f"train-{preset}", preset)
    minutes = (time.monotonic() - begun) / 60
    found = evaluate(predictor, test_samples(parsed.data)).to_json()
    settings = predictor.bundle.settings
    return {
        "preset": preset,
        "teacher": settings.model.teacher,
        "device_name": predictor.bundle.training["device"],
        "minutes": round(minutes, 2),
        "steps_per_s": steps_per_second(predictor.bundle.folder, settings.training.batch_size),
        "image_auroc": found["image"]["auroc"],
        **{f"pixel_{name}": found["pixel"][name] for name in ("auroc", "ap", "iap", "iap_90")},
        "aupro": found["pixel"]["aupro"],
        "false_alarms": found["false_alarms"],
        "misses": found["misses"],
    }


def determinism(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return whether two runs of each preset end with the same weights."""
    steps = dict.fromkeys(("denoise_steps", "segment_steps"), 20)
    equal = {}
    for preset in PRESETS:
        weights = {
            run_training(parsed, f"again-{number}", preset, **steps).bundle.weights_sha256
            for number in range(2)
        }
        equal[preset] = len(weights) == 1
    return {"equal_weights": equal}


def inference(parsed: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Return images a second of the trained model by runtime and batch."""
    import numpy as np

    from destseg.errors import DestsegError
    from destseg.exporting.export import export
    from destseg.inference.backends import Runtime, devices, installed, open_backend
    from destseg.inference.bundle import load_bundle

    bundle = load_bundle(Path(parsed.work) / f"train-{preset}")
    size = bundle.settings.data.size
    rates: dict[str, Any] = {}
    for name in ("torch", "onnx"):
        # Asked before the export, which takes longer than all that is timed here.
        if name == "onnx" and not (installed(name) and parsed.device in devices(name)):
            rates[name] = f"there is no ONNX Runtime here that knows {parsed.device}"
            continue
        try:
            if name == "onnx":
                export(bundle, "onnx")
            backend = open_backend(bundle, Runtime(name, parsed.device))
        except DestsegError as error:
            rates[name] = str(error)
            continue
        for batch in BATCHES:
            pixels = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
            seconds = [timed(backend, pixels) for _ in range(3 if parsed.quick else 60)]
            rates[f"{name}, batch {batch}"] = round(batch / statistics.median(seconds[1:]), 1)
    return {"preset": preset, "image_size": size, "images_per_s": rates}


def timed(backend: Callable[[Any], Any], pixels: Any) -> float:
    begun = time.perf_counter()
    backend(pixels)  # maps in memory: the device is done
    return time.perf_counter() - begun


def tests(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return what pytest says of the tests that need a GPU."""
    del parsed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-1000:])
    return {"summary": done.stdout.strip().splitlines()[-1]}


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "train": train,
    "speed": speed,
    "determinism": determinism,
    "inference": inference,
    "tests": tests,
}


if __name__ == "__main__":
    sys.exit(main())
