"""Two categories times two seeds on a local Ray, one of whose workers is killed."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from destseg.categories.plan import Category, TrainingJob
from destseg.categories.ray_jobs import Resources, run_on_ray
from destseg.cli.main import main
from destseg.config import Settings
from destseg.errors import MissingExtraError, TrainingInterrupted
from destseg.training.checkpoint import load_checkpoint
from destseg.training.train import train

WEIGHTS = "weights.safetensors"
OTHERS = ("nut/seed-0", "nut/seed-1", "bolt/seed-1")


@pytest.fixture(scope="module")
def settings(tiny_settings: Settings, tiny_teacher_weights: Path) -> Settings:
    return tiny_settings.replace(
        teacher_weights=str(tiny_teacher_weights), checkpoint_every=2, log_every=1
    )


@pytest.fixture(scope="module")
def session():
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=10**8, **quiet)
    yield ray
    ray.shutdown()


def wait_for(condition, seconds=500):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def writer_of(log):
    """Return the process that has a file open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(entry.readlink() == log for entry in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:
            continue
    return None


def kill_worker(folder, killed):
    """Kill the process that trains in a folder once it has saved a state."""
    wait_for((folder / "checkpoint.safetensors").is_file)
    process = wait_for(lambda: writer_of(folder / "log.jsonl"))
    os.kill(process, signal.SIGKILL)
    killed.append(process)


def words(categories, output, settings_file, *more):
    where = [str(categories), "--output", str(output), "--settings", str(settings_file)]
    return ["train-many", *where, "--seeds", "0", "1", *more]


@pytest.fixture(scope="module")
def files(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "settings.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    # Long enough to be killed in the middle.
    (folder / "own.yaml").write_text("bolt: {rotation: 5, segment_steps: 60}\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def ended(session, categories, files, tmp_path_factory):
    """The output folder and the exit code of a call that lost a worker."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to find the worker")
    output, killed = tmp_path_factory.mktemp("many") / "runs", []
    killer = threading.Thread(target=kill_worker, args=(output / "bolt/seed-0", killed))
    killer.start()
    code = main(
        words(
            categories, output, files / "settings.yaml", "--per-category", str(files / "own.yaml")
        )
    )
    killer.join()
    assert len(killed) == 1
    assert session.is_initialized()  # it was not train-many's to end
    return output, code


def result(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_whose_worker_was_killed_gives_the_weights_of_an_uninterrupted_one(
    ended, categories, settings, tmp_path
):
    output, _ = ended
    found = result(output / "bolt/seed-0")
    assert (found["restarts"], found["threads"]) == (1, 1)
    whole = settings.replace(rotation=5, segment_steps=60, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(categories / "bolt", output=tmp_path / "whole", settings=whole, quiet=True)
    finally:
        torch.set_num_threads(threads)
    one, other = (
        safetensors.numpy.load_file(folder / WEIGHTS)
        for folder in (output / "bolt/seed-0", tmp_path / "whole")
    )
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_category_that_cannot_be_trained_stops_no_other(ended):
    output, code = ended
    assert code == 1
    assert [result(output / name)["restarts"] for name in OTHERS] == [0, 0, 0]
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    assert [(run["category"], run["seed"]) for run in summary["runs"]] == [
        *(("bolt", 0), ("bolt", 1), ("nut", 0), ("nut", 1))
    ]
    assert [each["category"] for each in summary["failures"]] == ["worn", "worn"]
    assert "a.png: expected a JPEG" in summary["failures"][0]["reason"]
    assert (output / "bolt/seed-1/report.html").is_file()
    metrics = json.loads((output / "nut/seed-1/metrics.json").read_text(encoding="utf-8"))
    assert metrics["images"] == 4


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_command_again_repeats_nothing(ended, categories, files, capsys, monkeypatch):
    output, _ = ended
    monkeypatch.setattr("destseg.categories.ray_jobs._task", None)  # what would start a job
    own = ["--per-category", str(files / "own.yaml"), "--only", "bolt", "nut"]
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/seed-*/*")}
    assert main(words(categories, output, files / "settings.yaml", *own)) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/seed-*/*")} == before
    assert "bolt" in capsys.readouterr().out
    assert main(words(categories, output, files / "settings.yaml", *own, "--lr-head", "0.5")) == 1
    assert "--lr-head: 0.002 then, 0.5 now" in capsys.readouterr().err


@pytest.fixture
def endless(categories, settings, tmp_path):
    """A job that does not end by itself."""
    steps = settings.replace(segment_steps=1_000_000)
    return TrainingJob(Category("bolt", categories / "bolt"), steps, tmp_path / "model")


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_is_lost_too_often_is_a_failure(session, endless):
    killer = threading.Thread(target=kill_worker, args=(endless.folder, []))
    killer.start()
    (outcome,) = run_on_ray([endless], Resources(retries=0))
    killer.join()
    assert outcome.result is None
    assert "its worker was lost, also after 0 more attempts" in outcome.reason
    assert "The same command goes on from its last state" in outcome.reason


@pytest.mark.ray
@pytest.mark.slow
def test_a_signal_saves_the_states(session, endless):
    log, before = endless.folder / "log.jsonl", signal.getsignal(signal.SIGTERM)

    def stop():
        wait_for(log.with_name("checkpoint.safetensors").is_file)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM with 0 of 1 jobs done") as it:
        list(run_on_ray([endless], Resources()))
    stopper.join()
    assert it.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    # The job saved the step that it was at, which is not one of every second.
    last = [json.loads(line) for line in log.read_text("utf-8").splitlines()][-1]
    assert load_checkpoint(log.with_name("checkpoint.safetensors")).step == last["step"]


def test_without_ray_the_error_names_the_extra(categories, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = TrainingJob(Category("bolt", categories / "bolt"), settings, tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install .*'ray\[data\]>="):
        list(run_on_ray([job], Resources()))
    assert list(run_on_ray([], Resources())) == []
