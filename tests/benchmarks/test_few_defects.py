import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import load_script, write_category
from destseg.data.samples import test_samples as samples_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "few_defects.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return load_script(SCRIPT)


def test_what_is_learned_is_not_measured(script, tmp_path):
    samples = samples_of(write_category(tmp_path / "category", 0))
    learned, rest = script.drawn(samples, 1, 0, None)
    assert len(learned) == 1
    assert not {each.path for each in learned} & {each.path for each in rest}
    assert Counter(each.defect_type for each in rest) == {"good": 2, "hole": 1}
    none, unknown = script.drawn(samples, 1, 0, "hole")
    assert none == []
    assert Counter(each.defect_type for each in unknown) == {"good": 2, "hole": 2}
    assert script.drawn(samples, 9, 0, None)[0] != []  # one is always left to measure


def test_a_mask_that_marks_nothing_is_not_learned(script, tmp_path):
    category = write_category(tmp_path / "category", 0)
    empty, _ = sorted((category / "ground_truth/hole").iterdir())
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(empty)
    for draw in range(4):
        (learned,), _ = script.drawn(samples_of(category), 1, draw, None)
        assert learned.mask != empty


def test_a_quick_run_gives_rows_and_a_table(
    script, tmp_path, monkeypatch, capsys, tiny_settings, tiny_teacher_weights
):
    data = write_category(tmp_path / "category", 0)
    settings = tmp_path / "settings.yaml"
    tiny = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights), calibration_minimum=2)
    settings.write_text(tiny.to_yaml())
    monkeypatch.setattr(script, "QUICK", {"segment_steps": 2})
    results = tmp_path / "rows.jsonl"
    flags = ["--quick", "--output", str(tmp_path / "runs"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["x", str(data), *flags, "--settings", str(settings)])
    assert script.main() == 0
    (row,) = map(json.loads, results.read_text().splitlines())
    assert (row["k"], row["draw"], row["without"]) == (2, 0, None)
    assert row["before"]["defects"] == row["after"]["defects"] == 1
    assert "| k = 2, after |" in capsys.readouterr().out
