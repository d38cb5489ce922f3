"""The folder of a model as a whole: what lies in it because of its weights."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from destseg.errors import BundleError
from destseg.inference.bundle import CALIBRATION, EXPORTS, KEPT, MANIFEST, ROI, WEIGHTS
from destseg.inference.exports import NAMES

# Without the manifest no command takes the folder for a model, so it goes first.
_FILES = (
    MANIFEST,
    "result.json",
    "checkpoint.safetensors",
    CALIBRATION,
    WEIGHTS,
    ROI,
    "settings.yaml",
    "metrics.json",
    "report.html",
    "error.txt",
)


def remove_model(folder: Path) -> None:
    """Take away all that belongs to the weights in a folder; files of anyone else stay.

    Those are the model, its saved state, its calibrations, exported forms, metrics and report: none
    of them is true of other weights.

    Raises:
        BundleError: if something cannot be removed.
    """
    try:
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for kept in folder.glob(KEPT):
            kept.unlink()
        exports = folder / EXPORTS
        for form in [exports / name for name in NAMES]:
            if form.is_dir():
                shutil.rmtree(form)
    except OSError as error:
        raise BundleError(
            f"{folder}: expected a model that can be replaced, got {error}. Change permissions, or "
            "choose another folder."
        ) from error
    with contextlib.suppress(OSError):  # not empty: of someone else, or not there
        exports.rmdir()
