"""What a score means: from a map to one number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from destseg.data.bands import bands

_PIXELS_AT_A_TIME = 2**22


def image_score(
    anomaly_map: NDArray[np.float32], fraction: float, inspected: int | None = None
) -> float:
    """Return how anomalous an image is: the mean over the highest fraction of its map.

    A fraction instead of a number of pixels (the paper's 100 of 256 x 256) means the same at any
    size.

    Args:
        anomaly_map: float [h, w] in [0, 1], at the model's size.
        fraction: of the pixels in (0, 1]; at least one pixel is taken.
        inspected: how many pixels the fraction is of, where the map is 0 outside a region of
            interest; ``None`` is all of them.

    Returns:
        The score in [0, 1].
    """
    pixels = anomaly_map.size if inspected is None else inspected
    highest = _highest(anomaly_map, min(pixels, max(1, round(fraction * pixels))))
    # In order, so that the sum does not depend on where in the map they lay.
    highest.sort()
    return float(highest.mean(dtype=np.float64))


def _highest(anomaly_map: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the highest values of a map, in any order, without a copy of a large one.

    Some rows at a time: those that are above all but ``count`` of what was seen are kept.
    """
    # Of many, nearly all are kept anyway.
    at_a_time = anomaly_map.size if count > anomaly_map.size // 8 else _PIXELS_AT_A_TIME
    kept = np.empty(0, np.float32)
    for rows in bands(anomaly_map.shape, at_a_time):
        values = anomaly_map[rows].reshape(-1)
        if len(kept) == count:
            values = values[values > kept.min()]
        kept = np.concatenate((kept, values)) if len(kept) else values
        if len(kept) > count:
            kept = np.partition(kept, len(kept) - count)[len(kept) - count :]
    return np.array(kept, dtype=np.float32)
