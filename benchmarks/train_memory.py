"""Peak memory and time a step of training with and without what saves memory.

    python benchmarks/train_memory.py GOOD [--rounds N] [--steps N] [--case NAME=FLAGS ...]
                                      [--common FLAGS] [--results FILE]

Each case is ``destseg train GOOD`` with its flags and a few steps of each phase, in a process of
its own: data, anomalies, checkpoints and the calibration images' scores count as they would.
Peak is of the whole process.  Cases take turns over the rounds; ``ratio`` is the time of an image
over that of the first case of the same side.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from destseg.phases import PHASES
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "train-memory-cpu.json"
SAVING = "--gradient-checkpointing"
BF16 = "--precision bf16"
TILES = "--image-size 1024 --tile"
CASES = [
    "fp32=",
    f"checkpointing={SAVING}",
    f"bf16={BF16}",
    f"bf16 and checkpointing={BF16} {SAVING}",
    f"tiles of 1024, batch 4={TILES} --batch-size 4",
    f"tiles of 1024, batch 8={TILES} --batch-size 8",
    f"tiles of 1024, batch 8, checkpointing={TILES} --batch-size 8 {SAVING}",
    f"tiles of 1024, batch 8, both={TILES} --batch-size 8 {BF16} {SAVING}",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("good", help="folder of good images")
    parser.add_argument("--case", action="append", metavar="NAME=FLAGS", help="instead of ours")
    parser.add_argument("--common", default="", help="flags of destseg train for all cases")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="of each phase; the first is left out")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    cases = dict(case.partition("=")[::2] for case in parsed.case or CASES)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for number in range(parsed.rounds):
        for name, flags in cases.items():
            turns[name].append(train(parsed, shlex.split(f"{parsed.common} {flags}")))
            print(f"round {number + 1} of {parsed.rounds}: {name}: {turns[name][-1]}")
    rows = [row(name, cases, turns) for name in cases]
    result = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("torch", "timm", "numpy"),
        "steps": parsed.steps,
        "rounds": parsed.rounds,
        "common": parsed.common,
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


def train(parsed: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """Train a few steps; return the peak in GiB and the seconds an image of each phase."""
    steps = str(parsed.steps)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "destseg", "train", parsed.good, "--output", f"{folder}/m"]
        command += [word for name in PHASES for word in (f"--{name}-steps", steps)]
        command += ["--log-every", "1", *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{shlex.join(command)}\n{said}")
        written = Path(folder, "m", "log.jsonl").read_text(encoding="utf-8")
        log = [json.loads(line) for line in written.splitlines()]
    steps_of = [each for each in log if each["event"] == "step"]
    taken: dict[str, Any] = {"peak_gib": round(used.ru_maxrss / 2**20, 2)}
    for phase in dict.fromkeys(each["phase"] for each in steps_of):
        rates = [each["images_per_s"] for each in steps_of if each["phase"] == phase]
        taken[phase] = float(np.median([1 / rate for rate in rates[1:]]))
    return taken


def row(name: str, cases: dict[str, str], turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    base = next(other for other in cases if (TILES in cases[other]) == (TILES in cases[name]))
    peaks = [turn["peak_gib"] for turn in turns[name]]
    made: dict[str, Any] = {
        "name": name,
        "flags": cases[name].strip(),
        "peak_gib": max(peaks),
        "peak_range": [min(peaks), max(peaks)],
    }
    for phase in PHASES:
        mine, its = (np.array([turn[phase] for turn in turns[each]]) for each in (name, base))
        made[f"{phase}_seconds_an_image"] = round(float(np.median(mine)), 4)
        made[f"{phase}_ratio"] = round(float(np.median(mine / its)), 2)
        made[f"{phase}_ratio_range"] = [round(float(f(mine / its)), 2) for f in (np.min, np.max)]
    return made


if __name__ == "__main__":
    sys.exit(main())
