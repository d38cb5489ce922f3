"""One job, in the process that does it: train or go on, measure, note the result."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from destseg.categories.plan import TrainingJob
from destseg.data.contents import test_fingerprint
from destseg.data.files import write_atomically
from destseg.data.samples import Sample, test_folder, test_samples
from destseg.errors import DestsegError, TrainingInterrupted, needs_extra
from destseg.evaluation.model_report import report_on
from destseg.evaluation.page import write_report
from destseg.inference.bundle import load_bundle
from destseg.model_folder import METRICS, REPORT, RESULT, TRACE, read_log
from destseg.redaction import without_secrets

TESTED = "test_sha256"
"""Of a result: which test images its metrics are of."""

if TYPE_CHECKING:
    from destseg.evaluation.evaluate import Evaluation
    from destseg.inference.calibration import Calibration
    from destseg.inference.predictor import Predictor


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job: a result, or the reason why there is none.

    Attributes:
        job: which one.
        result: plain values, as in its ``result.json``.
        reason: why it failed.
    """

    job: TrainingJob
    result: Mapping[str, Any] | None = None
    reason: str | None = None


def run_job(job: TrainingJob) -> JobOutcome:
    """Do a job as far as it is not done, and return what became of it.

    The model folder then has the model, ``metrics.json`` and ``report.html`` where there are test
    images, and ``result.json``, which is written last.  A fault that is not one of destseg's
    errors leaves its trace in ``error.txt``.

    Raises:
        TrainingInterrupted: after a signal; the state is saved.
    """
    try:
        return finished(job) or JobOutcome(job, _done(job))
    except TrainingInterrupted:
        raise
    except (DestsegError, OSError) as error:
        return JobOutcome(job, reason=without_secrets(str(error) or type(error).__name__))
    except Exception as error:  # one category's fault must not take the others along
        trace = job.folder / TRACE
        told = f"its trace is in {trace}"
        try:
            write_atomically(trace, without_secrets(traceback.format_exc()))
        except DestsegError as not_written:
            told = f"its trace is lost: {not_written}"
        what = without_secrets(f"{type(error).__name__}: {error}")
        return JobOutcome(job, reason=f"{what} ({told})")


def finished(job: TrainingJob) -> JobOutcome | None:
    """Return the outcome of a job that an earlier call has finished; ``None`` if none has."""
    if job.state != "finished":
        return None
    return JobOutcome(job, json.loads((job.folder / RESULT).read_text(encoding="utf-8")))


def measured_otherwise(job: TrainingJob) -> bool:
    """Whether a finished job's result is of other test images, or another threshold, than now."""
    outcome = finished(job)
    if outcome is None or outcome.result is None:
        return False
    then = outcome.result.get(TESTED)
    try:
        now = _at(load_bundle(job.folder).calibration)
        if any(outcome.result.get(name, value) != value for name, value in now.items()):
            return True
        samples = () if then is None else _samples(job)  # of those of before it is not known
    except DestsegError:
        return True  # measuring says what is wrong with them
    return bool(samples) and test_fingerprint(samples) != then


def _at(calibration: Calibration | None) -> dict[str, float]:
    """Return what a result says of the threshold."""
    assert calibration is not None, "load_bundle and train always give one"
    return {
        "threshold": calibration.threshold,
        "guaranteed_false_alarm_rate": calibration.guaranteed_false_alarm_rate,
    }


def _done(job: TrainingJob) -> dict[str, Any]:
    with needs_extra("train", "training"):
        from destseg.training.train import train  # torch, so only where it runs
    predictor = train(
        job.category.data,
        output=job.folder,
        settings=job.settings,
        resume=job.state == "begun",
        quiet=True,
    )
    samples = _samples(job)
    evaluation = None
    if samples:
        evaluation, report = report_on(Path(job.category.name), predictor, samples)
        values = evaluation.to_json()
        write_atomically(job.folder / METRICS, json.dumps(values, indent=1) + "\n")
        write_report(job.folder / REPORT, report)
    result = {**_result(job, predictor, evaluation), TESTED: test_fingerprint(samples)}
    write_atomically(job.folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def _samples(job: TrainingJob) -> tuple[Sample, ...]:
    data = job.category.data
    if job.category.test is not None:
        return job.category.test
    return tuple(test_samples(data)) if test_folder(data) is not None else ()


def _result(
    job: TrainingJob, predictor: Predictor, evaluation: Evaluation | None
) -> dict[str, Any]:
    training = predictor.bundle.training
    names = (
        "teacher",
        "minutes",
        "images_per_s",
        "device",
        "threads",
        "images",
        "calibration_images",
        "data_sha256",
    )
    return {
        "category": job.category.name,
        "seed": job.seed,
        "preset": job.settings.preset,
        "model": str(job.folder),
        **{name: training.get(name) for name in names},
        "restarts": restarts(job),
        **_at(predictor.calibration),
        "metrics": None if evaluation is None else evaluation.to_json(),
        "settings": job.settings.to_dict(),
        "versions": training.get("versions"),
    }


def restarts(job: TrainingJob) -> int:
    """Return how often a job's training was begun again: its worker was lost, or it was stopped."""
    begun = [record["phase"] for record in read_log(job.folder) if record.get("event") == "phase"]
    return len(begun) - len(set(begun))
