"""What inspecting an image gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.bands import bands
from destseg.data.drawing import outline, overlay
from destseg.data.images import resize_map, write_image
from destseg.data.outputs import require_apart
from destseg.data.paths import AnyPath, expanded
from destseg.errors import ImageError
from destseg.inference.calibration import TOLERANCE
from destseg.inference.sources import ImageLike, named, path_of, read


@dataclass(frozen=True)
class Region:
    """A connected part of the map above the pixel threshold, in pixels of the image.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        x, y: left and top of its box.
        width, height: of its box.
        area: number of its pixels.
        peak: highest map value in it, in [0, 1].
        peak_x, peak_y: where that is.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float
    peak_x: int
    peak_y: int


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What is said of one image.

    It is a value: two are equal where all of it is, the map too; it can be hashed and pickled.

    Thread safety: nothing of ours changes it, and no other result has its map, so any number of
    threads may use one.

    Attributes:
        path: the file's as it was given, ~ expanded; a number for an image without a file.
        score: how anomalous, in [0, 1]; higher is worse.
        p_value: fraction of good parts expected to look at least as anomalous, in (0, 1].
        is_defective: whether the score is above the threshold, which holds the tolerance already.
        threshold: the image score's threshold.
        pixel_threshold: the map's threshold, which bounds the regions.
        anomaly_map: float32 in [0, 1], as the model gave it, of the size that it sees the image
            at; from tiles [height, width], more where the image was smaller than a tile.
        height, width: of the image in pixels.
        regions: where the heatmap is above its threshold, the highest peak first.
        bit_depth: bits that the model takes values of 16-bit images to use.
    """

    path: str
    score: float
    p_value: float
    is_defective: bool
    threshold: float
    pixel_threshold: float
    anomaly_map: NDArray[np.float32]
    height: int
    width: int
    regions: tuple[Region, ...]
    bit_depth: int = DataSettings.bit_depth

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return np.array_equal(self.anomaly_map, other.anomaly_map) and self._facts == other._facts

    def __hash__(self) -> int:
        return hash(self._facts)

    def __repr__(self) -> str:
        height, width = self.anomaly_map.shape
        return (
            f"Result(path={self.path!r}, score={self.score:.4f}, p_value={self.p_value:.4f}, "
            f"is_defective={self.is_defective}, regions={len(self.regions)}, map={width}x{height}, "
            f"image={self.width}x{self.height})"
        )

    @property
    def _facts(self) -> tuple[Any, ...]:
        """All but the map."""
        names = (item.name for item in fields(self) if item.name != "anomaly_map")
        return tuple(getattr(self, name) for name in names)

    @property
    def is_borderline(self) -> bool:
        """Whether rounding could turn the decision: another runtime may say otherwise."""
        return abs(self.score - self.threshold) <= TOLERANCE

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """The map at the image's own size, float32 [height, width] in [0, 1], never re-scaled.

        The map itself where it has that size; else made anew at each use, so that results of large
        images can be kept.
        """
        return resize_map(self.anomaly_map, (self.height, self.width))

    def overlay(self, image: ImageLike | None = None) -> NDArray[np.uint8]:
        """Return the image with its heatmap on the fixed scale and its regions outlined.

        Args:
            image: what was inspected; ``None`` reads the file at ``path`` again.

        Returns:
            uint8 RGB [height, width, 3].

        Raises:
            ImageError: if it cannot be read, or is of another size than what was inspected.
        """
        if image is None and not Path(self.path).is_file():
            raise ImageError(
                self.path, "expected a file to draw on, got none there; give the image itself"
            )
        ((path, content),) = named([self.path if image is None else image])
        if isinstance(content, ImageError):
            raise content
        # It was read once already, so its size is known to be acceptable.
        limit = self.height * self.width
        pixels = read(content, path, max_pixels=limit, bit_depth=self.bit_depth)
        if pixels.shape[:2] != (self.height, self.width):
            raise ImageError(
                path,
                f"expected the image that was inspected, {self.width} x {self.height}, got one of "
                f"{pixels.shape[1]} x {pixels.shape[0]}; inspect it again",
            )
        heatmap = self.heatmap
        thickness = max(1, round(math.sqrt(self.height * self.width) / 400))
        return outline(
            overlay(pixels, heatmap), heatmap > self.pixel_threshold, thickness=thickness
        )

    def save_overlay(self, path: AnyPath, image: ImageLike | None = None) -> None:
        """Write what ``overlay`` gives: JPEG, PNG, BMP, TIFF or WebP, as the suffix says.

        Args:
            path: file to write or replace, but never the image itself; folders are made.
            image: as in ``overlay``.

        Raises:
            ImageError: as ``overlay``, or if the suffix names no format.
            SettingsError: if the file is the image itself.
            DataError: if it cannot be written.
        """
        target, given = expanded(path), None if image is None else path_of(image)
        require_apart([target], [Path(each) for each in (self.path, given) if each])
        write_image(target, self.overlay(image))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; the map is left out."""
        return {
            "path": self.path,
            "score": self.score,
            "p_value": self.p_value,
            "is_defective": self.is_defective,
            "threshold": self.threshold,
            "width": self.width,
            "height": self.height,
            "regions": [dict(vars(region)) for region in self.regions],
        }


@dataclass(frozen=True, eq=False)
class Failure:
    """An image of which nothing can be said, and why; equal to another with the same reason.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        path: as in ``Result``.
        error: what was expected, what came and what to do.
    """

    path: str
    error: ImageError

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Failure) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.path, self.error.reason))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"path": self.path, "error": self.error.reason}


def find_regions(heatmap: NDArray[np.float32], threshold: float) -> tuple[Region, ...]:
    """Return the 8-connected parts of a map above a threshold, the highest peak first.

    Args:
        heatmap: float [h, w].
        threshold: pixels above it, not at it, belong to a region.
    """
    box = _box_above(heatmap, threshold)
    if box is None:
        return ()
    heatmap, left, top = heatmap[box], box[1].start, box[0].start
    above = (heatmap > threshold).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    regions = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        inside = (slice(y, y + height), slice(x, x + width))
        peak, peak_y, peak_x = _peak(heatmap[inside], labels[inside], label)
        regions.append(
            Region(
                x=left + x,
                y=top + y,
                width=width,
                height=height,
                area=area,
                peak=peak,
                peak_x=left + x + peak_x,
                peak_y=top + y + peak_y,
            )
        )
    return tuple(sorted(regions, key=lambda region: -region.peak))


def _box_above(heatmap: NDArray[np.float32], threshold: float) -> tuple[slice, slice] | None:
    """Return the box of what is above a threshold; labels of a whole large map cost its size."""
    rows = np.flatnonzero(heatmap.max(axis=1) > threshold)
    if not rows.size:
        return None
    columns = np.flatnonzero(heatmap[rows[0] : rows[-1] + 1].max(axis=0) > threshold)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _peak(heatmap: NDArray[np.float32], labels: NDArray[Any], label: int) -> tuple[float, int, int]:
    """Return the highest value with a label, and its row and column: the first of equal ones."""
    highest, where = -np.inf, (0, 0)
    for rows in bands(heatmap.shape):
        values = np.where(labels[rows] == label, heatmap[rows], -np.inf)
        y, x = divmod(int(values.argmax()), values.shape[1])
        if values[y, x] > highest:
            highest, where = float(values[y, x]), (rows.start + y, x)
    return highest, *where
