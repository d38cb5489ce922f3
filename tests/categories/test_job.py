import json
import shutil

import pytest

import destseg
from destseg.categories.job import finished, run_job
from destseg.categories.plan import Category, TrainingJob
from destseg.categories.summary import COLUMNS, rows_of
from destseg.errors import TrainingInterrupted


@pytest.fixture
def job(categories, tiny_settings, tiny_teacher_weights, tmp_path):
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    return TrainingJob(Category("bolt", categories / "bolt"), settings, tmp_path / "model")


def test_a_job_leaves_a_model_its_metrics_its_report_and_last_its_result(job):
    assert finished(job) is None
    outcome = run_job(job)
    assert outcome.reason is None
    names = {path.name for path in job.folder.iterdir()}
    assert names >= {"manifest.json", "metrics.json", "report.html", "result.json"}
    metrics = json.loads((job.folder / "metrics.json").read_text("utf-8"))
    assert outcome.result["metrics"] == metrics
    assert outcome.result["restarts"] == 0
    assert finished(job) == outcome
    predictor = destseg.load(job.folder, device="cpu")
    assert predictor.calibration.threshold == outcome.result["threshold"]


def test_a_job_that_was_trained_and_not_measured_is_measured(job):
    first = run_job(job)
    (job.folder / "result.json").unlink()
    weights = (job.folder / "weights.safetensors").stat().st_mtime_ns
    assert job.state == "begun"
    second = run_job(job)
    assert (job.folder / "weights.safetensors").stat().st_mtime_ns == weights
    for name in ("image", "pixel", "threshold"):
        assert second.result["metrics"][name] == first.result["metrics"][name]


def test_good_images_alone_give_a_model_without_metrics(job, parts):
    outcome = run_job(TrainingJob(Category("disc", parts), job.settings, job.folder))
    assert outcome.result["metrics"] is None
    assert not (job.folder / "report.html").exists()
    assert destseg.load(job.folder, device="cpu").calibration is not None


def test_images_that_cannot_be_measured_fail_and_keep_the_model(job, categories, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(categories / "bolt", data)
    shutil.copy(data / "test/hole/000.png", data / "test/stray.png")
    outcome = run_job(TrainingJob(Category("bolt", data), job.settings, job.folder))
    assert outcome.result is None
    assert "stray.png" in outcome.reason
    assert destseg.load(job.folder, device="cpu").calibration is not None


def test_test_images_without_masks_and_unreadable_ones_leave_a_result_that_says_so(
    job, categories, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(categories / "bolt", data)
    shutil.rmtree(data / "ground_truth")
    (data / "test/good/000.png").write_bytes(b"words")
    outcome = run_job(TrainingJob(Category("bolt", data), job.settings, job.folder))
    metrics = outcome.result["metrics"]
    assert metrics["coverage"]["images"] == 3
    assert metrics["coverage"]["with_mask"] == 1
    assert metrics["image"]["auroc"] is not None
    assert metrics["pixel"]["ap"] is None
    (row,) = rows_of([outcome])
    cells = dict(zip(COLUMNS, row.cells(), strict=True))
    assert (cells["images"], cells["with mask"]) == ("3 of 4", "1 of 4")
    ((who, _),) = row.unread.items()
    assert who == f"bolt, seed {job.seed}: {data / 'test/good/000.png'}"
    page = (job.folder / "report.html").read_text("utf-8")
    assert "image metrics over 3 of 4 images, pixel metrics over 1" in page
    assert "could not be read" in page


def test_a_fault_of_ours_is_a_failure_with_its_trace(job, monkeypatch):
    monkeypatch.setattr("destseg.training.train.train", lambda *_a, **_k: 1 / 0)
    outcome = run_job(job)
    assert outcome.reason.startswith("ZeroDivisionError: division by zero")
    assert "1 / 0" in (job.folder / "error.txt").read_text("utf-8")


def test_a_failure_without_a_message_has_its_kind_for_a_reason(job, monkeypatch):
    def fail(_):
        raise OSError

    monkeypatch.setattr("destseg.categories.job._done", fail)
    assert run_job(job).reason == "OSError"


def test_an_interruption_is_no_failure(job, monkeypatch):
    def stopped(*_arguments, **_keywords):
        raise TrainingInterrupted(15, "stopped")

    monkeypatch.setattr("destseg.training.train.train", stopped)
    with pytest.raises(TrainingInterrupted):
        run_job(job)


def test_a_fault_whose_trace_cannot_be_written_is_still_an_outcome(job, monkeypatch):
    def fail(*_, **__):
        (job.folder / "error.txt").mkdir(parents=True)
        raise ValueError("odd")

    monkeypatch.setattr("destseg.training.train.train", fail)
    outcome = run_job(job)
    assert outcome.result is None
    assert outcome.reason.startswith("ValueError: odd (its trace is lost: ")
    assert "error.txt" in outcome.reason
