"""Minutes from good images to a finished bundle, of several sources or settings against each other.

    python benchmarks/train_minutes.py DATA NAME=SRC[:key=value,...] ... [--steps N] [--rounds N]

Each NAME trains with destseg from the folder SRC (``src`` of this or of another checkout), its
defaults changed by the flags ``--key value``.  They take turns: every run does N steps of each
phase, all else as a user's run does it, with the default number of threads.  The minutes are what
its own number of steps would take at the rates that it logged, and all of the run beside steps as
it was.  The first is 1.0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from provenance import commit, environment, processor

RESULTS = Path(__file__).parent / "results" / "train-minutes-cpu.json"
# Of another checkout, whose names may differ: asked in a process of its own.
ASK = """
import json, sys, destseg
settings = destseg.Settings.from_preset("fast", **json.loads(sys.argv[1]))
print(json.dumps([settings.steps_of_phases(), settings.training.batch_size]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", help="data set in MVTec AD's layout")
    parser.add_argument("candidates", nargs="+", metavar="NAME=SRC[:key=value,...]")
    parser.add_argument("--steps", type=int, default=20, help="steps of each phase in a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", default=str(RESULTS))
    parsed = parser.parse_args()
    candidates = [Candidate(given) for given in parsed.candidates]
    for number in range(parsed.rounds):
        for candidate in candidates:
            candidate.run(parsed.data, parsed.steps)
        print(f"round {number + 1} of {parsed.rounds}", file=sys.stderr)
    rows = [candidate.row(candidates[0]) for candidate in candidates]
    result = {
        "processor": processor(),
        "commit": commit(),
        **environment("torch"),
        "data": Path(parsed.data).resolve().name,
        "steps": parsed.steps,
        "rounds": parsed.rounds,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


class Candidate:
    """A source with settings, and what its runs took."""

    def __init__(self, given: str) -> None:
        self.name, _, source = given.partition("=")
        folder, _, changes = source.partition(":")
        self.given = changes
        self.changes = dict(pair.split("=") for pair in changes.split(",") if pair)
        self.environment = {**os.environ, "PYTHONPATH": str(Path(folder).resolve())}
        typed = {key: json.loads(value) for key, value in self.changes.items()}
        said = self._python("-c", ASK, json.dumps(typed))
        self.steps, self.batch = json.loads(said)
        self.minutes: list[float] = []
        self.rates: list[dict[str, float]] = []

    def run(self, data: str, steps: int) -> None:
        """Train for some steps of each phase and note what it took."""
        changes = {**self.changes, **{f"{phase}_steps": str(steps) for phase in self.steps}}
        flags = [word for key, value in changes.items() for word in (flag(key), value)]
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            self._python("-m", "destseg", "train", data, "--output", f"{folder}/m", *flags)
            whole = time.monotonic() - begun
            log = Path(folder, "m", "log.jsonl").read_text(encoding="utf-8")
        told = [each for each in map(json.loads, log.splitlines()) if each["event"] == "step"]
        rates: dict[str, list[float]] = {}
        for each in told:
            # Older logs have another word for images.
            (rate,) = (value for key, value in each.items() if key.endswith("_per_s"))
            rates.setdefault(each["phase"], []).append(rate)
        # The first steps of a phase warm up: their lines count as what was not learning.
        typical = {phase: float(np.median(some[1:] or some)) for phase, some in rates.items()}
        learning = sum(steps * self.batch / typical[phase] for phase in self.steps)
        wanted = sum(count * self.batch / typical[phase] for phase, count in self.steps.items())
        self.rates.append(typical)
        self.minutes.append((whole - learning + wanted) / 60)

    def row(self, base: Candidate) -> dict[str, Any]:
        """Return what the runs took, beside those of another in the same rounds."""
        ratios = np.array(base.minutes) / np.array(self.minutes)
        return {
            "name": self.name,
            "settings": self.given,
            "steps": self.steps,
            "batch": self.batch,
            "minutes": round(float(np.median(self.minutes)), 1),
            "minutes_range": [round(float(f(self.minutes)), 1) for f in (np.min, np.max)],
            "times_as_fast": round(float(np.median(ratios)), 2),
            "times_as_fast_range": [round(float(f(ratios)), 2) for f in (np.min, np.max)],
            "images_per_s": {
                phase: round(float(np.median([each[phase] for each in self.rates])), 2)
                for phase in self.steps
            },
        }

    def _python(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        return done.stdout


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
