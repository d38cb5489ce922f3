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
from destseg.inference.scoring import image_score


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
    inspected: Sequence[NDArray[np.bool_]],
) -> Agreement:
    """Return how much of its judgement a model keeps in another form.

    Args:
        before: the model in one form, with its calibration and without a region of interest,
            which it would stretch onto pieces of images too.
        after: in the other, with its own.
        images: uint8 RGB [h, w, 3] of the model's size, good and anomalous ones.
        masks: bool [h, w], where each is anomalous.
        inspected: bool [h, w], what of each is inspected; at least a pixel.
    """
    defective = np.array([mask[there].any() for mask, there in zip(masks, inspected, strict=True)])
    scores, p_values, decisions, image_auroc, pixel_ap = [], [], [], [], []
    for predictor in (before, after):
        counts = PixelCounts.empty(exact=True)
        fraction = predictor.bundle.settings.decision.score_fraction
        own = []
        measured = predictor.measure(list(images))
        for each, mask, there in zip(measured, masks, inspected, strict=True):
            if isinstance(each, Failure):
                raise BundleError(f"expected a made image to be readable, got {each.error}")
            counts.add(each.anomaly_map, mask, there)
            pixels = int(np.count_nonzero(there))
            own.append(image_score(each.anomaly_map * there, fraction, pixels))
        calibration = predictor.calibration
        scores.append(np.array(own))
        p_values.append(np.array([calibration.p_value(score) for score in own]))
        decisions.append(np.array([calibration.is_defective(score) for score in own]))
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
