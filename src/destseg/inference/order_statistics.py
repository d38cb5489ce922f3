"""Order statistics of calibration scores: which of them is the threshold, and what that keeps."""

from __future__ import annotations

import bisect
import math

import numpy as np


def allowed_above(n: int, max_false_alarm_rate: float, confidence: float = 0.0) -> float:
    """Return how many of n calibration scores may lie above the one that is the threshold.

    Split conformal prediction (Vovk et al., 2005): a good part's p-value is at most a with
    probability at most a, and takes values k / (n + 1).

    Args:
        n: number of calibration images, or of their groups, at least 1.
        max_false_alarm_rate: the rate a asked for, in (0, 1].
        confidence: probability in [0, 1) over the draw of the calibration images with which the
            rate is to hold (``rate_bound``); 0 asks for it in the mean over all such draws.

    Returns:
        At least 0, also where n is too small for the rate asked for.  In the mean it need not be
        whole: of groups parts of a vote are counted.
    """
    if not confidence:
        # The small term keeps 0.1 * 10 from becoming 0.9999...
        return max(0.0, max_false_alarm_rate * (n + 1) + 1e-9 - 1)
    # The bound rises with the rank; rank 0 is taken even where it is above the rate.
    return bisect.bisect_right(
        range(1, n), max_false_alarm_rate, key=lambda rank: rate_bound(n, rank, confidence)
    )


def images_needed(max_false_alarm_rate: float, confidence: float) -> int:
    """Return how many calibration images, or groups, keep a rate with the highest as threshold."""
    if not confidence:
        return math.ceil(1 / max_false_alarm_rate - 1e-9) - 1
    rate = min(max_false_alarm_rate, 1 - 1e-9)
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def rate_bound(n: int, rank: int, confidence: float) -> float:
    """Return the false-alarm rate that a threshold keeps with some confidence.

    The rate at the rank-th highest of n scores is distributed as Beta(rank + 1, n - rank), or lies
    below where scores tie, whatever the scores' distribution is (Wilks, 1941: tolerance limits).

    Args:
        n: number of calibration images, or of groups of which the highest scores are taken.
        rank: of the score that is the threshold, counted from 0 at the highest; below n.
        confidence: probability over the draw of the calibration images, in [0, 1).

    Returns:
        The rate in [0, 1] that is exceeded with a probability of 1 - confidence.

    >>> round(rate_bound(59, 0, 0.95), 3), round(rate_bound(299, 0, 0.95), 3)
    (0.05, 0.01)
    """
    if rank == 0:
        return _rounded(-math.expm1(math.log1p(-confidence) / n))
    k = np.arange(rank + 1)
    logs = np.cumsum(np.log([1.0, *((n - k[:-1]) / k[1:])]))  # of n over k
    low, high = 0.0, 1.0
    for _ in range(60):  # halving: at most so many parts of n are above, with 1 - confidence
        rate = (low + high) / 2
        if rate == high:  # no number is left between them, and beyond 1 there is no logarithm
            break
        inside, outside = math.log(rate), math.log1p(-rate)
        at_most = np.exp(logs + k * inside + (n - k) * outside).sum()
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return _rounded(high)


def _rounded(rate: float) -> float:
    # Its last digits hang on how a machine adds, and whether it is at most another must not.
    return float(f"{rate:.12g}")


def chance_of_flagged(n: int, rank: int, flagged: int, images: int) -> float:
    """Return how likely it is that so many of new good images, or more, are above the threshold.

    Where they come as the calibration images came, their number is beta-binomial with the
    parameters of ``rate_bound``, or smaller where scores tie.

    Args:
        n: number of calibration images.
        rank: of the score that is the threshold, counted from 0 at the highest; below n.
        flagged: of the new images.
        images: how many there are.

    Returns:
        A probability in [0, 1].

    >>> round(chance_of_flagged(19, 0, 1, 1), 3)
    0.05
    """

    def log_choose(upper: int, lower: int) -> float:
        return math.lgamma(upper + 1) - math.lgamma(lower + 1) - math.lgamma(upper - lower + 1)

    whole = log_choose(images + n, n)
    ways = (
        log_choose(k + rank, rank) + log_choose(images - k + n - rank - 1, n - rank - 1)
        for k in range(flagged, images + 1)
    )
    return min(1.0, math.fsum(math.exp(each - whole) for each in ways))
