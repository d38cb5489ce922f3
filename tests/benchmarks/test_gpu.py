"""The GPU's benchmark, on a processor: its path works, and its figures are those of the log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_category

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_quick_run_on_a_processor_gives_a_row_with_the_logs_rates(tmp_path):
    data, results, work = write_category(tmp_path / "data", 0), tmp_path / "r.json", tmp_path / "w"
    words = [sys.executable, BENCHMARKS / "gpu.py", data, "--device", "cpu", "--quick"]
    words += ["--only", "speed:fast,fp32", "--work", work, "--results", results]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["section"]: row for row in json.loads(results.read_text())["rows"]}
    assert list(rows) == ["speed:fast,fp32"]
    row = rows["speed:fast,fp32"]
    logged = [
        json.loads(line) for line in (work / "speed-fast-fp32/log.jsonl").read_text().splitlines()
    ]
    rates = {
        line["phase"]: line["images_per_s"] / row["batch_size"]
        for line in logged
        if line["event"] == "step"
    }
    assert row["steps_per_s"] == pytest.approx(rates, abs=0.01)
    assert row["gpu_waits"] is None
