"""A camera's noise: how much of it an image has, and what of it is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.data.bands import bands
from destseg.data.choice import evenly

_TWICE_DIFFERED = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_PER_LEVEL = 6 * 0.6745  # the median size of its answers to noise of one level
_BLOCK = 16
_SHADES = 4
_QUIETEST = 0.25
_DARKEST, _BRIGHTEST = 4, 251  # beyond which a sensor cuts a part of its noise off
_INSIDE = 0.7  # of a block's pixels, at least
_BANDS = 16
_UNSEEN = 1.0  # a deviation in grey levels that is too much and changes no decision
AXES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)
"""Brightness and two differences of colours, unit vectors float32 [3, 3]."""


@dataclass(frozen=True)
class UsualNoise:
    """How much noise good images have, as the largest standard deviation of each (``Noise.most``).

    Attributes:
        typical: the median of the images, in grey levels.
        most: the most of them, in grey levels.
    """

    typical: float
    most: float

    @classmethod
    def of(cls, images: Sequence[float]) -> UsualNoise:
        """Return it of the images' own figures, at least one."""
        return cls(round(float(np.median(images)), 3), round(max(images), 3))


@dataclass(frozen=True)
class Noise:
    """How much noise there is, from dark to bright: light comes in grains, so it varies with that.

    Attributes:
        shades: mean green value of a quarter of the image each, rising, float64 [4].
        deviations: standard deviation of the noise there, in grey levels, float64 [4].
        everywhere: what three quarters of the image, whatever their shade, have at least.
    """

    shades: NDArray[np.float64]
    deviations: NDArray[np.float64]
    everywhere: float

    @property
    def most(self) -> float:
        """The largest of the standard deviations."""
        return float(self.deviations.max())

    def beyond(self, usual: UsualNoise) -> Noise | None:
        """Return the noise that makes it more than is typical, if it is more than all there was.

        A rough defect may fill a shade, or much of the image; noise is everywhere.  So half of the
        shades and three quarters of the image have to have too much.

        Returns:
            ``None`` where there is none that changes a decision.
        """
        found = np.array([np.median(self.deviations), self.everywhere])
        if (found**2 < usual.most**2 + _UNSEEN**2).any():
            return None
        surplus = np.sqrt(np.maximum(0, self.deviations**2 - usual.typical**2))
        return replace(self, deviations=surplus)


def noise_of(image: NDArray[np.uint8]) -> Noise:
    """Return how much noise an image has.

    It is told by differences of differences, down and across, of which a smooth surface has none
    (Immerkær, "Fast noise variance estimation", 1996), in blocks of 16 x 16 pixels.  These are
    parted by their brightness into four shades, and of each the quietest quarter counts: what is
    rough there beside edges, texture and defects is noise.  Blocks that are black or white do not
    count, where it is cut off.

    Args:
        image: uint8 RGB [h, w, 3]; its green is looked at, of a large one in bands spread over it.

    Returns:
        Without any noise where there are fewer than 16 blocks to tell it by.
    """
    rough, bright = _spread_blocks(image[..., 1])
    if len(rough) < _SHADES**2:
        return Noise(np.linspace(0, 255, _SHADES), np.zeros(_SHADES), 0.0)
    parts = np.array_split(np.argsort(bright, kind="stable"), _SHADES)
    return Noise(
        np.array([bright[part].mean() for part in parts]),
        np.array([_ranked(rough[part], _QUIETEST) for part in parts]),
        float(_ranked(rough, _QUIETEST)),
    )


def relative_variances(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the variance of noise along each of ``AXES``, float32 [3], where green has 1.

    Where each colour has noise of its own that is 1 along each; where all have the same, as a grey
    camera's have, nearly all of it lies along the brightness: 2.9, 0.05, 0.05.
    """
    mean = np.asarray(cv2.transform(image, np.full((1, 3), 1 / 3)), np.uint8)
    green, together = (_spread_blocks(plane)[0] for plane in (image[..., 1], mean))
    brightness = 1.0
    if len(green) and len(together):
        quiet = float(_ranked(green, _QUIETEST))
        brightness = 3 * (float(_ranked(together, _QUIETEST)) / max(quiet, 1e-6)) ** 2
    # Not all of 3: what black and white cut off is not alike in all colours.
    brightness = min(brightness, 2.9)
    rest = (3 - brightness) / 2
    return np.array([brightness, rest, rest], np.float32)


def _ranked(values: NDArray[Any], fraction: float) -> NDArray[Any]:
    """Return of each row the value that a fraction of them is below: [...] of [..., k]."""
    place = int(fraction * values.shape[-1])
    return np.asarray(np.partition(values, place, axis=-1)[..., place])


def _spread_blocks(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what ``_blocks`` does, of a large plane in bands spread over it."""
    # A row of blocks at least, however wide the image is.
    some = evenly(list(bands(plane.shape, max(2**18, _BLOCK * plane.shape[1]))), _BANDS)
    return np.concatenate([_blocks(plane[rows]) for rows in some], axis=1)


def _blocks(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how rough blocks are, in levels of noise, and how bright: [2, blocks]."""
    height, width = (side // _BLOCK * _BLOCK for side in plane.shape)
    if not height or not width:
        return np.empty((2, 0))
    whole = np.ascontiguousarray(plane[:height, :width])
    differences = cv2.convertScaleAbs(cv2.filter2D(whole, cv2.CV_16S, _TWICE_DIFFERED))
    # Every second column tells as much in half of the time, which every image pays.
    pixels = differences[:, ::2].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK // 2)
    # The median: an edge or specks that fill less than half of a block make it no rougher.
    rough = _ranked(pixels.swapaxes(1, 2).reshape(-1, _BLOCK**2 // 2), 0.5) / _PER_LEVEL
    exposed = ((whole >= _DARKEST) & (whole <= _BRIGHTEST)) * np.uint8(255)
    inside = _means(exposed) > 255 * _INSIDE
    return np.stack([rough[inside], _means(whole)[inside]])


def _means(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of each block, rounded: [blocks]."""
    size = values.shape[1] // _BLOCK, values.shape[0] // _BLOCK
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.uint8).ravel()
