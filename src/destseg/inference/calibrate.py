"""Fitting the threshold: good pictures through the predictor that will be asked later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from destseg.config import Settings
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure


def fit_calibration(
    predictor: Predictor,
    pictures: Sequence[Path],
    names: Sequence[str],
    settings: Settings,
    weights_sha256: str,
    on_picture: Callable[[], None] = lambda: None,
) -> Calibration:
    """Return the calibration from good pictures that were not trained on.

    Args:
        predictor: what will be asked later, so that the threshold means what is measured.
        pictures: good parts, at least one.
        names: of the pictures, for the record.
        settings: of the bundle; its decision group has the rate asked for.
        weights_sha256: of the weights or the quantised model that gives the scores.
        on_picture: called after each picture.

    Raises:
        ImageError: if a picture cannot be read.
        DataError: if there is none.
    """
    scores, peaks = [], []
    for measured in predictor.measure(pictures):
        if isinstance(measured, Failure):
            raise measured.error
        scores.append(measured.score)
        peaks.append(float(measured.anomaly_map.max()))
        on_picture()
    region = predictor.bundle.roi_sha256
    return Calibration.fit(scores, peaks, names, settings, weights_sha256, region)
