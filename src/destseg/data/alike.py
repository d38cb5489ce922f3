"""Images that look nearly the same: as a rule the same part again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from destseg.data.images import resize

SIDE = 32
"""Pixels a side of the small copies that are compared."""

LEVELS = 1.0
"""Highest mean difference, in grey levels of 255, of copies that look alike."""

CONTRAST = 0.05
"""The same as a fraction of the contrast (standard deviation): plain surfaces all look alike."""

_ROUNDING = 1e-3  # of means in float32


def alike(images: Iterable[NDArray[np.uint8]]) -> list[int]:
    """Return for each image the number of the first one of those that look like it.

    Two look alike where their copies of 32 x 32 pixels differ by at most one grey level in the
    mean, and by at most a twentieth of the contrast of either.  What looks like one that looks like
    a third belongs to it too.  Our own rule: on MVTec AD's bottle and the magnetic tiles it finds
    one pair each, on pill and grid none; of the ball screw, photographed again and again, half.

    Ten thousand images take 100 MB and seconds, or minutes where all are equally bright.

    Args:
        images: uint8 RGB [h, w, 3], of any sizes.
    """
    copies = [resize(image, (SIDE, SIDE)) for image in images]
    if not copies:
        return []
    pixels = np.stack(copies)  # [n, 32, 32, 3]
    means = pixels.mean(axis=(1, 2, 3), dtype=np.float64)
    limits = np.minimum(LEVELS, CONTRAST * pixels.std(axis=(1, 2, 3), dtype=np.float64))
    # Means of copies, or of parts of them, differ by no more than their pixels do in the mean:
    # only what is near in both is compared pixel by pixel.
    rising = np.argsort(means, kind="stable")
    pixels, limits, means = pixels[rising], limits[rising], means[rising]
    parts = pixels.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4), dtype=np.float32)
    parts = parts.reshape(len(parts), -1)  # [n, 192]
    first = list(range(len(pixels)))
    for index, limit in enumerate(limits):
        end = int(np.searchsorted(means, means[index] + limit, side="right"))
        rough = np.abs(parts[index + 1 : end] - parts[index]).mean(axis=1)
        near = [
            int(other)
            for other in np.flatnonzero(rough <= limit + _ROUNDING) + index + 1
            if _first(first, int(rising[index])) != _first(first, int(rising[other]))
        ]
        if not near:
            continue
        apart = np.abs(pixels[near].astype(np.int16) - pixels[index]).mean(axis=(1, 2, 3))
        for other in np.array(near)[apart <= np.minimum(limits[near], limit)]:
            _join(first, int(rising[index]), int(rising[other]))
    return [_first(first, index) for index in range(len(first))]


def _first(first: list[int], index: int) -> int:
    while first[index] != index:
        first[index] = first[first[index]]
        index = first[index]
    return index


def _join(first: list[int], one: int, other: int) -> None:
    low, high = sorted((_first(first, one), _first(first, other)))
    first[high] = low
