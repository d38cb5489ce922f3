"""Crashes on a cluster of two nodes, small: a worker, the driver and a node go away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "batch.py"


@pytest.mark.slow
@pytest.mark.ray
def test_every_image_is_once_in_the_results_after_crashes(quantisable_bundle, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    results = tmp_path / "results.json"
    words = ["crash", quantisable_bundle.folder, "--images", "320", "--side", "48"]
    words += ["--results", results]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(results.read_text(encoding="utf-8"))["crash"]
    assert measured["every_image_once"]
    assert (measured["rows"], measured["damaged"], measured["partitions"]) == (320, 3, 20)
    assert len(measured["crashes"]) == 3
    assert 4 <= measured["partitions_kept_by_the_restart"] < 20
    assert measured["partitions_repeated_by_the_restart"] == 0
