"""Images for people: heatmaps, overlays, outlines and contact sheets, on one fixed scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.data.bands import bands
from destseg.data.images import as_image, resize

_WHITE = 255
_INK = (40, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_map(anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Colour an anomaly map: 0 is dark blue, 1 dark red, the same in every image.

    Args:
        anomaly_map: float [h, w] in [0, 1]; values outside are clipped, never rescaled.

    Returns:
        uint8 [h, w, 3], RGB.
    """
    coloured = cv2.applyColorMap(levels_of(anomaly_map), cv2.COLORMAP_TURBO)
    return np.ascontiguousarray(coloured[..., ::-1])


def levels_of(anomaly_map: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return a map in whole numbers: uint8 [h, w], 0 to 255 for 0 to 1, the rest clipped."""
    levels = np.empty(anomaly_map.shape, np.uint8)
    for rows in bands(levels.shape):
        levels[rows] = np.rint(np.clip(anomaly_map[rows], 0, 1) * 255)
    return levels


def overlay(
    image: NDArray[np.uint8], heatmap: NDArray[np.floating[Any]], *, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Lay an anomaly map over its image, which stays as it is where the map is 0.

    Args:
        image: uint8 [H, W, 3].
        heatmap: float [H, W] in [0, 1]; values outside are clipped.
        opacity: fraction of the map's colour where the map is 1; elsewhere times the map's value.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the two differ in size.
    """
    _check_same_size(image, heatmap)
    drawn = np.empty_like(image)
    for rows in bands(image.shape):
        weight = opacity * np.clip(heatmap[rows], 0, 1)[..., None].astype(np.float32)
        mixed = image[rows] + weight * (colour_map(heatmap[rows]) - image[rows].astype(np.float32))
        drawn[rows] = np.rint(mixed)
    return drawn


def outline(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    colour: tuple[int, int, int] = (255, 0, 0),
    thickness: int = 1,
) -> NDArray[np.uint8]:
    """Draw the borders of a mask's regions, those of holes too, on a copy of the image.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: bool [H, W].
        colour: RGB, each 0 to 255.
        thickness: of the line, in pixels.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the two differ in size.
    """
    _check_same_size(image, mask)
    drawn = image.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, colour, thickness)
    return drawn


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    *,
    cell: tuple[int, int] = (256, 256),
    captions: Sequence[str] | None = None,
    gap: int = 8,
) -> NDArray[np.uint8]:
    """Lay images out in a grid of cells on white, each whole and centred in its cell.

    Args:
        rows: images, uint8 [H, W, 3] RGB or [H, W] grey; a short row leaves cells white.
        cell: (height, width) of a cell in pixels; images are scaled to fit, their aspect is kept.
        captions: one heading a column (ASCII), or ``None`` for none.
        gap: white pixels around and between cells.

    Returns:
        uint8 [H, W, 3] with W = columns * (cell width + gap) + gap.

    Raises:
        ValueError: there are no images, or not one heading a column.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("expected at least one image for a contact sheet, got none")
    if captions is not None and len(captions) != columns:
        raise ValueError(f"expected {columns} captions, one a column, got {len(captions)}")
    tall, wide = cell
    heading = 0 if captions is None else max(16, min(cell) // 8)
    down, right = tall + gap, wide + gap
    shape = (gap + heading + len(rows) * down, gap + columns * right, 3)
    sheet = np.full(shape, _WHITE, np.uint8)
    scale = min((_text_scale(text, wide, heading) for text in captions or ()), default=1.0)
    for column, caption in enumerate(captions or ()):
        _write(sheet[gap : gap + heading, gap + column * right :][:, :wide], caption, scale)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            fitted = _fit(image, cell)
            height, width = fitted.shape[:2]
            top = gap + heading + row * down + (tall - height) // 2
            left = gap + column * right + (wide - width) // 2
            sheet[top : top + height, left : left + width] = fitted
    return sheet


def _fit(image: NDArray[np.uint8], cell: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = as_image(image)
    scale = min(cell[0] / pixels.shape[0], cell[1] / pixels.shape[1])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return resize(pixels, (height, width))


def _text_scale(text: str, width: int, height: int) -> float:
    (full_width, full_height), below = cv2.getTextSize(text + "Ag", _FONT, 1.0, 1)
    return min(0.8 * height / (full_height + below), width / full_width)


def _write(area: NDArray[np.uint8], text: str, scale: float) -> None:
    # OpenCV draws into its own copy where an array is not contiguous.
    canvas = np.ascontiguousarray(area)
    cv2.putText(canvas, text, (0, round(0.7 * len(area))), _FONT, scale, _INK, 1, cv2.LINE_AA)
    area[:] = canvas


def _check_same_size(image: NDArray[np.uint8], other: NDArray[Any]) -> None:
    if image.shape[:2] != other.shape:
        raise ValueError(f"expected a map of {list(image.shape[:2])}, got {list(other.shape)}")
