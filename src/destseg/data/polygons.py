"""What polygons cover of an image."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

_SUB_PIXEL_BITS = 8


def covered(polygons: Iterable[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels have their centres in polygons, bool [height, width].

    Args:
        polygons: x and y of their points in pixels, counted from the image's edge, float64 [n, 2].
        size: height and width of the image.
    """
    mask = np.zeros(size, np.uint8)
    for points in polygons:
        # Half a pixel less: OpenCV counts from the first pixel's centre.
        places = np.rint((points - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32)
        # One by one: together, what two polygons have in common would be a hole.
        cv2.fillPoly(mask, [places], 1, shift=_SUB_PIXEL_BITS)
    return mask > 0
