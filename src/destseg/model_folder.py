"""The folder of a model: what its files are called, the log of its training, and its end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from destseg.errors import BundleError

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.json"
DEFECTS = "defects.json"
"""Scores of the known defects."""
KEPT = "calibration.until-*.json"
"""Calibrations that others have replaced, by the time of that."""
ROI = "roi.png"
EXPORTS = "exports"
FORMS = ("openvino", "onnx", "openvino-int8", "onnx-int8")
"""What a model can be exported as: folders in ``EXPORTS``."""
SETTINGS = "settings.yaml"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"
LOCK = ".training.lock"
"""Held by the training that writes to the folder, and gone when it is done."""
UNFINISHED = "unfinished"
"""Folder of models that are there only until a run is done."""
CANDIDATE = f"{UNFINISHED}/candidate"
"""That of a run, until it was compared with the one that the run goes on from."""
FOLD = f"{UNFINISHED}/fold-"
"""Followed by a number: one that learns without some known defects."""
TENSORBOARD = "tensorboard"
RESULT = "result.json"
"""Of one of many categories: written last, when all of it is done."""
METRICS = "metrics.json"
REPORT = "report.html"
QUALIFICATION = "qualification.html"
QUALIFIED = "qualification.json"
TRACE = "error.txt"

WRITTEN_BY_TRAINING = (MANIFEST, WEIGHTS, CALIBRATION, DEFECTS, ROI, CHECKPOINT, SETTINGS, LOG)

# Without the manifest no command takes the folder for a model, so it goes first.
_OF_ITS_WEIGHTS = (
    *(MANIFEST, RESULT, CHECKPOINT, CALIBRATION, DEFECTS, WEIGHTS, ROI, SETTINGS),
    *(METRICS, REPORT, QUALIFICATION, QUALIFIED, TRACE),
)


def read_log(folder: Path, tail: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a training's log, or those in its last bytes; none without a log.

    A line that is cut off, by the tail or because it is just being written, is passed over.
    """
    try:
        with (folder / LOG).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0 if tail is None else max(0, size - tail))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def has_model(holds: Callable[[str], bool]) -> bool:
    """Whether a folder, asked whether it holds a file of a name, has a model or a saved state."""
    return holds(CHECKPOINT) or (holds(MANIFEST) and holds(WEIGHTS))


def left_by_training(folder: Path) -> bool:
    """Whether the files of a folder that are called as ours are: some are common names.

    A training leaves a saved state, a manifest beside weights, or at least a log.
    """
    return has_model(lambda name: (folder / name).exists()) or any(
        "event" in record for record in read_log(folder)
    )


def remove_model(folder: Path) -> None:
    """Take away all that belongs to the weights in a folder ``left_by_training``; the rest stays.

    Those are the model, its saved state, its calibrations, exported forms, metrics and report: none
    of them is true of other weights.  The log stays.

    Raises:
        BundleError: if something cannot be removed.
    """
    exports = folder / EXPORTS
    try:
        for name in _OF_ITS_WEIGHTS:
            (folder / name).unlink(missing_ok=True)
        for kept in folder.glob(KEPT):
            kept.unlink()
        for form in [exports / name for name in FORMS]:
            if form.is_dir():
                shutil.rmtree(form)
    except OSError as error:
        raise BundleError(
            f"{folder}: expected a model that can be replaced, got {error}. Change permissions, or "
            "choose another folder."
        ) from error
    with contextlib.suppress(OSError):  # not empty: of someone else, or not there
        exports.rmdir()


def unfinished_models(folder: Path) -> list[Path]:
    """Return the folders of the models in that of a run that are gone when the run is done."""
    return [folder / CANDIDATE, *sorted(folder.glob(f"{FOLD}[1-9]"))]


def remove_unfinished(*places: Path) -> None:
    """Take away ``unfinished_models``, or some of them; files of anyone else stay.

    Raises:
        BundleError: if something cannot be removed.
    """
    for place in places:
        remove_model(place)
        for empty in (place, place.parent):
            with contextlib.suppress(OSError):  # not empty: of someone else, or not there
                empty.rmdir()
