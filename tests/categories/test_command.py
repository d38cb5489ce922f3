"""The command, with jobs done in this process instead of Ray's."""

import io
import json
import shutil
import sys
import time

import pytest
from rich.console import Console

import destseg
from conftest import write_images
from destseg.categories import ray_jobs
from destseg.categories.job import JobOutcome, run_job
from destseg.categories.summary import rows_of
from destseg.cli import jobs_table
from destseg.cli.main import main
from destseg.cli.train_many import tables


@pytest.fixture
def given(monkeypatch):
    """What the jobs were given, by call."""
    calls = []

    def run(jobs, resources, on_poll):
        calls.append((resources, [job.name for job in jobs]))
        on_poll(jobs)
        return map(run_job, jobs)

    monkeypatch.setattr(ray_jobs, "run_on_ray", run)
    return calls


@pytest.fixture
def words(categories, tiny_settings, tiny_teacher_weights, tmp_path):
    file = tmp_path / "settings.yaml"
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    file.write_text(settings.to_yaml(), encoding="utf-8")
    where = [str(categories), "--output", str(tmp_path / "runs"), "--settings", str(file)]
    return ["train-many", *where]


def test_what_is_missing_is_done_and_all_are_summed_up(words, given, tmp_path, capsys):
    assert main([*words, "--only", "bolt", "--cpus", "2", "--retries", "5"]) == 0
    assert "1/1 bolt, seed 0: trained in" in capsys.readouterr().err
    assert main([*words, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert given == [
        (ray_jobs.Resources(cpus=2, retries=5), ["bolt, seed 0"]),
        (ray_jobs.Resources(), ["nut, seed 0", "worn, seed 0"]),
    ]
    assert "a.png: expected a JPEG" in err
    assert "trained in" not in err
    assert [word in out for word in ("bolt", "nut", "worn", "index.html")] == [True] * 4
    # One category alone does not make the table shorter.
    assert main([*words, "--only", "nut", "--quiet"]) == 0
    summary = json.loads((tmp_path / "runs/summary.json").read_text("utf-8"))
    assert [run["category"] for run in summary["runs"]] == ["bolt", "nut"]
    assert given[2:] == [(ray_jobs.Resources(), [])]


def test_overwriting_trains_anew_and_other_settings_alone_are_refused(words, given, capsys):
    assert main([*words, "--only", "bolt", "--quiet"]) == 0
    assert main([*words, "--only", "bolt", "--lr-head", "0.5"]) == 1
    assert "--lr-head: 0.002 then, 0.5 now" in capsys.readouterr().err
    assert main([*words, "--only", "bolt", "--lr-head", "0.5", "--overwrite", "--quiet"]) == 0
    assert [jobs for _, jobs in given] == [["bolt, seed 0"]] * 2


def test_a_result_of_other_images_is_not_taken(words, given, categories, tmp_path, capsys):
    words[1] = str(tmp_path / "data")
    shutil.copytree(categories / "bolt", tmp_path / "data/bolt")
    assert main([*words, "--quiet"]) == 0
    assert main([*words, "--quiet"]) == 0
    weights = tmp_path / "runs/bolt/seed-0/weights.safetensors"
    trained = weights.stat().st_mtime_ns
    test = tmp_path / "data/bolt/test/good"
    shutil.copy(next(test.iterdir()), test / "more.png")
    assert main([*words, "--quiet"]) == 0
    assert [jobs for _, jobs in given] == [["bolt, seed 0"], [], ["bolt, seed 0"]]
    assert weights.stat().st_mtime_ns == trained
    result = json.loads((weights.parent / "result.json").read_text("utf-8"))
    assert result["metrics"]["coverage"]["given"] == 5
    good = tmp_path / "data/bolt/train/good"
    next(good.iterdir()).unlink()
    capsys.readouterr()
    assert main([*words, "--quiet"]) == 1
    assert "other images than then" in capsys.readouterr().err
    assert len(given) == 3


def test_rows_of_other_images_or_settings_are_told_of_where_they_are_kept(
    words, given, categories, tmp_path, capsys
):
    words[1] = str(tmp_path / "data")
    for name in ("bolt", "nut"):
        shutil.copytree(categories / name, tmp_path / "data" / name)
    assert main([*words, "--quiet"]) == 0
    capsys.readouterr()
    only_nut = [*words, "--only", "nut", "--quiet"]
    assert main(only_nut) == 0
    assert "the table keeps rows" not in capsys.readouterr().err
    test = tmp_path / "data/bolt/test/good"
    shutil.copy(next(test.iterdir()), test / "more.png")
    assert main([*only_nut, "--lr-head", "0.5", "--overwrite"]) == 0
    said = capsys.readouterr().err
    assert "the table keeps rows of other settings or files than now" in said
    assert "--lr-head: 0.002 then, 0.5 now" in said
    assert f"{tmp_path / 'runs/bolt/seed-0'}: other test images or threshold than then" in said
    next((tmp_path / "data/bolt/train/good").iterdir()).unlink()
    assert main([*only_nut, "--lr-head", "0.5"]) == 0
    assert "other images than then" in capsys.readouterr().err
    assert [jobs for _, jobs in given][1:] == [[], ["nut, seed 0"], []]


def test_a_result_of_another_threshold_is_not_taken(words, given, tmp_path):
    assert main([*words, "--only", "bolt", "--quiet"]) == 0
    folder = tmp_path / "runs/bolt/seed-0"
    weights = (folder / "weights.safetensors").stat().st_mtime_ns
    good = write_images(tmp_path / "good", 4, seed=99)
    new = destseg.calibrate(folder, good, max_false_alarm_rate=0.5).calibration
    assert main([*words, "--only", "bolt", "--quiet"]) == 0
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["threshold"] == result["metrics"]["threshold"] == new.threshold
    assert result["guaranteed_false_alarm_rate"] == new.guaranteed_false_alarm_rate
    assert (folder / "weights.safetensors").stat().st_mtime_ns == weights
    assert destseg.load(folder).calibration == new
    assert main([*words, "--only", "bolt", "--quiet"]) == 0
    assert [jobs for _, jobs in given] == [["bolt, seed 0"], ["bolt, seed 0"], []]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--cpus", "0"], "--cpus: expected at least 1, got 0"),
        (["--gpus", "1.5"], "--gpus: expected 0, a part of one or a whole number, got 1.5"),
        (["--gpus", "nan"], "--gpus: expected 0, a part of one"),
        (["--retries", "-1"], "--retries: expected at least 0, got -1"),
        (["--device", "cuda"], "--gpus: expected more than 0 for --device cuda, got 0"),
        (["--only", "bolts"], "expected a category, got 'bolts'; did you mean 'bolt'?"),
        (["--seeds", "-1"], "--seed: expected at least 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    more, reason, words, given, tmp_path, capsys
):
    assert main([*words, *more]) == 2
    assert reason in capsys.readouterr().err
    assert not given
    assert not (tmp_path / "runs").exists()


def test_the_command_without_ray_names_the_extra(words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(words) == 1
    assert "Install the extra 'ray' with: pip install" in capsys.readouterr().err


def test_the_tables_fit_a_terminal(made_up):
    names = ("image_auroc", "auroc", "ap", "aupro", "iap", "iap_90")
    worst = [dict.fromkeys(names, value) for value in (1.0, 0.0)]
    rows = rows_of([made_up("metal_nut", seed, **values) for seed, values in enumerate(worst)])
    text = io.StringIO()
    for table in tables(rows):
        Console(file=text, width=80).print(table)
    assert "…" not in text.getvalue()
    assert text.getvalue().count("50.0 ± 70.7") == 6


def test_on_a_terminal_a_table_tells_how_far_jobs_are(made_up, monkeypatch, tmp_path):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(jobs_table, "Console", lambda **_: console)
    job = made_up("bolt", 0).job
    job.folder.mkdir(parents=True)
    with jobs_table.JobsShown(quiet=False) as shown:
        shown.begin(2)
        step = {"event": "step", "phase": "denoise", "step": 5, "steps": 800, "loss": 0.5}
        record = {"time": time.time() + 1, **step, "images_per_s": 8.0}
        (job.folder / "log.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
        shown.update([job, made_up("bolt", 1).job])
        shown.ended(made_up("nut", 0, image_auroc=1.0))
    told = text.getvalue()
    assert "bolt, seed 0  phase 1, step 5/800, loss 0.5000, about" in told
    assert "0 of 2 done, 1 running, 1 waiting" in told
    assert "1/2 nut, seed 0: trained in 2.0 min" in told


def test_a_failure_without_a_message_is_told(made_up, monkeypatch):
    text = io.StringIO()
    console = Console(file=text, width=100)
    monkeypatch.setattr(jobs_table, "Console", lambda **_: console)
    with jobs_table.JobsShown(quiet=False) as shown:
        shown.ended(JobOutcome(made_up("nut", 0).job, reason=""))
    assert "1/0 nut, seed 0: failed: \n" in text.getvalue()


def test_the_version_is_told(made_up, tmp_path):
    from destseg.categories.page import render

    assert f"destseg {destseg.__version__}" in render(tmp_path, rows_of([made_up("nut", 0)]))
