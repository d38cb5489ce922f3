"""``destseg batch`` before any Ray begins: its arguments and errors."""

import sys

import pytest

from destseg.batch_inspection.values import BatchCounts, BatchJob, BatchPlan
from destseg.cli.batch import _plan_line
from destseg.cli.main import main
from destseg.cli.progress import Pace


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--actors", "0"], "--actors: expected at least 1, got 0"),
        (["--partition-size", "-1"], "--partition-size: expected at least 1, got -1"),
        (["--batch-size", "0"], "--batch-size: expected at least 1, got 0"),
        (["--cpus-per-actor", "0"], "--cpus-per-actor: expected more than 0, got 0"),
        (["--gpus-per-actor", "-1"], "--gpus-per-actor: expected 0 or more, got -1"),
        (["--cpus-per-actor", "nan"], "--cpus-per-actor: expected more than 0, got nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(words, reason, tmp_path, capsys):
    assert main(["batch", "model", str(tmp_path), "--output", str(tmp_path / "out"), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_the_install_command_is_said(tmp_path, capsys, monkeypatch):
    for name in ("destseg.batch_inspection.run", "destseg.batch_inspection.cluster"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["batch", "model", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "Install the extra 'ray' with: pip install" in capsys.readouterr().err


def test_a_missing_source_or_model_is_an_error_before_ray_begins(
    brightness_model, tmp_path, capsys, monkeypatch
):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was begun"))
    output = str(tmp_path / "out")
    command = ["batch", str(brightness_model), str(tmp_path / "nothing"), "--output", output]
    assert main(command) == 1
    assert f"{tmp_path / 'nothing'}: expected a folder, a glob or a file" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none"), str(tmp_path), "--output", output]) == 1
    assert "expected the folder of a trained model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan_of_a_single_image_is_told_in_the_singular():
    job = BatchJob("in", 1, 1, 16, "", "", "", "torch")
    plan = BatchPlan(job, BatchCounts(), left=1)
    assert _plan_line(plan) == "1 image in 1 partition, backend torch"


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


def test_lines_tell_how_far_it_is_without_the_time_that_processes_take_to_begin(clock, capsys):
    with Pace(every=10) as pace:
        pace.begin(1000, before=400)
        clock.now = 50  # processes begin, and the first partition takes 30 s
        pace.advance(100)
        for clock.now in (55, 60, 70):
            pace.advance(50)
        pace.advance(350)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "500 of 1000 images, 2.0 images/s, 0:04:10 left",
        "600 of 1000 images, 10.0 images/s, 0:00:40 left",
        "650 of 1000 images, 7.5 images/s, 0:00:47 left",
        "1000 of 1000 images, 25.0 images/s, 0:00:00 left",
    ]
