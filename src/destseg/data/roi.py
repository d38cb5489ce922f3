"""Region of interest: the part of every image that is inspected."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.config import DataSettings
from destseg.data.decoding import open_frame
from destseg.data.masks import read_mask
from destseg.data.polygons import covered
from destseg.errors import DataError

POLYGON_SIDE = 2048
"""Polygons are drawn on a square of this side, which is stretched to each image."""

_FORMAT = (
    'expected {"polygons": [[[x, y], [x, y], [x, y], ...], ...]} with x and y as fractions of '
    "width and height in [0, 1]"
)


@dataclass(frozen=True, eq=False)
class Roi:
    """Which pixels are inspected, for images of any size: it is stretched to each.

    Attributes:
        mask: bool [h, w], true where an image is inspected; at least one pixel is.
    """

    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise DataError(
                "expected a region of interest with pixels to inspect (not 0), got none"
            )

    def at(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the region at another (height, width), bool [height, width].

        Enlarged, a pixel is what is nearest to it; made smaller, it is inspected if any part of
        it is, so that no region vanishes.
        """
        if self.mask.shape == tuple(size):
            return self.mask
        return _stretch(_stretch(self.mask, size[0], 0), size[1], 1)

    def to_png(self) -> bytes:
        """Return the mask as a PNG of one bit a pixel, which ``from_png`` reads."""
        encoded = io.BytesIO()
        Image.fromarray(self.mask).save(encoded, "PNG")
        return encoded.getvalue()

    @classmethod
    def from_png(cls, content: bytes) -> Roi:
        """Return what ``to_png`` wrote; the caller vouches for the content by its hash."""
        with open_frame(io.BytesIO(content), Path("region of interest"), sys.maxsize) as frame:
            return cls(np.array(frame.image, bool))


def inspected_at(roi: Roi | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return what is inspected of an image of (height, width), bool [height, width].

    Without a region that is all of it.
    """
    return np.ones(size, bool) if roi is None else roi.at(size)


def read_roi(path: str | Path, *, max_pixels: int = DataSettings.max_pixels) -> Roi:
    """Read a region of interest.

    Args:
        path: an image, whose pixels that are marked as ``read_mask`` reads them are inspected; or
            a ``.json`` file with polygons, ``{"polygons": [[[x, y], ...], ...]}``, as fractions
            of width and height.
        max_pixels: width times height above which an image is refused before it is decoded.

    Raises:
        ImageError: if the image is missing, cannot be read, or could mean more than one thing.
        DataError: if polygons are missing, malformed or out of [0, 1], or nothing is inspected.
    """
    path = Path(path)
    polygons = path.suffix.lower() == ".json"
    mask = _draw(_polygons(path)) if polygons else read_mask(path, max_pixels=max_pixels)
    try:
        return Roi(mask)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def is_other_region(path: str, roi: Roi | None, max_pixels: int) -> bool:
    """Whether a file has another region than a run's; it may be gone."""
    if roi is None or not Path(path).exists():
        return False
    return not np.array_equal(read_roi(path, max_pixels=max_pixels).mask, roi.mask)


def _polygons(path: Path) -> list[NDArray[np.float64]]:
    """Return polygons, each float64 [n, 2] of x and y in [0, 1], n >= 3."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {_FORMAT}, got {error.strerror}; check --roi") from None
    except ValueError as error:
        raise DataError(f"{path}: {_FORMAT}, got no JSON: {error}") from None
    listed = content.get("polygons") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: {_FORMAT}, got {_short(content)}")
    return [_polygon(points, f"{path}: polygon {k}") for k, points in enumerate(listed, 1)]


def _polygon(points: Any, where: str) -> NDArray[np.float64]:
    pairs = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_number, point))
        for point in points
    )
    if not pairs or len(points) < 3:
        raise DataError(f"{where}: {_FORMAT}, at least three points each, got {_short(points)}")
    outside = [point for point in points if not all(0 <= fraction <= 1 for fraction in point)]
    if outside:
        raise DataError(
            f"{where}: expected x and y as fractions of width and height in [0, 1], got "
            f"{outside[0]}; divide pixels by the image's width and height"
        )
    return np.array(points, np.float64)


def _draw(polygons: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
    return covered((POLYGON_SIDE * each for each in polygons), (POLYGON_SIDE, POLYGON_SIDE))


def _stretch(mask: NDArray[np.bool_], length: int, axis: int) -> NDArray[np.bool_]:
    own = mask.shape[axis]
    places = np.arange(length)
    if length >= own:
        return np.asarray(np.take(mask, (2 * places + 1) * own // (2 * length), axis=axis))
    return np.asarray(np.logical_or.reduceat(mask, places * own // length, axis=axis))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
