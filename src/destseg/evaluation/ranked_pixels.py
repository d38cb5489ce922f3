"""What every threshold on maps finds: pixels, fractions of defective regions, regions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from destseg.evaluation.counts import RankedCounts
from destseg.evaluation.metrics import Curve, from_nothing, pr_curve, roc_curve, thinned


@dataclass(frozen=True)
class RankedPixels(RankedCounts):
    """The counts of pixels at each threshold, and beside them those of regions.

    A region is an 8-connected part of a mask.  The thresholds need not be all distinct scores:
    between two neighbours either only good pixels or only one score may lie, because a curve is
    straight there and no metric changes.

    Attributes:
        overlap: mean fraction of a region's pixels that are found, each region counting the same,
            float64 in [0, 1], rising [k].
        instances: regions whose own score is >= the threshold, int64, rising [k].
    """

    overlap: npt.NDArray[np.float64]
    instances: npt.NDArray[np.int64]

    @property
    def regions(self) -> int:
        """Number of regions."""
        return int(self.instances[-1]) if self.instances.size else 0

    def aupro(self, fpr_limit: float) -> float:
        """Return the area under ``pro_curve`` up to a false-positive rate, divided by that rate.

        The curve goes straight from one threshold to the next and to the limit (Bergmann et al.,
        MVTec AD, IJCV 2021, section 5.3). Of one class only it is NaN.

        Args:
            fpr_limit: in (0, 1].
        """
        if self.one_class:
            return math.nan
        rate = np.concatenate([np.zeros(1), self.false_positives / self.negatives])
        overlap = np.concatenate([np.zeros(1), self.overlap])
        inside = int(np.searchsorted(rate, fpr_limit, side="right"))
        at_limit = float(np.interp(fpr_limit, rate[inside - 1 :][:2], overlap[inside - 1 :][:2]))
        x = np.append(rate[:inside], fpr_limit)
        y = np.append(overlap[:inside], at_limit)
        return float(np.diff(x) @ (y[1:] + y[:-1])) / (2 * fpr_limit)

    def instance_precision(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the precision at each distinct instance score, and how many instances reach it.

        Precision is defective pixels over all pixels with a value >= the score, and is made
        monotone: never below that at a lower instance score (DeSTSeg, section 4.2).

        Returns:
            Precision, float64 [s], and instances with at least the score, int64 [s]; scores fall.
        """
        scores = np.flatnonzero(np.diff(self.instances, prepend=0))
        found = self.true_positives[scores]
        precision = found / (found + self.false_positives[scores])
        monotone = np.maximum.accumulate(precision[::-1])[::-1]
        return monotone, self.instances[scores]

    def iap(self) -> float:
        """Return the mean of ``instance_precision`` over the instances; NaN of one class only."""
        if self.one_class:
            return math.nan
        precision, found = self.instance_precision()
        return float(np.diff(found, prepend=0) @ precision) / self.regions

    def iap_at(self, recall: float) -> float:
        """Return ``instance_precision`` at the highest score that finds so many of all instances.

        Args:
            recall: the fraction, in (0, 1], taken as the decimal number that it prints as: 0.9 of
                10 instances are 9, although the float nearest to 0.9 is a little more.

        Returns:
            In [0, 1]; NaN of one class only.
        """
        if self.one_class:
            return math.nan
        precision, found = self.instance_precision()
        needed = math.ceil(Fraction(str(float(recall))) * self.regions)
        return float(precision[np.searchsorted(found, needed)])

    def curves(self, points: int = 500) -> dict[str, Curve]:
        """Return the curves ``roc``, ``pr`` and ``pro`` (overlap over false-positive rate)."""
        return {
            "roc": roc_curve(self, points),
            "pr": pr_curve(self, points),
            "pro": self.pro_curve(points),
        }

    def pro_curve(self, points: int = 500) -> Curve:
        """Return the regions' mean overlap (y) over the false-positive rate (x), (0, 0) to (1, 1).

        Args:
            points: at most so many, as in ``roc_curve``.
        """
        if self.one_class:
            return thinned([], [], [], points)
        return from_nothing(self, self.false_positives / self.negatives, self.overlap, points)
