"""Seconds from starting a process to its first useful output.

    python benchmarks/startup.py BUNDLE IMAGE [--rounds N] [--results FILE]

``destseg --help``, and ``destseg predict`` of one image with each form of the model that lies in
the bundle: until the first line of output is there, and until the process has ended.  They take
turns, beside a Python that does nothing, whose share is nobody's to save.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from destseg.inference.backends import BACKENDS, installed
from destseg.inference.bundle import load_bundle
from destseg.inference.exports import find_exports
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "startup-cpu.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("image")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--no-warm-up", action="store_true", help="begin without a round that is not counted"
    )
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    program = [sys.executable, "-m", "destseg"]
    predict = [*program, "predict", parsed.bundle, parsed.image, "--backend"]
    exports = find_exports(load_bundle(parsed.bundle))
    commands = {
        "python": [sys.executable, "-c", "print()"],
        "destseg --help": [*program, "--help"],
        **{
            f"destseg predict, {name}": [*predict, name]
            for name in BACKENDS
            if (name == "torch" or name in exports) and installed(name)
        },
    }
    times: dict[str, list[Any]] = {name: [] for name in commands}
    for number in range(1 if parsed.no_warm_up else 0, parsed.rounds + 1):
        for name, command in commands.items():
            taken = run(command)
            if number:  # the first round brings the files into memory
                times[name].append(taken)
    rows = []
    for name in commands:
        first, whole = np.array(times[name]).T
        rows.append(
            {
                "command": name,
                "first_output_s": round(float(np.median(first)), 3),
                "first_output_range": [round(float(np.percentile(first, q)), 3) for q in (10, 90)],
                "whole_s": round(float(np.median(whole)), 3),
                "whole_range": [round(float(np.percentile(whole, q)), 3) for q in (10, 90)],
            }
        )
        print(rows[-1])
    result = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("torch", "onnxruntime", "openvino", "numpy"),
        "rounds": parsed.rounds,
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


def run(command: list[str]) -> tuple[float, float]:
    """Return the seconds until the first line of output and until the end."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        first = time.perf_counter() - begun
        process.stdout.read()
        code = process.wait()
    if code or not line:
        raise SystemExit(f"exit code {code}: {' '.join(command)}")
    return first, time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
