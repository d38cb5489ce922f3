"""The harness trains each cell once, goes on where it stopped, and tells it beside the paper."""

from __future__ import annotations

import importlib
import json
import shutil
import statistics
import sys
from pathlib import Path

import pytest

import destseg
from conftest import write_category
from destseg.training import train as training

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def reproduce():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("reproduce")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def root(tmp_path):
    """Two categories in MVTec's layout."""
    for seed, name in enumerate(("bottle", "gear")):
        write_category(tmp_path / "data" / name, seed)
    return tmp_path / "data"


@pytest.mark.slow
def test_cells_are_run_once(
    reproduce, root, tmp_path, tiny_settings, tiny_teacher_weights, monkeypatch, capsys
):
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    tiny = [
        word
        for name, value in settings.flat().items()
        if value != destseg.Settings().flat()[name] and not isinstance(value, bool)
        for word in (f"--{name.replace('_', '-')}", str(value))
        if name != "rotation"
    ]
    trained = []
    train = training.train
    monkeypatch.setattr(
        training, "train", lambda *a, **k: trained.append(k["output"]) or train(*a, **k)
    )
    runs = tmp_path / "runs"
    words = ["mvtec", str(root), "--output", str(runs), "--seeds", "0", "1", *tiny]
    assert reproduce.main([*words, "--categories", "bottle"]) == 0
    assert len(trained) == 2
    shutil.rmtree(runs / "fast" / "bottle" / "seed-1")
    assert reproduce.main(words) == 0
    assert [path.parent.relative_to(runs).as_posix() for path in trained[2:]] == [
        *("fast/bottle/seed-1", "fast/gear/seed-0", "fast/gear/seed-1")
    ]
    results = json.loads((runs / "results.json").read_text())
    rows = results["runs"]
    assert [(row["category"], row["seed"]) for row in rows] == [
        *(("bottle", 0), ("bottle", 1), ("gear", 0), ("gear", 1))
    ]
    assert {row["settings"]["data"]["quarter_turns"] for row in rows[:2]} == {True}
    assert {row["settings"]["data"]["quarter_turns"] for row in rows[2:]} == {False}
    assert results["versions"]["destseg"] == destseg.__version__
    out = capsys.readouterr().out
    values = [100 * row["pixel_auroc"] for row in rows[:2]]
    assert f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" in out
    assert "99.2 90.3 90.5 82.5" in out
    # Finished models of other test images are measured anew.
    (root / "gear/test/good/000.png").unlink()
    assert reproduce.main(words) == 0
    again = json.loads((runs / "results.json").read_text())["runs"]
    assert again[:2] == rows[:2]
    assert [row["coverage"]["given"] for row in rows[2:]] == [4, 4]
    assert [row["coverage"]["given"] for row in again[2:]] == [3, 3]


def test_the_papers_table_has_the_papers_means(reproduce):
    means = [statistics.fmean(column) for column in zip(*reproduce.PAPER.values(), strict=True)]
    assert means == pytest.approx((97.9, 75.8, 76.4, 57.8), abs=0.05)
    assert len(reproduce.PAPER) == 15


def test_rotation_is_the_papers_choice(reproduce):
    without = set(reproduce.PAPER) - set(reproduce.ROTATION)
    assert without == {"capsule", "metal_nut", "pill", "toothbrush", "transistor"}
    assert set(reproduce.ROTATION) < set(reproduce.PAPER)
