"""What every threshold on scores finds, counted after one sort; all metrics come from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from destseg.data.arrays import beside_arrays
from destseg.errors import DataError


@dataclass(frozen=True)
class RankedCounts:
    """What every possible threshold finds: a sample is found where its score is >= threshold.

    Attributes:
        thresholds: the distinct scores, falling, in the scores' own dtype [k].
        true_positives: positives found at each threshold, int64, rising [k].
        false_positives: negatives found at each threshold, int64, rising [k].
    """

    thresholds: npt.NDArray[np.generic]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]

    @property
    def positives(self) -> int:
        """Number of positive samples."""
        return int(self.true_positives[-1]) if self.true_positives.size else 0

    @property
    def negatives(self) -> int:
        """Number of negative samples."""
        return int(self.false_positives[-1]) if self.false_positives.size else 0

    @property
    def one_class(self) -> bool:
        """Whether positives or negatives are absent, so that there is nothing to separate."""
        return self.positives == 0 or self.negatives == 0

    def auroc(self) -> float:
        """Return the area under the ROC curve in [0, 1], as ``auroc`` does."""
        if self.one_class:
            return math.nan
        found = np.diff(self.true_positives, prepend=0)
        alarms = np.diff(self.false_positives, prepend=0)
        heights = 2 * self.true_positives - found
        whole = 2 * self.positives * self.negatives
        # In whole numbers, because the sum over millions of pixels is then exact; of billions it
        # no longer fits int64, and floats lose nothing that a fraction of so many would show.
        if whole <= np.iinfo(np.int64).max:
            return int(alarms @ heights) / whole
        return float((alarms / self.negatives) @ (heights / (2 * self.positives)))

    def average_precision(self) -> float:
        """Return the average precision in [0, 1], as ``average_precision`` does."""
        if self.one_class:
            return math.nan
        found = np.diff(self.true_positives, prepend=0)
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(found @ precision) / self.positives

    def f1_max(self) -> tuple[float, float]:
        """Return the highest F1, 2PR / (P + R), in [0, 1], and the highest threshold with it.

        Both are NaN where only one class is present, as in ``average_precision``.
        """
        if self.one_class:
            return math.nan, math.nan
        f1 = 2 * self.true_positives / (self.true_positives + self.false_positives + self.positives)
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.thresholds[best])

    def undefined(self, of_what: str) -> str | None:
        """Return why there is nothing to separate, or None where there is.

        Args:
            of_what: what the samples are, singular: image, pixel.
        """
        absent = [
            name
            for name, count in (("defective", self.positives), ("good", self.negatives))
            if not count
        ]
        return f"there is no {' and no '.join(absent)} {of_what}" if absent else None


def ranked_counts(labels: npt.ArrayLike, scores: npt.ArrayLike) -> RankedCounts:
    """Return what every threshold finds; several metrics of the same data share this one sort.

    Args:
        labels: True or 1 for defective, False or 0 for good; any shape.
        scores: finite numbers, higher for defective; the same shape.

    Raises:
        DataError: for other labels, scores that are not finite, or shapes that differ.
    """
    positive, values = _checked(labels, scores)
    # Sorting values and then looking the positives up takes half the time of an argsort: numpy
    # sorts plain values with vector instructions, and no label has to follow its score.
    ranked = np.sort(values)
    ranked_positives = np.sort(values[positive])
    first_of_equals = np.ones(ranked.size, dtype=np.bool_)
    np.not_equal(ranked[1:], ranked[:-1], out=first_of_equals[1:])
    starts = np.flatnonzero(first_of_equals)
    thresholds = ranked[starts]
    found = ranked_positives.size - np.searchsorted(ranked_positives, thresholds)
    alarms = ranked.size - starts - found
    return RankedCounts(
        thresholds[::-1], found[::-1].astype(np.int64), alarms[::-1].astype(np.int64)
    )


def _checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.generic]]:
    truth, values = _numbers(labels, "labels"), _numbers(scores, "scores")
    if truth.shape != values.shape:
        raise DataError(
            f"labels and scores: expected the same shape, got {truth.shape} and {values.shape}"
        )
    if truth.dtype != np.bool_:
        strange = (truth != 0) & (truth != 1)
        if strange.any():
            raise DataError(
                f"labels: expected only 0 and 1, got {truth[strange][0]!s}; "
                "turn masks with other values into booleans first: mask > 0"
            )
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise DataError(
            f"scores: expected finite numbers, got {wrong} of {values.size} that are NaN or "
            "infinite; the model that made them is broken"
        )
    return truth.astype(np.bool_, copy=False).ravel(), values.ravel()


def _numbers(array: npt.ArrayLike, name: str) -> npt.NDArray[np.generic]:
    if (other := beside_arrays(array)) is not None:
        raise DataError(f"{name}: expected an array of numbers, got {other}")
    try:
        numbers = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{name}: expected an array of numbers, got {error}") from None
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected an array of numbers, got dtype {numbers.dtype}")
    return numbers
