"""Known defects as samples: an image of one, or its defect cut out and laid onto a good image.

What is cut out keeps a soft border of the surface around it, is mirrored and rotated a little, and
is made as bright as the place where it is laid: its own place give or take a small move, or of some
places anywhere the one whose surface is most like that around the defect.  So a defect of a part
hardly ever lands beside the part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.data.defects import Defect
from destseg.synthesis.textures import Images

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

_WHOLE = 1 / 3  # probability of the image itself: there are few, and the head would know them
_OWN_PLACE = 0.5  # probability that what is cut out stays where it was
_MOVE = 0.05  # then it is moved by at most this fraction of the sides
_PLACES = 12  # of so many places anywhere, the one that is most like its own
_DEGREES = 15.0
_ZOOM = 0.15  # natural logarithm of the largest factor
_LARGE = 0.5  # of a side: what is larger has but one place
_SOFT = 3  # pixels over which the border fades out
_RING = 6  # pixels around that, whose colours are compared
_JOINED = 5  # pieces nearer than so many pixels are one defect


class Sample(NamedTuple):
    """What a known defect gives training, before it is viewed like any other image.

    Attributes:
        source: the defect.
        clean: the good image that it was laid onto, uint8 [h, w, 3]; the defect's own image where
            that is the sample.
        image: with the defect, the same shape.
        mask: where the defect is, bool [h, w].
        around: of these pixels those that a crop has to show, bool [h, w].
    """

    source: Defect
    clean: Pixels
    image: Pixels
    mask: Mask
    around: Mask


class KnownDefects:
    """Samples of known defects; each type is drawn as often as any other.

    Args:
        defects: with masks, at least one.
        images: good parts, uint8 RGB [h, w, 3], that defects are laid onto.
        inspected: gives which pixels of an image of a size are inspected, bool [h, w]; ``None``:
            all.
    """

    def __init__(
        self,
        defects: Sequence[Defect],
        images: Images,
        inspected: Callable[[tuple[int, int]], Mask] | None = None,
    ) -> None:
        self._images = images
        self._inspected = inspected
        self._types: dict[str, list[tuple[Defect, Mask, NDArray[np.uint16]]]] = {}
        for each in defects:
            if each.mask is not None:
                of_type = self._types.setdefault(each.defect_type, [])
                of_type.append((each, each.mask, pieces(each.mask)))

    def draw(self, generator: np.random.Generator) -> Sample:
        """Draw a sample; all random numbers come from the generator."""
        of_type = list(self._types.values())[int(generator.integers(len(self._types)))]
        source, mask, numbers = of_type[int(generator.integers(len(of_type)))]
        piece = numbers == 1 + int(generator.integers(numbers.max()))
        if generator.random() >= _WHOLE:
            good = self._images[int(generator.integers(len(self._images)))]
            inspected = None if self._inspected is None else self._inspected(good.shape[:2])
            laid = lay(cut_out(source.image, mask, piece, generator), good, generator, inspected)
            if laid is not None:
                return Sample(source, good, laid[0], laid[1], laid[1])
        return Sample(source, source.image, source.image, mask, piece)


def pieces(mask: Mask) -> NDArray[np.uint16]:
    """Return the number, from 1, of the separate defect that each pixel of a mask belongs to.

    What lies a few pixels apart is one; 0 is what is not marked.
    """
    joined = cv2.dilate(mask.astype(np.uint8), _disc(_JOINED // 2))
    numbers = cv2.connectedComponents(joined, connectivity=8, ltype=cv2.CV_16U)[1]
    return np.where(mask, numbers, 0).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class CutOut:
    """A defect on a canvas of its own, mirrored, rotated and enlarged or made smaller.

    Attributes:
        pixels: float32 [p, q, 3] in 0..255.
        mask: the defect, bool [p, q].
        opacity: how much of the pixels is laid, float32 [p, q] in 0..1: soft around the defect.
        ring: the good surface around it, bool [p, q].
        middle: (row, column) of the defect's middle in its image, as fractions of the sides.
    """

    pixels: NDArray[np.float32]
    mask: Mask
    opacity: NDArray[np.float32]
    ring: Mask
    middle: tuple[float, float]


def cut_out(image: Pixels, mask: Mask, piece: Mask, generator: np.random.Generator) -> CutOut:
    """Cut a defect out of its image.

    Args:
        image: uint8 [h, w, 3].
        mask: bool [h, w], all that is defective in it.
        piece: bool [h, w], the part of it that is cut out; at least one pixel.
        generator: where all random numbers come from.
    """
    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
    middle_y, middle_x = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    degrees = float(generator.uniform(-_DEGREES, _DEGREES))
    zoom = math.exp(generator.uniform(-_ZOOM, _ZOOM))
    mirrored = generator.random(2) < 0.5
    across = math.hypot(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    side = 2 * math.ceil(zoom * across / 2) + 2 * (_SOFT + _RING) + 1  # at any angle
    turn = cv2.getRotationMatrix2D((0.0, 0.0), degrees, zoom)
    turn[:, 0] *= -1 if mirrored[1] else 1
    turn[:, 1] *= -1 if mirrored[0] else 1
    # OpenCV has a limit of 32,767 pixels a side: only what the canvas can reach is turned.
    reach = math.ceil(side / zoom) + 2
    top, left = max(0, int(middle_y) - reach), max(0, int(middle_x) - reach)
    window = (slice(top, int(middle_y) + reach + 1), slice(left, int(middle_x) + reach + 1))
    at = turn[:, :2] @ (middle_x - left, middle_y - top)
    turn[:, 2] = (side - 1) / 2 - at
    middle = float(middle_y) / mask.shape[0], float(middle_x) / mask.shape[1]
    image, mask, piece = image[window], mask[window], piece[window]

    def turned(pixels: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
        seen = np.ascontiguousarray(pixels)
        return np.asarray(cv2.warpAffine(seen, turn, (side, side), borderMode=border), np.uint8)

    def turned_mask(marked: Mask) -> Mask:
        return turned(255 * marked.astype(np.uint8), cv2.BORDER_CONSTANT) >= 128

    shown = turned_mask(piece)
    near = cv2.dilate(shown.astype(np.uint8), _disc(_SOFT))
    ring = cv2.dilate(near, _disc(_RING)) > near
    others = cv2.dilate(mask.astype(np.uint8), _disc(1)) > 0  # with the pixels at their edges
    ring &= turned_mask(np.ones_like(mask)) & ~turned_mask(others)
    soft = cv2.GaussianBlur(near.astype(np.float32), (0, 0), _SOFT / 2)
    return CutOut(
        pixels=turned(image, cv2.BORDER_REPLICATE).astype(np.float32),
        mask=shown,
        opacity=np.asarray(soft, np.float32),
        ring=ring,
        middle=middle,
    )


def lay(
    cut: CutOut, good: Pixels, generator: np.random.Generator, inspected: Mask | None = None
) -> tuple[Pixels, Mask] | None:
    """Lay what was cut out onto a good image.

    Args:
        cut: the defect.
        good: uint8 [h, w, 3].
        generator: where all random numbers come from.
        inspected: bool [h, w], where its middle may lie; ``None``: anywhere.

    Returns:
        The image, uint8 [h, w, 3], and where the defect is in it, bool [h, w]; ``None`` if nothing
        of it is there.
    """
    size = np.array(good.shape[:2])
    large = max(cut.mask.any(1).sum() / size[0], cut.mask.any(0).sum() / size[1]) > _LARGE
    if large or generator.random() < _OWN_PLACE:
        places = (cut.middle + generator.uniform(-_MOVE, _MOVE, (1, 2))) * size
    elif inspected is None:
        places = generator.random((_PLACES, 2)) * size
    else:
        allowed = np.flatnonzero(inspected)
        chosen = allowed[generator.integers(len(allowed), size=_PLACES)]
        places = np.stack(np.unravel_index(chosen, inspected.shape), axis=1).astype(np.float64)
    corners = [_corner(place, cut.mask, size) for place in places]
    top, left = min(corners, key=lambda corner: _unlikeness(cut, good, corner))
    here, there = _overlap(cut.mask.shape, (top, left), good.shape)
    if not cut.mask[here].any():
        return None
    under = good[there].astype(np.float32)
    ring, opacity = cut.ring[here], cut.opacity[here][..., None]
    pixels = cut.pixels[here]
    if ring.any():
        pixels = pixels + (under[ring].mean(0) - pixels[ring].mean(0))
    image, mask = good.copy(), np.zeros(good.shape[:2], bool)
    image[there] = np.rint((under + opacity * (pixels - under)).clip(0, 255))
    mask[there] = cut.mask[here]
    return image, mask


def _corner(place: NDArray[np.float64], mask: Mask, size: NDArray[np.int_]) -> tuple[int, int]:
    """Return where the canvas begins so that its middle is at a place and the defect inside."""
    corner = []
    for axis in (0, 1):
        there = np.flatnonzero(mask.any(1 - axis))
        low, high = -int(there[0]), int(size[axis]) - 1 - int(there[-1])
        start = round(float(place[axis])) - mask.shape[axis] // 2
        corner.append(min(max(start, low), high) if low <= high else (low + high) // 2)
    return corner[0], corner[1]


def _unlikeness(cut: CutOut, good: Pixels, corner: tuple[int, int]) -> float:
    """Return how far the colours under the ring are from its own, in grey levels."""
    here, there = _overlap(cut.mask.shape, corner, good.shape)
    ring = cut.ring[here]
    if not ring.any():
        return 0.0
    return float(np.abs(good[there][ring].astype(np.float32) - cut.pixels[here][ring]).mean())


def _overlap(
    canvas: tuple[int, ...], corner: tuple[int, int], image: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return which pixels of a canvas lie in an image, and which of the image they cover."""
    here, there = [], []
    for side, start, whole in zip(canvas, corner, image, strict=False):
        first, last = max(0, -start), max(0, min(side, whole - start))
        here.append(slice(first, last))
        there.append(slice(first + start, max(first, last) + start))
    return (here[0], here[1]), (there[0], there[1])


def _disc(radius: int) -> NDArray[np.uint8]:
    side = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(disc, np.uint8)
