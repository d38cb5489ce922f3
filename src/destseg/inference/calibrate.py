"""Fitting the threshold: good images through the predictor that will be asked later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from destseg.config import Settings
from destseg.data.files import sha256_of_image
from destseg.inference.calibration import Calibration
from destseg.inference.measuring import all_measured
from destseg.inference.predictor import Predictor


def fit_calibration(
    predictor: Predictor,
    images: Sequence[Path],
    paths: Sequence[str],
    settings: Settings,
    weights_sha256: str,
    on_image: Callable[[], object] = lambda: None,
    groups: Sequence[str] | None = None,
    image_sha256: Sequence[str] | None = None,
) -> Calibration:
    """Return the calibration from good images that were not trained on.

    Args:
        predictor: what will be asked later, so that the threshold means what is measured.
        images: good parts, at least one.
        paths: of the images, for the record.
        settings: of the bundle; its decision group has the rate asked for.
        weights_sha256: of the weights or the quantised model that gives the scores.
        on_image: called after each image.
        groups: of the images; ``None``: each counts by itself.
        image_sha256: of the images, where they have been read for it already.

    Raises:
        ImageError: if an image cannot be read.
        DataError: if there is none.
    """
    scores, peaks = [], []
    for measured in all_measured(predictor, images):
        scores.append(measured.score)
        peaks.append(float(measured.anomaly_map.max()))
        on_image()
    region = predictor.bundle.roi_sha256
    hashes = image_sha256 or [sha256_of_image(image) for image in images]
    return Calibration.fit(scores, peaks, paths, settings, weights_sha256, region, groups, hashes)
