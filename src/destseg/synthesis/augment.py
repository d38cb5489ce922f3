"""What a sample shows of an image: the whole or a random crop, turned or not, in what light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

CORNER_GREY = 114


@dataclass(frozen=True)
class View:
    """A window of an image, turned about its middle.

    Attributes:
        y, x: the window's first row and column.
        height, width: its size in pixels.
        degrees: counterclockwise; 0 is not turned.
    """

    y: int
    x: int
    height: int
    width: int
    degrees: float = 0.0


def draw_view(
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    rotation: float = 0.0,
    quarter_turns: bool = False,
    crop: tuple[int, int] | None = None,
    inspected: NDArray[np.bool_] | None = None,
) -> View:
    """Draw what a sample shows of an image.

    Args:
        size: (height, width) of the image.
        generator: where all random numbers come from.
        rotation: largest angle in degrees, either way (section 4.1 of the paper: per category).
        quarter_turns: whether it is also turned by a multiple of 90 degrees.
        crop: (height, width) of a random window to show, at most the image's; ``None`` is the
            whole.
        inspected: bool of the image's size; a crop's middle lies in the box of what is
            inspected, as far as the image's borders allow.
    """
    y, x, height, width = 0, 0, *size
    if crop is not None:
        boxes = [(0, side) for side in size] if inspected is None else _box(inspected)
        y, x = (
            _start(low, high, side, shown, generator)
            for (low, high), side, shown in zip(boxes, size, crop, strict=True)
        )
        height, width = crop
    degrees = 0.0
    if quarter_turns:
        degrees = 90.0 * int(generator.integers(4))
    if rotation:
        degrees += float(generator.uniform(-rotation, rotation))
    return View(y, x, height, width, degrees)


def draw_light(
    generator: np.random.Generator, light: float, white_balance: float
) -> NDArray[np.uint8] | None:
    """Draw what another light makes of each value of each colour: a factor and a gamma.

    Args:
        generator: where all random numbers come from.
        light: natural logarithm of the largest factor, and of the largest gamma.
        white_balance: of the largest factor of one colour.

    Returns:
        uint8 [256, 3]; ``None``, with nothing drawn, where both are 0.
    """
    if not light and not white_balance:
        return None
    factor, gamma = np.exp(generator.uniform(-light, light, 2))
    colours = np.exp(generator.uniform(-white_balance, white_balance, 3))
    values = 255 * factor * colours * (np.arange(256)[:, None] / 255) ** gamma
    return np.asarray(np.rint(values.clip(0, 255)), np.uint8)


def relight(image: NDArray[np.uint8], table: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return an image in another light.

    Args:
        image: uint8 [h, w, 3].
        table: as ``draw_light`` gives it; ``None`` changes nothing.
    """
    if table is None:
        return image
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[None]), np.uint8)


def show(image: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return what a view shows of an image, bilinear; grey (114) where the image ends.

    A turned crop shows in its corners what lies beside it in the image.

    Args:
        image: uint8 [H, W, 3].
        view: drawn for the image's size.

    Returns:
        uint8 [height, width, 3].
    """
    return _show(image, view, cv2.INTER_LINEAR, (CORNER_GREY,) * 3)


def show_mask(mask: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
    """Return what a view shows of a mask, bool [height, width], nearest; false where it ends."""
    return _show(mask.view(np.uint8), view, cv2.INTER_NEAREST, 0).view(np.bool_)


def _show(pixels: NDArray[np.uint8], view: View, how: int, outside: Any) -> NDArray[np.uint8]:
    if view.degrees == 0:
        window = (slice(view.y, view.y + view.height), slice(view.x, view.x + view.width))
        return pixels[window]
    # Only what the turned window can reach: OpenCV has a limit of 32,767 pixels a side, and what
    # is cut off here is not in the image or not in the view.
    radius = math.ceil(math.hypot(view.height, view.width) / 2) + 2
    middle_y, middle_x = view.y + (view.height - 1) / 2, view.x + (view.width - 1) / 2
    top, left = max(0, math.floor(middle_y) - radius), max(0, math.floor(middle_x) - radius)
    reach = pixels[top : math.ceil(middle_y) + radius + 1, left : math.ceil(middle_x) + radius + 1]
    turn = cv2.getRotationMatrix2D((middle_x - left, middle_y - top), view.degrees, 1.0)
    turn[:, 2] -= (view.x - left, view.y - top)
    shown = cv2.warpAffine(
        np.ascontiguousarray(reach),
        turn,
        (view.width, view.height),
        flags=how,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )
    return shown.astype(np.uint8, copy=False)


def _box(inspected: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, behind the last) row, then column, of what is true."""
    bounds = []
    for axis in (1, 0):
        there = np.flatnonzero(inspected.any(axis=axis))
        bounds.append((int(there[0]), int(there[-1]) + 1))
    return bounds


def _start(low: int, high: int, side: int, crop: int, generator: np.random.Generator) -> int:
    first, last = (min(max(0, end - crop // 2), side - crop) for end in (low, high))
    return int(generator.integers(first, last + 1))
