"""The training benchmark, run whole on small images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_category
from destseg.phases import PHASES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows_of_each_phase_with_ratios_to_the_first(tmp_path):
    results = tmp_path / "results.json"
    small = "batch_size=2,head_width=8,student_width=8,image_size=64"
    one = f"{ROOT / 'src'}:{small}"
    options = f"--steps 2 --rounds 3 --threads 1 --results {results}".split()
    script = ROOT / "benchmarks" / "train_speed.py"
    subprocess.run(
        [sys.executable, script, f"one={one}", f"large={one},image_size=256", *options],
        check=True,
        capture_output=True,
        timeout=300,
    )
    rows = {(r["name"], r["phase"]): r for r in json.loads(results.read_text())["rows"]}
    assert set(rows) == {(n, p) for n in ("one", "large") for p in PHASES}
    for row in rows.values():
        assert row["images_per_s"] == pytest.approx(2 * row["steps_per_s"], rel=0.01)
        assert row["input_share"] < 1
    assert rows["one", "segment"]["ratio"] == 1
    # 16 times the pixels: 0.3 and 0.5 here, as what is made ahead costs most of so small a step.
    assert all(rows["large", phase]["ratio"] < 0.9 for phase in PHASES)


@pytest.mark.slow
def test_minutes_of_a_whole_training_with_ratios_to_the_first(tmp_path):
    write_category(tmp_path / "disc", seed=0)
    small = "image_size=64,batch_size=2,head_width=8,student_width=8,calibration_minimum=2"
    one = f"{ROOT / 'src'}:{small},denoise_steps=30,segment_steps=30"
    results = tmp_path / "results.json"
    subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "train_minutes.py", tmp_path / "disc"),
            *(f"one={one}", f"long={one.replace('steps=30', 'steps=3000')}"),
            *("--steps", "20", "--rounds", "1", "--results", results),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    one, long = json.loads(results.read_text())["rows"]
    assert one["steps"] == {"denoise": 30, "segment": 30}
    assert long["steps"] == {"denoise": 3000, "segment": 3000}
    assert one["times_as_fast"] == 1
    # A hundred times the steps takes longer, but not all of a run is steps.
    assert 1 / 100 < long["times_as_fast"] < 0.7
