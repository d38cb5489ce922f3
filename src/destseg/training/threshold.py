"""The threshold of a model that has just been trained, from the calibration images of its run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from destseg.data.decoded import GoodImages
from destseg.data.files import require_same
from destseg.data.groups import one_day
from destseg.inference.backends import Runtime, open_backend
from destseg.inference.bundle import Bundle, save_calibration
from destseg.inference.calibrate import fit_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.measuring import all_measured
from destseg.inference.predictor import Predictor
from destseg.inference.reading import without_notes
from destseg.synthesis.whole import with_anomalies
from destseg.training.good_parts import GoodParts

_DRAWN = 96  # synthetic anomalies
_WEAKER = 0.05  # of them may score lower than what the threshold rises towards


def calibrated(
    bundle: Bundle, source: GoodParts, device: str, *, anomalies: bool = True
) -> Predictor:
    """Fit the threshold with the finished predictor, so that it means what will be measured.

    Args:
        bundle: the model.
        source: the good images of its run.
        device: where it runs.
        anomalies: also note what synthetic anomalies score, for ``room`` now or later.

    Raises:
        ImageError: if an image cannot be read, or is another than when the run began.
    """
    runtime = Runtime(backend="torch", device=device)
    backend = open_backend(bundle, runtime)
    paths = [sample.path for sample in source.calibration_images]
    predictor = Predictor(bundle, backend)
    calibration = fit_calibration(
        predictor,
        paths,
        source.names(paths),
        bundle.settings,
        bundle.weights_sha256,
        groups=source.calibration_groups,
        image_sha256=source.calibration_contents,
    )
    for path in paths:  # what was put in its place may have been learned from
        require_same(path, source.states[path])
    if anomalies:
        calibration = replace(calibration, anomalies=_anomalies(predictor, source))
    return Predictor(save_calibration(bundle, calibration), backend, runtime=runtime)


def _anomalies(predictor: Predictor, source: GoodParts) -> tuple[float, float]:
    """Return the score, and the highest map value, that 19 of 20 synthetic anomalies reach."""
    settings = predictor.bundle.settings
    paths = [sample.path for sample in source.calibration_images[:_DRAWN]]
    images = GoodImages(paths, settings.data, states=source.states)
    drawn = with_anomalies(images, settings, source.roi, count=_DRAWN, seed=settings.training.seed)
    with without_notes():
        measured = [(each.score, each.anomaly_map.max()) for each in all_measured(predictor, drawn)]
    if not measured:  # as where what is inspected is smaller than any anomaly
        return 0.0, 0.0
    score, peak = np.quantile(measured, _WEAKER, axis=0).tolist()
    return score, peak


def warnings(calibration: Calibration, source: GoodParts, folder: Path) -> Iterator[str]:
    """Yield what its user should know of a threshold: too few images, of one day, one that leads.

    Args:
        calibration: with the threshold.
        source: the good images of its run.
        folder: where the model will be.
    """
    if short := calibration.guarantee_note():
        # More than half of all are never set aside.
        more = len(source.calibration_images) < len(source.training) - 1
        also = " A higher --calibration-fraction also sets more images aside." if more else ""
        yield f"note: {short}{also}"
    if alone := calibration.lone_note():
        yield f"note: {alone}"
    paths = [sample.path for sample in source.calibration_images]
    if source.calibration_groups is None and (day := one_day(paths)) is not None:
        yield (
            f"note: all calibration images were taken on {day}: what that day had by chance the "
            "threshold takes for granted. Add good images of other days as you get them: destseg "
            f"calibrate {folder} GOOD --add --group-by day"
        )
