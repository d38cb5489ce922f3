"""What a sample shows of an image: the whole or a random crop, turned, moved, enlarged or not."""

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
        down, right: pixels by which what is seen is moved.
        zoom: how much larger it is seen; 1 is as it is.
        goes_on: whether its border's pixels go on where the image ends; else there is grey (114).
    """

    y: int
    x: int
    height: int
    width: int
    degrees: float = 0.0
    down: float = 0.0
    right: float = 0.0
    zoom: float = 1.0
    goes_on: bool = False


def draw_view(
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    rotation: float = 0.0,
    quarter_turns: bool = False,
    shift: float = 0.0,
    crop: tuple[int, int] | None = None,
    inspected: NDArray[np.bool_] | None = None,
) -> View:
    """Draw what a sample shows of an image.

    Args:
        size: (height, width) of the image.
        generator: where all random numbers come from.
        rotation: largest angle in degrees, either way (section 4.1 of the paper: per category).
        quarter_turns: whether it is also turned by a multiple of 90 degrees; of 180 where what is
            shown is no square, most of which a quarter turn would push out of the frame.
        shift: how far it is moved, and how much larger or smaller it is seen, at most, as a
            fraction of its sides; crops lie anywhere and are neither.  Where it is varied at all,
            the border's pixels go on, as a part out of place brings no grey with it; where turned,
            in half of the views.  (Measured: in all of them bottle's bright ground becomes so
            certain that one a tenth darker is a defect; in none grid's own border is one.)
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
        ways = 4 if height == width else 2
        degrees = 360.0 / ways * int(generator.integers(ways))
    if rotation:
        degrees += float(generator.uniform(-rotation, rotation))
    goes_on = shift > 0 and (not rotation or bool(generator.random() < 0.5))
    if not shift or crop is not None:
        return View(y, x, height, width, degrees, goes_on=goes_on)
    down, right, larger = generator.uniform(-shift, shift, 3).tolist()
    zoom = math.exp(larger)
    return View(y, x, height, width, degrees, down * height, right * width, zoom, goes_on=goes_on)


def show(image: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return what a view shows of an image, bilinear.

    A turned crop shows in its corners what lies beside it in the image.

    Args:
        image: uint8 [H, W, 3].
        view: drawn for the image's size.

    Returns:
        uint8 [height, width, 3].
    """
    border = cv2.BORDER_REPLICATE if view.goes_on else cv2.BORDER_CONSTANT
    return _show(image, view, cv2.INTER_LINEAR, border, (CORNER_GREY,) * 3)


def show_mask(mask: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
    """Return what a view shows of a mask, bool [height, width], nearest; false where it ends."""
    shown = _show(mask.view(np.uint8), view, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, 0)
    return shown.view(np.bool_)


def _show(
    pixels: NDArray[np.uint8], view: View, how: int, border: int, outside: Any
) -> NDArray[np.uint8]:
    if (view.degrees, view.down, view.right, view.zoom) == (0, 0, 0, 1):
        window = (slice(view.y, view.y + view.height), slice(view.x, view.x + view.width))
        return pixels[window]
    # Only what the turned window can reach: OpenCV has a limit of 32,767 pixels a side, and what
    # is cut off here is not in the image or not in the view.
    moved = max(abs(view.down), abs(view.right))
    radius = math.ceil((math.hypot(view.height, view.width) / 2 + moved) / min(1, view.zoom)) + 2
    middle_y, middle_x = view.y + (view.height - 1) / 2, view.x + (view.width - 1) / 2
    top, left = max(0, math.floor(middle_y) - radius), max(0, math.floor(middle_x) - radius)
    reach = pixels[top : math.ceil(middle_y) + radius + 1, left : math.ceil(middle_x) + radius + 1]
    turn = cv2.getRotationMatrix2D((middle_x - left, middle_y - top), view.degrees, view.zoom)
    turn[:, 2] += np.array((view.right + left - view.x, view.down + top - view.y))
    shown = cv2.warpAffine(
        np.ascontiguousarray(reach),
        turn,
        (view.width, view.height),
        flags=how,
        borderMode=border,
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
