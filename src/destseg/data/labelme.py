"""Polygons drawn with labelme: a .json file beside each image, in the image's pixels."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.data.polygons import covered
from destseg.errors import DataError

SUFFIX = ".json"

_FEWEST = {"polygon": 3, "rectangle": 2, "circle": 2}
_FAR = 2**20
"""Pixels away from an image at which no shape begins: OpenCV's whole numbers would overflow."""
_TURNS = np.linspace(0, 2 * math.pi, 64, endpoint=False)


@dataclass(frozen=True, eq=False)
class Labelme:
    """What one file of labelme says of its image.

    Attributes:
        path: the file.
        size: (height, width) of the image that was drawn on; ``None`` where the file has none.
        polygons: each float64 [n, 2], x and y in pixels, (0, 0) the image's corner; n >= 3.
        labels: of each polygon.
    """

    path: Path
    size: tuple[int, int] | None
    polygons: tuple[NDArray[np.float64], ...]
    labels: tuple[str, ...]

    @property
    def label(self) -> str:
        """The label of most polygons, of several the first."""
        return Counter(self.labels).most_common(1)[0][0]

    def outside(self, size: tuple[int, int]) -> int:
        """Return how many polygons reach out of an image of a (height, width) by over a pixel."""
        high = np.array(size[::-1]) + 1
        return sum(bool(((p < -1) | (p > high)).any()) for p in self.polygons)

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return what the polygons cover of an image, bool [height, width].

        Raises:
            DataError: if they were drawn on an image of another size, or lie far outside.
        """
        if self.size not in (None, size):
            raise DataError(
                f"{self.path}: expected polygons on an image of {size[1]} x {size[0]} pixels "
                f"(width x height), got ones drawn on {self.size[1]} x {self.size[0]}. "
                "Draw them anew on this image."
            )
        if self.polygons and (far := max(np.abs(each).max() for each in self.polygons)) > _FAR:
            raise DataError(
                f"{self.path}: expected points in pixels of an image of {size[1]} x {size[0]}, got "
                f"{far:g}. Draw that shape anew."
            )
        return covered(self.polygons, size)


def read_labelme(path: Path) -> Labelme:
    """Read a file of labelme: its polygons, rectangles and circles.

    Raises:
        DataError: if it is none, or has no shape, or one without an area.
    """
    expected = 'expected a file of labelme, {"shapes": [{"label": ..., "points": [[x, y], ...]}]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {expected}, got {error}") from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{path}: {expected}, got other JSON. Move it out of the folder.")
    if not shapes:
        raise DataError(
            f"{path}: expected at least one polygon around a defect, got none. Draw it; or remove "
            "this file, and the image is used for measuring only."
        )
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    polygons = tuple(_polygon(shape, f"{path}: shape {k}") for k, shape in enumerate(shapes, 1))
    labels = tuple(str(shape.get("label") or "defect") for shape in shapes)
    return Labelme(path, size, polygons, labels)


def _polygon(shape: Any, where: str) -> NDArray[np.float64]:
    kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else None
    if kind not in _FEWEST:
        raise DataError(f"{where}: expected a polygon, rectangle or circle, got {kind!r}")
    try:
        points = np.array(shape["points"], np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where}: expected points [[x, y], ...] in pixels, got others") from None
    if len(points) < _FEWEST[kind] or not np.isfinite(points).all():
        raise DataError(
            f"{where}: expected at least {_FEWEST[kind]} points of a {kind}, got {len(points)}"
        )
    if kind == "polygon":
        return points
    (left, top), (right, bottom) = points[:2]
    if kind == "rectangle":
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    radius = math.hypot(right - left, bottom - top)
    around = np.stack((np.cos(_TURNS), np.sin(_TURNS)), axis=1)
    return np.asarray(points[0] + radius * around, np.float64)
