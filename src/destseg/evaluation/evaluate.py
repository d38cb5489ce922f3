"""A predictor against labelled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from destseg.data.images import read_mask, resize
from destseg.data.samples import Sample
from destseg.errors import DataError
from destseg.evaluation.metrics import auroc, ranked_counts
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure


@dataclass(frozen=True)
class Evaluation:
    """How well pictures and pixels are told apart; fractions, NaN where only one class is present.

    Attributes:
        pictures: number of pictures.
        defective: how many of them are defective.
        image_auroc: of the image scores.
        pixel_auroc, pixel_ap: of the maps at the model's size, all pictures together.
    """

    pictures: int
    defective: int
    image_auroc: float
    pixel_auroc: float
    pixel_ap: float


def evaluate(predictor: Predictor, samples: Sequence[Sample]) -> Evaluation:
    """Return how well a predictor does on pictures whose defects are known.

    Maps and masks are compared at the model's size, as the paper does at 256 x 256.

    Args:
        predictor: the trained model.
        samples: test pictures with their kind and, where defective, their mask.

    Raises:
        ImageError: if a picture or mask cannot be read.
        DataError: if there are no samples, a label is unknown, or a defective picture's mask is
            missing.
    """
    unknown = [sample for sample in samples if sample.is_defective is None]
    if unknown or not samples:
        raise DataError(
            "expected pictures known to be good or defective, got "
            + (f"{unknown[0].path} without a kind" if unknown else "no pictures")
        )
    side = predictor.bundle.settings.data.image_size
    scores, maps, masks = [], [], []
    measured = predictor.measure(sample.path for sample in samples)
    for sample, measurement in zip(samples, measured, strict=True):
        if isinstance(measurement, Failure):
            raise measurement.error
        scores.append(measurement.score)
        maps.append(measurement.anomaly_map)
        masks.append(mask_of(sample, (side, side)))
    labels = np.array([bool(sample.is_defective) for sample in samples])
    pixels = ranked_counts(np.stack(masks), np.stack(maps))
    return Evaluation(
        pictures=len(samples),
        defective=int(labels.sum()),
        image_auroc=auroc(labels, np.array(scores)),
        pixel_auroc=pixels.auroc(),
        pixel_ap=pixels.average_precision(),
    )


def mask_of(sample: Sample, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where a sample is defective, bool [h, w] of a size; bilinear, then half or more.

    Any value above 0 is a defect, so masks of 0 and 1 and of 0 and 255 mean the same.

    Raises:
        DataError: if the sample is defective and has no mask.
        ImageError: if the mask cannot be read.
    """
    if not sample.is_defective:
        return np.zeros(size, dtype=bool)
    if sample.mask is None:
        raise DataError(
            f"{sample.path}: expected a mask of the defect under ground_truth/{sample.defect}/, "
            "got none. Add it, or leave the picture out."
        )
    defect = np.repeat(read_mask(sample.mask)[..., None], 3, axis=2)
    return resize(defect.astype(np.uint8) * 255, size)[..., 0] >= 128
