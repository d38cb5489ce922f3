"""How well scores separate defective from good: of images, or of single pixels.

Every metric goes the same way: check the input, sort once, count what each threshold finds
(``RankedCounts``), and compute the metric from those counts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from destseg.errors import DataError
from destseg.evaluation.counts import RankedCounts, ranked_counts


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative.

    Equal scores of a positive and a negative count one half, as in scikit-learn's
    ``roc_auc_score``.

    Args:
        labels: True or 1 for defective, False or 0 for good; any shape.
        scores: finite numbers, higher for defective; the same shape.

    Returns:
        A fraction in [0, 1]; NaN where only one class (or no sample) is present, because then no
        pair exists to be ordered and any number would look like a result.

    Raises:
        DataError: for other labels, scores that are not finite, or shapes that differ.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return ranked_counts(labels, scores).auroc()


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the mean precision over the thresholds, each weighted by the recall that it adds.

    As scikit-learn's ``average_precision_score``: no interpolation between thresholds, and equal
    scores are one threshold.

    Args:
        labels: True or 1 for defective, False or 0 for good; any shape.
        scores: finite numbers, higher for defective; the same shape.

    Returns:
        A fraction in [0, 1]; NaN where only one class (or no sample) is present: without positives
        recall has no meaning, and without negatives every score at all would give 1.
        (scikit-learn gives 0 with a warning, and 1.)

    Raises:
        DataError: for other labels, scores that are not finite, or shapes that differ.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return ranked_counts(labels, scores).average_precision()


def f1_max(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[float, float]:
    """Return the highest F1 of any threshold, 2PR / (P + R), and the highest threshold with it.

    Args:
        labels: True or 1 for defective, False or 0 for good; any shape.
        scores: finite numbers, higher for defective; the same shape.

    Returns:
        F1 in [0, 1] and a score, from which on samples are found; both are NaN where only one
        class (or no sample) is present.

    Raises:
        DataError: for other labels, scores that are not finite, or shapes that differ.

    >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    (0.8, 0.35)
    """
    return ranked_counts(labels, scores).f1_max()


@dataclass(frozen=True)
class Curve:
    """Points of a curve; all three arrays are as long, and empty where it is not defined.

    Attributes:
        x, y: fractions in [0, 1], float64 [k].
        thresholds: found are the samples with a score >= it; falling, float64 [k].
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageMetrics:
    """How well image scores tell defective images from good ones.

    Attributes:
        auroc, ap: as ``auroc`` and ``average_precision``, in [0, 1].
        f1_max: the highest F1 of any threshold, in [0, 1].
        f1_max_threshold: the highest threshold that gives it; found is a score >= it.
        reasons: for each metric that is NaN by its name, why; else empty.
    """

    auroc: float
    ap: float
    f1_max: float
    f1_max_threshold: float
    reasons: Mapping[str, str] = field(default_factory=dict)


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> ImageMetrics:
    """Return all metrics of image scores; NaN with a reason where a class is absent.

    Args:
        labels: True or 1 for defective, False or 0 for good [n].
        scores: finite numbers, higher for defective [n].

    Raises:
        DataError: for other labels, scores that are not finite, or shapes that differ.

    >>> metrics = image_metrics([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> metrics.auroc, metrics.f1_max, metrics.f1_max_threshold
    (0.75, 0.8, 0.35)
    >>> image_metrics([0, 0], [0.1, 0.4]).reasons["auroc"]
    'there is no defective image'
    """
    counts = ranked_counts(labels, scores)
    f1, threshold = counts.f1_max()
    values = {
        "auroc": counts.auroc(),
        "ap": counts.average_precision(),
        "f1_max": f1,
        "f1_max_threshold": threshold,
    }
    reason = counts.undefined("image")
    return ImageMetrics(**values, reasons=dict.fromkeys(values, reason) if reason else {})


def image_curves(
    labels: npt.ArrayLike, scores: npt.ArrayLike, points: int = 500
) -> dict[str, Curve]:
    """Return the curves ``roc`` and ``pr`` of image scores, empty where a class is absent.

    Args:
        labels: True or 1 for defective, False or 0 for good [n].
        scores: finite numbers, higher for defective [n].
        points: at most so many a curve, 2 or more.

    Raises:
        DataError: for other labels, scores that are not finite, shapes that differ, or fewer than
            2 points.

    >>> image_curves([0, 1], [0.1, 0.4])["pr"].y.tolist()
    [1.0, 0.5]
    """
    counts = ranked_counts(labels, scores)
    return {"roc": roc_curve(counts, points), "pr": pr_curve(counts, points)}


def roc_curve(counts: RankedCounts, points: int = 500) -> Curve:
    """Return the true-positive rate (y) over the false-positive rate (x).

    From (0, 0), whose threshold is the next float above the highest score, to (1, 1).

    Args:
        counts: what the thresholds find; of one class only, the curve is empty.
        points: at most so many, at even steps along the curve; its ends are kept.
    """
    if counts.one_class:
        return thinned([], [], [], points)
    return from_nothing(
        counts,
        counts.false_positives / counts.negatives,
        counts.true_positives / counts.positives,
        points,
    )


def pr_curve(counts: RankedCounts, points: int = 500) -> Curve:
    """Return the precision (y) over the recall (x), recall rising.

    It starts at the highest score: above it nothing is found, and precision has no value.

    Args:
        counts: what the thresholds find; of one class only, the curve is empty.
        points: at most so many, at even steps along the curve; its ends are kept.
    """
    if counts.one_class:
        return thinned([], [], [], points)
    found = counts.true_positives
    precision = found / (found + counts.false_positives)
    return thinned(found / counts.positives, precision, counts.thresholds, points)


def from_nothing(
    counts: RankedCounts,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    points: int,
) -> Curve:
    """Return a curve that starts at (0, 0), above the highest score, where nothing is found.

    Args:
        counts: with one threshold for each point.
        x: rising fractions in [0, 1], float64 [k].
        y: the same.
        points: at most so many are kept.
    """
    thresholds = counts.thresholds.astype(np.float64)
    # A finite number rather than infinity, which JSON does not know.
    above = np.nextafter(thresholds[:1], np.inf)
    zero = np.zeros(1)
    return thinned(
        np.concatenate([zero, x]),
        np.concatenate([zero, y]),
        np.concatenate([above, thresholds]),
        points,
    )


def thinned(x: npt.ArrayLike, y: npt.ArrayLike, thresholds: npt.ArrayLike, points: int) -> Curve:
    """Return a curve of at most so many of the points, the first and the last among them.

    Args:
        x: of the points, in their order along the curve [k].
        y: the same.
        thresholds: the same.
        points: 2 or more.

    Raises:
        DataError: if fewer than 2 points are asked for.
    """
    if points < 2:
        raise DataError(f"points: expected 2 or more, got {points}")
    columns = [np.asarray(column, dtype=np.float64) for column in (x, y, thresholds)]
    size = columns[0].size
    if size > points:
        # Even steps of |dx| + |dy|: steep and flat stretches both keep their shape.
        steps = np.abs(np.diff(columns[0])) + np.abs(np.diff(columns[1]))
        length = np.concatenate([np.zeros(1), np.cumsum(steps)])
        marks = np.linspace(0, length[-1], points)
        chosen = np.searchsorted(length, marks)
        chosen[-1] = size - 1
        chosen = np.unique(np.minimum(chosen, size - 1))
        columns = [column[chosen] for column in columns]
    return Curve(*columns)
