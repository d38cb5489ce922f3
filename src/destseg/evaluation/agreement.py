"""How much of a model's judgement another form of it keeps, without any labelled image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.errors import BundleError
from destseg.evaluation.metrics import image_metrics
from destseg.evaluation.pixels import PixelCounts
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure


@dataclass(frozen=True)
class Agreement:
    """Two predictors on the same good images and synthetic anomalies.

    Attributes:
        image_auroc: (before, after), of anomalous images against good ones.
        pixel_ap: (before, after), against where the anomalies are.
        score_correlation: Spearman's, of the image scores; NaN where all of one are equal.
        p_value_difference: mean absolute difference of the p-values.
        other_decisions: fraction of the images that the two call differently.
    """

    image_auroc: tuple[float, float]
    pixel_ap: tuple[float, float]
    score_correlation: float
    p_value_difference: float
    other_decisions: float

    @property
    def drop(self) -> float:
        """What the second loses, in image AUROC or pixel AP, whichever is more; NaN if unknown."""
        before, after = np.array([self.image_auroc, self.pixel_ap]).T
        return float(np.max(before - after))  # unlike max, NaN wherever it stands

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def agreement(
    before: Predictor,
    after: Predictor,
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]],
) -> Agreement:
    """Return how much of its judgement a model keeps in another form.

    Args:
        before: the model in one form, with its calibration.
        after: in the other, with its own.
        images: uint8 RGB [h, w, 3] of the model's size, good and anomalous ones.
        masks: bool [h, w], where each is anomalous.
    """
    defective = np.array([mask.any() for mask in masks])
    scores, p_values, decisions, image_auroc, pixel_ap = [], [], [], [], []
    for predictor in (before, after):
        counts = PixelCounts.empty(exact=True)
        results = []
        for result, mask in zip(predictor.stream(list(images)), masks, strict=True):
            if isinstance(result, Failure):
                raise BundleError(f"expected a made image to be readable, got {result.error}")
            inspected = predictor.inspected(mask.shape)
            counts.add(result.anomaly_map, mask, inspected)
            results.append(result)
        scores.append(np.array([result.score for result in results]))
        p_values.append(np.array([result.p_value for result in results]))
        decisions.append(np.array([result.is_defective for result in results]))
        image_auroc.append(image_metrics(defective, scores[-1]).auroc)
        pixel_ap.append(counts.metrics().ap)
    return Agreement(
        image_auroc=(image_auroc[0], image_auroc[1]),
        pixel_ap=(pixel_ap[0], pixel_ap[1]),
        score_correlation=_spearman(scores[0], scores[1]),
        p_value_difference=float(np.abs(p_values[0] - p_values[1]).mean()),
        other_decisions=float((decisions[0] != decisions[1]).mean()),
    )


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(one), _ranks(other)).item(1))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (2 * ends - counts - 1) / 2
    return ranks[inverse]
