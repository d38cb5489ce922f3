"""A camera's noise: how much of it an image has, and the image without what is too much."""

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
_SIDES = (3, 5, 7)
_LEFT = 0.4  # of the noise, behind each of the filters
_REACH = sum(side // 2 for side in _SIDES) + _SIDES[-1] // 2
_UNSEEN = 1.0  # a deviation in grey levels that is too much and changes no decision


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
    green = image[..., 1]
    # A row of blocks at least, however wide the image is.
    some = evenly(list(bands(green.shape, max(2**18, _BLOCK * green.shape[1]))), _BANDS)
    found = [_blocks(green[rows]) for rows in some]
    rough, bright = np.concatenate(found, axis=1)  # [blocks] each
    if len(rough) < _SHADES**2:
        return Noise(np.linspace(0, 255, _SHADES), np.zeros(_SHADES), 0.0)
    parts = np.array_split(np.argsort(bright, kind="stable"), _SHADES)
    return Noise(
        np.array([bright[part].mean() for part in parts]),
        np.array([_ranked(rough[part], _QUIETEST) for part in parts]),
        float(_ranked(rough, _QUIETEST)),
    )


def _ranked(values: NDArray[Any], fraction: float) -> NDArray[Any]:
    """Return of each row the value that a fraction of them is below: [...] of [..., k]."""
    place = int(fraction * values.shape[-1])
    return np.asarray(np.partition(values, place, axis=-1)[..., place])


def _blocks(green: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how rough blocks are, in levels of noise, and how bright: [2, blocks]."""
    height, width = (side // _BLOCK * _BLOCK for side in green.shape)
    if not height or not width:
        return np.empty((2, 0))
    whole = np.ascontiguousarray(green[:height, :width])
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


def without_noise(image: NDArray[np.uint8], noise: Noise) -> NDArray[np.uint8]:
    """Return an image with noise filtered out.

    Three local Wiener filters (Lee, 1980), each wider than the one before: a pixel keeps as much of
    its distance from the mean around it as is more than noise there.

    Args:
        image: uint8 RGB [h, w, 3].
        noise: what is filtered out.

    Returns:
        uint8 [h, w, 3].
    """
    filtered = np.empty_like(image)
    for rows in bands(image.shape):
        # As far as the filters reach, so that no band shows.
        first = max(0, rows.start - _REACH)
        values = image[first : rows.stop + _REACH].astype(np.float32)
        variance = _variance(values[..., 1], noise)
        for side in _SIDES:
            values = _wiener(values, variance, side)
            variance = variance * np.float32(_LEFT**2)
        own = values[rows.start - first :][: rows.stop - rows.start]
        filtered[rows] = np.rint(own).clip(0, 255)
    return filtered


def _variance(green: NDArray[np.float32], noise: Noise) -> NDArray[np.float32]:
    """Return the variance of noise at each pixel [h, w, 1], by how bright it is around there."""
    shade = cv2.blur(np.ascontiguousarray(green), (_SIDES[-1], _SIDES[-1]))
    return np.interp(shade, noise.shades, noise.deviations**2)[..., None].astype(np.float32)


def _wiener(
    values: NDArray[np.float32], noise: NDArray[np.float32], side: int
) -> NDArray[np.float32]:
    mean = cv2.blur(values, (side, side))
    # Of all colours together: what is there is there in all of them.
    variance = (cv2.blur(values * values, (side, side)) - mean * mean).mean(2, keepdims=True)
    kept = 1 - noise / np.maximum(np.maximum(variance, noise), np.float32(1e-6))
    return np.asarray(mean + kept * (values - mean), np.float32)
