"""A camera's noise: how much of it an image has, and the image without what is too much."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.data.bands import bands
from destseg.data.choice import evenly

_TWICE_DIFFERED = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_PER_LEVEL = 6 * math.sqrt(2 / math.pi)  # the mean size of its answers to noise of one level
_BLOCK = 16
_QUIETEST = 0.25
_DARKEST, _BRIGHTEST = 4, 251  # beyond which a sensor cuts a part of its noise off
_INSIDE = 0.7  # of a block's pixels, at least
_FEWEST = 4
_BANDS = 16
_SIDES = (3, 5, 7)
_LEFT = 0.4  # of the noise, behind each of the filters
_REACH = sum(side // 2 for side in _SIDES)
_UNSEEN = 1.5  # grey levels that are too much and change no decision


def noise_of(image: NDArray[np.uint8]) -> float:
    """Return the standard deviation of an image's noise, in grey levels.

    It is told by differences of differences, down and across, of which a smooth surface has none
    (Immerkær, "Fast noise variance estimation", 1996).  Noise lies everywhere, so only the quietest
    quarter of all blocks of 16 x 16 pixels counts: no edge and no defect that leaves as much as
    that free is taken for noise.  Blocks that are black or white do not count, where it is cut off.

    Args:
        image: uint8 RGB [h, w, 3]; its green is looked at, of a large one in bands spread over it.

    Returns:
        At least 0; also 0 where there are too few blocks to tell.
    """
    green = image[..., 1]
    some = evenly(list(bands(green.shape)), _BANDS)
    found = np.concatenate([_noise_of_blocks(np.ascontiguousarray(green[rows])) for rows in some])
    return float(np.quantile(found, _QUIETEST)) if len(found) >= _FEWEST else 0.0


def _noise_of_blocks(green: NDArray[np.uint8]) -> NDArray[np.float32]:
    differences = cv2.convertScaleAbs(cv2.filter2D(green, cv2.CV_16S, _TWICE_DIFFERED))
    exposed = ((green >= _DARKEST) & (green <= _BRIGHTEST)).astype(np.uint8)
    return _in_blocks(differences)[_in_blocks(exposed) > _INSIDE] / np.float32(_PER_LEVEL)


def _in_blocks(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of each whole block, [h // 16, w // 16]."""
    means = cv2.boxFilter(values, cv2.CV_32F, (_BLOCK, _BLOCK))
    half = _BLOCK // 2
    height, width = (side // _BLOCK * _BLOCK for side in values.shape)
    return np.asarray(means[half:height:_BLOCK, half:width:_BLOCK], np.float32)


def surplus_noise(image: NDArray[np.uint8], most: float) -> float:
    """Return the standard deviation of the noise that an image has beyond the most there was.

    Args:
        image: uint8 RGB [h, w, 3].
        most: standard deviation of the noise that good images had at most, in grey levels.

    Returns:
        In grey levels; 0 where it is so little that it changes no decision.
    """
    surplus = math.sqrt(max(0.0, noise_of(image) ** 2 - most**2))
    return surplus if surplus >= _UNSEEN else 0.0


def without_noise(image: NDArray[np.uint8], level: float) -> NDArray[np.uint8]:
    """Return an image with noise filtered out.

    Three local Wiener filters (Lee, 1980), each wider than the one before: a pixel keeps as much of
    its distance from the mean around it as is more than noise there.

    Args:
        image: uint8 RGB [h, w, 3].
        level: standard deviation of the noise in grey levels, above 0.

    Returns:
        uint8 [h, w, 3].
    """
    filtered = np.empty_like(image)
    for rows in bands(image.shape):
        # As far as the filters reach, so that no band shows.
        first = max(0, rows.start - _REACH)
        values = image[first : rows.stop + _REACH].astype(np.float32)
        left = level
        for side in _SIDES:
            values = _wiener(values, left, side)
            left *= _LEFT
        filtered[rows] = np.rint(values[rows.start - first :][: rows.stop - rows.start]).clip(
            0, 255
        )
    return filtered


def _wiener(values: NDArray[np.float32], level: float, side: int) -> NDArray[np.float32]:
    mean = cv2.blur(values, (side, side))
    # Of all colours together: what is there is there in all of them.
    variance = (cv2.blur(values * values, (side, side)) - mean * mean).mean(2, keepdims=True)
    kept = 1 - level**2 / np.maximum(variance, level**2)
    return np.asarray(mean + kept * (values - mean), np.float32)
