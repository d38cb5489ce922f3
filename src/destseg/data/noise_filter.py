"""An image without a camera's noise."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.data.bands import bands
from destseg.data.images import resize
from destseg.data.noise import AXES, Noise, relative_variances

_SIDES = (3, 5, 7)
_LEFT = 0.4  # of the noise, behind each of the filters
_PATCH = 8
_STEP = _PATCH // 2
_REACH = sum(side // 2 for side in _SIDES) + _SIDES[-1] // 2 + _PATCH
_MOST = 8  # times smaller: beyond, noise is smeared in the same way
_MORE = 1.15  # times the variance that the quietest quarter of the blocks tells of
_COSINES = np.stack([cv2.dct(row).ravel() for row in np.eye(_PATCH, dtype=np.float32)], 1)
_WAVES = np.kron(_COSINES, _COSINES)  # the cosine transform of a patch, [64, 64]
# Squares of sines: of patches that overlap by a half the weights of a pixel add up to one.
_WEIGHTS = np.sin(np.pi * (np.arange(_PATCH) + 0.5) / _PATCH) ** 2
_WEIGHTS = np.outer(_WEIGHTS, _WEIGHTS).astype(np.float32).ravel()


def without_noise(
    image: NDArray[np.uint8], noise: Noise, before: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return an image with noise filtered out.

    Three local Wiener filters (Lee, 1980), each wider than the one before, make a guess: a pixel
    keeps as much of its distance from the mean around it as is more than noise there.  Then the
    noisy image's own frequencies, in patches of 8 x 8 pixels that overlap by a half, keep as much
    as the guess has of them beside noise (an empirical Wiener filter: Dabov et al., 2007, section
    III, without the matching of patches).

    Args:
        image: uint8 RGB [h, w, 3].
        noise: what is filtered out.
        before: (height, width) before the image was made smaller, which smears noise over
            neighbours; ``None`` where it was not.

    Returns:
        uint8 [h, w, 3].
    """
    of_waves = variances_of_waves(before or image.shape[:2], image.shape[:2])
    along = np.multiply.outer(relative_variances(image), of_waves.ravel()) * np.float32(_MORE)
    filtered = np.empty_like(image)
    # Not fewer rows than the filters need around them, however wide the image is.
    for rows in bands(image.shape, max(2**18, 2 * _REACH * image.shape[1])):
        # As far as the filters reach, and at a multiple of the step, so that no band shows.
        first = max(0, rows.start - _REACH) // _STEP * _STEP
        values = image[first : rows.stop + _REACH].astype(np.float32)
        variance = _variance(values[..., 1], noise)
        guess, left = values, variance * of_waves.mean()
        for side in _SIDES:
            guess = _wiener(guess, left, side)
            left = left * np.float32(_LEFT**2)
        found = _wiener_of_patches(values, guess, variance, along)
        own = found[rows.start - first :][: rows.stop - rows.start]
        filtered[rows] = np.rint(own).clip(0, 255)
    return filtered


def variances_of_waves(before: tuple[int, int], after: tuple[int, int]) -> NDArray[np.float32]:
    """Return how much noise is in each wave of a patch, where ``noise_of`` finds a level of one.

    Noise of pixels that are independent has as much in each.  An image that is made smaller shows
    means of pixels that overlap, so its noise has more in long waves and less in short ones, by
    which it is told.

    Args:
        before: (height, width) before the image was resized.
        after: as it is now.

    Returns:
        The variances, float32 [8, 8], down and across; their mean is that of a pixel.
    """
    times = (round(min(was / now, _MOST), 2) for was, now in zip(before, after, strict=True))
    down, across = map(_of_side, times)
    return np.outer(down, across)


@functools.lru_cache(maxsize=64)
def _of_side(smaller: float) -> NDArray[np.float32]:
    if smaller <= 1:
        return np.ones(_PATCH, np.float32)
    # How a pixel of the small image is made of the large one's, away from the borders.
    pixels = 4 * _PATCH
    large = np.eye(round(pixels * smaller), dtype=np.float32)
    weights = resize(large, (pixels, len(large)))[_PATCH:-_PATCH]
    together = weights @ weights.T
    lags = [np.diagonal(together, lag).mean() for lag in range(_PATCH)]
    near = np.array(lags, np.float32)[np.abs(np.subtract.outer(range(_PATCH), range(_PATCH)))]
    # What second differences, by which noise is told, find of it.
    differed = (6 * lags[0] - 8 * lags[1] + 2 * lags[2]) / 6
    return np.asarray(np.diag(_COSINES @ near @ _COSINES.T) / differed, np.float32)


def _wiener_of_patches(
    values: NDArray[np.float32],
    guess: NDArray[np.float32],
    noise: NDArray[np.float32],
    along: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return values [h, w, 3] without noise.

    Its variance is that of a place [h, w, 1], times that along each of the axes and waves [3, 64].
    """
    height, width = values.shape[:2]
    # Half a patch in front, and to a whole number of patches behind.
    sides = [(side + 2 * _PATCH - 1) // _PATCH * _PATCH for side in (height, width)]
    behind = [side - own - _STEP for side, own in zip(sides, (height, width), strict=True)]

    def planes(image: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = cv2.copyMakeBorder(image, _STEP, behind[0], _STEP, behind[1], cv2.BORDER_REFLECT)
        return np.ascontiguousarray(np.atleast_3d(padded).transpose(2, 0, 1))

    given, guessed, variances = planes(values @ AXES.T), planes(guess @ AXES.T), planes(noise)
    found = np.zeros_like(given)
    for down in (0, _STEP):
        for across in (0, _STEP):
            place = np.s_[:, down : sides[0] - down, across : sides[1] - across]
            powers = (_patches(guessed[place]) @ _WAVES.T) ** 2
            there = _patches(variances[place]).mean(1)[:, None]
            noisy = (along[:, None] * there).reshape(powers.shape)
            kept = powers / np.maximum(powers + noisy, np.float32(1e-6))
            waves = (_patches(given[place]) @ _WAVES.T) * kept
            found[place] += _joined(waves @ _WAVES * _WEIGHTS, found[place].shape)
    return found[:, _STEP:, _STEP:][:, :height, :width].transpose(1, 2, 0) @ AXES


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
