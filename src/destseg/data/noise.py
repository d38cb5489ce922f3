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
_PATCH = 8
_STEP = _PATCH // 2
_REACH = sum(side // 2 for side in _SIDES) + _SIDES[-1] // 2 + _PATCH
_MORE = 1.15  # times the variance that the quietest quarter of the blocks tells of
_UNSEEN = 1.0  # a deviation in grey levels that is too much and changes no decision
# Brightness and two differences of colours, in which a surface's colours hardly go together.
_AXES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
_AXES /= np.linalg.norm(_AXES, axis=1, keepdims=True)
_WAVES = np.stack([cv2.dct(row).ravel() for row in np.eye(_PATCH, dtype=np.float32)], 1)
_WAVES = np.kron(_WAVES, _WAVES).astype(np.float32)  # the cosine transform of a patch, [64, 64]
# Squares of sines: of patches that overlap by a half the weights of a pixel add up to one.
_WEIGHTS = np.sin(np.pi * (np.arange(_PATCH) + 0.5) / _PATCH) ** 2
_WEIGHTS = np.outer(_WEIGHTS, _WEIGHTS).astype(np.float32).ravel()


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


def without_noise(image: NDArray[np.uint8], noise: Noise) -> NDArray[np.uint8]:
    """Return an image with noise filtered out.

    Three local Wiener filters (Lee, 1980), each wider than the one before, make a guess: a pixel
    keeps as much of its distance from the mean around it as is more than noise there.  Then the
    noisy image's own frequencies, in patches of 8 x 8 pixels that overlap by a half, keep as much
    as the guess has of them beside noise (an empirical Wiener filter: Dabov et al., 2007, section
    III, without the matching of patches).

    Args:
        image: uint8 RGB [h, w, 3].
        noise: what is filtered out.

    Returns:
        uint8 [h, w, 3].
    """
    relative = _relative_variances(image)
    filtered = np.empty_like(image)
    for rows in bands(image.shape):
        # As far as the filters reach, and at a multiple of the step, so that no band shows.
        first = max(0, rows.start - _REACH) // _STEP * _STEP
        values = image[first : rows.stop + _REACH].astype(np.float32)
        variance = _variance(values[..., 1], noise)
        guess, left = values, variance
        for side in _SIDES:
            guess = _wiener(guess, left, side)
            left = left * np.float32(_LEFT**2)
        found = _wiener_of_patches(values, guess, variance * np.float32(_MORE), relative)
        own = found[rows.start - first :][: rows.stop - rows.start]
        filtered[rows] = np.rint(own).clip(0, 255)
    return filtered


def _relative_variances(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the variance of noise along each of the axes, float32 [3], where green has 1.

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


def _wiener_of_patches(
    values: NDArray[np.float32],
    guess: NDArray[np.float32],
    noise: NDArray[np.float32],
    relative: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return values [h, w, 3] without noise of a variance [h, w, 1], times one for each axis."""
    height, width = values.shape[:2]
    # Half a patch in front, and to a whole number of patches behind.
    sides = [(side + 2 * _PATCH - 1) // _PATCH * _PATCH for side in (height, width)]
    behind = [side - own - _STEP for side, own in zip(sides, (height, width), strict=True)]

    def planes(image: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = cv2.copyMakeBorder(image, _STEP, behind[0], _STEP, behind[1], cv2.BORDER_REFLECT)
        return np.ascontiguousarray(np.atleast_3d(padded).transpose(2, 0, 1))

    given, guessed, variances = planes(values @ _AXES.T), planes(guess @ _AXES.T), planes(noise)
    found = np.zeros_like(given)
    for down in (0, _STEP):
        for across in (0, _STEP):
            place = np.s_[:, down : sides[0] - down, across : sides[1] - across]
            powers = (_patches(guessed[place]) @ _WAVES.T) ** 2
            along = relative[:, None] * _patches(variances[place]).mean(1)
            kept = powers / np.maximum(powers + along.reshape(-1, 1), np.float32(1e-6))
            waves = (_patches(given[place]) @ _WAVES.T) * kept
            found[place] += _joined(waves @ _WAVES * _WEIGHTS, found[place].shape)
    return found[:, _STEP:, _STEP:][:, :height, :width].transpose(1, 2, 0) @ _AXES


def _patches(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return planes [c, h, w] as patches side by side, [c * patches, 64]."""
    count, height, width = planes.shape
    parted = planes.reshape(count, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    return parted.swapaxes(2, 3).reshape(-1, _PATCH**2)


def _joined(patches: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the planes [c, h, w] that ``_patches`` took apart."""
    count, height, width = shape
    parted = patches.reshape(count, height // _PATCH, width // _PATCH, _PATCH, _PATCH)
    return parted.swapaxes(2, 3).reshape(shape)


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
