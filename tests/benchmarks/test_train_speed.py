"""The training benchmark, run whole on small images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from destseg.phases import PHASES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows_of_each_phase_with_ratios_to_the_first(tmp_path):
    results = tmp_path / "results.json"
    small = "image_size=64,batch_size=2,head_width=8,student_width=8"
    one = f"{ROOT / 'src'}:{small}"
    options = f"--steps 2 --rounds 3 --threads 1 --results {results}".split()
    script = ROOT / "benchmarks" / "train_speed.py"
    subprocess.run(
        [sys.executable, script, f"one={one}", f"wide={one},head_width=256", *options],
        check=True,
        capture_output=True,
        timeout=300,
    )
    rows = {(r["name"], r["phase"]): r for r in json.loads(results.read_text())["rows"]}
    assert set(rows) == {(n, p) for n in ("one", "wide") for p in PHASES}
    for row in rows.values():
        assert row["images_per_s"] == pytest.approx(2 * row["steps_per_s"], rel=0.01)
        assert row["input_share"] < 1
    assert rows["one", "segment"]["ratio"] == 1
    # A head of 32 times the width costs more, where the head is what learns.
    assert rows["wide", "segment"]["ratio"] < 0.9
