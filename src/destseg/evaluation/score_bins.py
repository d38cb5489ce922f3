"""Fixed bins for scores in [0, 1] that are finest where saturated sigmoids put their values.

A float's bits, read as an integer, rise with it, and their top bits are a bin of constant
*relative* width: 2**-14 of the value.  That is fine near 0 and coarse near 1, where a sigmoid puts
most of what matters, so above 0.5 the bin comes from 1 - score instead, which float32 holds
exactly.  Both ends are resolved alike: 16,384 bins for each halving of the distance to 0 or to 1,
and 0 and 1 themselves have bins of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MANTISSA_BITS = 23
_KEPT_BITS = 14
_DROPPED_BITS = _MANTISSA_BITS - _KEPT_BITS
# The bits of 0.5, and of 2**-24, the smallest distance to 1 that a float32 below it can have.
_HALF = 126 << _KEPT_BITS
_NEXT_TO_ONE = 103 << _KEPT_BITS
_TOP = 2 * _HALF - (_NEXT_TO_ONE - 1)

BINS = _TOP + 1
"""How many bins there are; the same for every image and every model."""

# A chunk's four arrays stay in the processor's second-level cache.
_CHUNK = 1 << 16


def bins_of(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the bin of each score; a higher score never has a lower bin.

    Args:
        scores: float32 in [0, 1] [k]; values outside are not looked for.

    Returns:
        int64 in [0, BINS) [k].
    """
    bins = np.empty(scores.size, dtype=np.int64)
    for start in range(0, scores.size, _CHUNK):
        part = scores[start : start + _CHUNK]
        # Each of the two is constant in the half where the other one counts.  The clipping also
        # turns -0.0, whose bits are a negative integer, into 0.
        to_zero = part.view(np.int32) >> _DROPPED_BITS
        np.clip(to_zero, 0, _HALF, out=to_zero)
        to_one = (np.float32(1) - part).view(np.int32) >> _DROPPED_BITS
        np.clip(to_one, _NEXT_TO_ONE - 1, _HALF, out=to_one)
        to_zero -= to_one
        to_zero += _HALF
        bins[start : start + _CHUNK] = to_zero
    return bins


def lowest_scores(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the lowest score of each bin, which as a threshold finds the whole bin.

    Args:
        bins: int64 in [0, BINS) [k].

    Returns:
        float32 in [0, 1] [k].
    """
    lower = (np.minimum(bins, _HALF) << _DROPPED_BITS).astype(np.int32).view(np.float32)
    # The lowest score of an upper bin is the farthest from 1, with all dropped bits set, and as
    # scores there are multiples of 2**-24, the next nearer multiple.
    to_one = np.minimum(2 * _HALF - bins, _HALF - 1)
    farthest = ((to_one << _DROPPED_BITS) | ((1 << _DROPPED_BITS) - 1)).astype(np.int32)
    distance = np.floor(farthest.view(np.float32).astype(np.float64) * 2**24) / 2**24
    return np.where(bins <= _HALF, lower, 1 - distance).astype(np.float32)
