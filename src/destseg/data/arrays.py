"""Arrays of NumPy's that are not quite arrays: what they add would be lost or mislead."""

from __future__ import annotations

import numpy as np


def beside_arrays(given: object) -> str | None:
    """Return what an object is that looks like an array and behaves as another, and what to do.

    >>> beside_arrays(np.zeros(3))
    >>> beside_arrays(np.ma.masked_less(np.arange(3), 1))
    'a masked array, whose mask would be passed over; fill it first: array.filled(value)'
    """
    if isinstance(given, np.ma.MaskedArray):
        return "a masked array, whose mask would be passed over; fill it first: array.filled(value)"
    if isinstance(given, np.matrix):
        return "a matrix, which has two dimensions whatever is done; give numpy.asarray(matrix)"
    return None
