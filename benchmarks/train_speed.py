"""Training images per second of each phase, several sources or settings against each other.

    python benchmarks/train_speed.py NAME=SRC[:key=value,...] ... [--steps N] [--rounds N]
    python benchmarks/train_speed.py paper=src:preset=paper,precision=bf16 --device cuda --steps 50

Each NAME is a process of its own that imports destseg from the folder SRC (``src`` of this or of
another checkout) and changes settings by key (values are YAML); they take turns, a few steps each,
so that all see the same minutes of the machine.  Images are made up; what is timed is a whole
step as the loop does it: a batch made and prepared ahead, forward, backward, optimiser.  The
first is 1.0.  Each turn is repeated with one batch that is prepared: what that saves is
``input_share``, the part of a step that making and preparing costs; on a GPU, that it waits.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "train-speed-cpu.json"
PHASES = ("denoise", "segment")


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("candidates", nargs="+", metavar="NAME=SRC[:key=value,...]")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    import numpy as np

    from provenance import commit, environment

    names = [each.split("=", 1)[0] for each in parsed.candidates]
    seconds: dict[str, dict[str, list[Any]]] = {
        name: {p: [] for p in parsed.phases} for name in names
    }
    workers = {
        name: start(each.split("=", 1)[1], parsed)
        for name, each in zip(names, parsed.candidates, strict=True)
    }
    for phase in parsed.phases:
        for worker in workers.values():
            ask(worker, phase)  # warms up
        for number in range(parsed.rounds):
            for name, worker in workers.items():
                seconds[name][phase].append(ask(worker, "go"))
            print(f"{phase}: round {number + 1} of {parsed.rounds}", file=sys.stderr)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    rows: list[dict[str, Any]] = []
    for name, given in zip(names, parsed.candidates, strict=True):
        for phase in parsed.phases:
            images, mine, ready = np.array(seconds[name][phase]).T
            base_images, base, _ = np.array(seconds[names[0]][phase]).T
            rates = images / mine
            ratios = rates / (base_images / base)
            row = {
                "name": name,
                "settings": given.partition(":")[2],
                "phase": phase,
                "images_per_s": round(float(np.median(rates)), 2),
                "range": [round(float(np.percentile(rates, q)), 2) for q in (10, 90)],
                "ratio": round(float(np.median(ratios)), 3),
                "ratio_range": [round(float(np.percentile(ratios, q)), 3) for q in (10, 90)],
                "steps_per_s": round(float(np.median(parsed.steps / mine)), 2),
                "input_share": round(float(np.median(1 - ready / mine)), 3),
            }
            print(row)
            rows.append(row)
    result = {
        "device": parsed.device_name or parsed.device,
        "commit": commit(),
        **environment("torch", "timm", "numpy"),
        "threads": parsed.threads,
        "steps_a_turn": parsed.steps,
        "rounds": parsed.rounds,
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


def start(source: str, parsed: argparse.Namespace) -> Any:
    """Return a worker, which waits for the name of a phase."""
    folder, _, changes = source.partition(":")
    task = {"changes": changes}
    task |= {name: getattr(parsed, name) for name in ("steps", "threads", "device")}
    environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": str(parsed.threads)}
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", json.dumps(task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ask(worker: Any, word: str) -> Any:
    """Return a worker's answer: what a turn took, or that it is ready for those of a phase."""
    worker.stdin.write(f"{word}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def work(task: dict[str, Any]) -> int:
    import numpy as np
    import torch
    import yaml

    from destseg.config import Settings
    from destseg.model.destseg import build_model
    from destseg.synthesis.batches import Batches
    from destseg.training.ahead import prepared
    from destseg.training.phases import build_optimizer, freeze_all_but, phases_to_learn

    torch.set_num_threads(task["threads"])
    device = torch.device(task["device"])
    pairs = (pair.split("=") for pair in task["changes"].split(",") if pair)
    changes = {name: yaml.safe_load(value) for name, value in pairs}
    settings = Settings.from_preset(changes.pop("preset", "fast"), **changes)
    torch.manual_seed(0)
    model = build_model(settings.model).to(device, memory_format=torch.channels_last)
    phases = {phase.name: phase for phase in phases_to_learn(model, settings)}
    random = np.random.default_rng(0)
    size = settings.data.size
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(32)]
    batches = Batches(
        images,  # type: ignore[arg-type]  # all that it needs is a length and an index
        torch.randint(0, 256, (64, 3, *size), dtype=torch.uint8),
        rotation=5.0,
        quarter_turns=True,
        synthesis=settings.synthesis,
        batch_size=settings.training.batch_size,
        seed=0,
        device=device,
    )

    def precision() -> torch.autocast:
        half = settings.training.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16, half)

    def steps(inputs: Iterator[Any]) -> float:
        begun = time.perf_counter()
        for each in inputs:
            with precision():
                loss = phase(*each)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    held = contextlib.ExitStack()
    count = task["steps"]
    for word in map(str.strip, sys.stdin):
        if word in phases:
            phase = phases[word]
            freeze_all_but(phase)
            optimizer = build_optimizer(phase, settings.training)
            held.close()  # the stream of the phase before
            stream = held.enter_context(prepared(phase, batches, range(10**6), device, precision))
            made = next(stream)
            steps(itertools.islice(stream, 2))
            print(json.dumps("ready"), flush=True)
        else:
            streamed = steps(itertools.islice(stream, count))
            ready = steps(itertools.repeat(made, count))
            print([count * settings.training.batch_size, streamed, ready], flush=True)
    os._exit(0)  # the stream's thread is in the middle of a batch that nobody wants


if __name__ == "__main__":
    sys.exit(main())
