"""The benchmark of threads, run whole on a model with random weights."""

import json
import sys
from pathlib import Path

import pytest

from conftest import load_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "threads.py"


@pytest.mark.slow
def test_every_form_is_measured_with_every_number_of_callers(
    quantisable_bundle, tmp_path, monkeypatch
):
    results = tmp_path / "r.json"
    words = ["--rounds", "2", "--callers", "3", "--threads", "1", "--results", results]
    # Here, where PyTorch is imported already.
    monkeypatch.syspath_prepend(SCRIPT.parent)
    words = [SCRIPT, quantisable_bundle.folder, *words]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    assert load_script(SCRIPT).main() == 0
    found = json.loads(results.read_text())
    assert [(row["backend"], row["threads"], row["callers"]) for row in found["rows"]] == [
        (backend, 1, callers) for backend in ("torch", "openvino", "onnx") for callers in (1, 3)
    ]
    for row in found["rows"]:
        low, high = row["ratio_range"]
        assert 0 < low <= row["ratio"] <= high
        assert row["images_per_s"] > 0
        assert row["processor_ms"] > 0
        if row["callers"] == 1:
            assert row["ratio"] == 1
