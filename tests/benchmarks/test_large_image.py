"""Memory of inspecting a large image, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "large_image.py"
SIDE = 8192


@pytest.mark.slow
def test_memory_is_that_of_the_image_and_its_map():
    # Decoding: PIL's four bytes a pixel and our three; then the map's four and the image's.
    pixels = 7 * SIDE**2 / 2**30
    # Regions that cover everything: the map, labels and what is above, nine bytes a pixel.
    worst = 9 * SIDE**2 / 2**30
    done = subprocess.run(
        [sys.executable, SCRIPT, "--side", str(SIDE), "--suffix", ".bmp"],
        check=True,
        capture_output=True,
        text=True,
    )
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [case["case"] for case in cases] == ["good", "spots", "everywhere"]
    assert [case["regions"] for case in cases] == [[0], [3], [1]]
    for case in cases:
        assert not case["torch_imported"]
        # 0.25 GiB for Python, its libraries and one band of whatever is being done.
        assert case["peak_gib"] < (worst if case["case"] == "everywhere" else pixels) + 0.25
