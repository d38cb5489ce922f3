"""Large images in tiles of the model's size, and the tiles' maps as one; pure, no pixels read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_A_TIME = 64


@dataclass(frozen=True)
class Tile:
    """A square of an image.

    Attributes:
        y, x: its first row and column.
        size: its side in pixels.
    """

    y: int
    x: int
    size: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the tile in an array [height, width, ...]."""
        return slice(self.y, self.y + self.size), slice(self.x, self.x + self.size)


def size_for_tiles(height: int, width: int, tile: int) -> tuple[int, int]:
    """Return the (height, width) that an image is cut into tiles at.

    It is the image's own, unless a side is shorter than a tile: then it is scaled up, its
    aspect kept, until the shorter side is as long as a tile.
    """
    scale = tile / min(height, width)
    if scale <= 1:
        return height, width
    # The shorter side exactly: rounding must not leave it a pixel short.
    return max(tile, round(height * scale)), max(tile, round(width * scale))


def plan(height: int, width: int, tile: int, overlap: float) -> list[Tile]:
    """Return the tiles that cover an image, row by row; all are whole.

    Neighbours overlap by the fraction asked for; the last tile of a row or column is moved back to
    end at the border and overlaps more.

    Args:
        height: of the image in pixels, at least ``tile``.
        width: the same.
        tile: side of a tile in pixels.
        overlap: fraction of a tile's side that two neighbours have in common, in [0, 1).

    Raises:
        ValueError: a side is shorter than a tile, or the overlap is out of its range.
    """
    if min(height, width) < tile or tile < 1:
        raise ValueError(f"expected an image of at least {tile} x {tile}, got {width} x {height}")
    if not 0 <= overlap < 1:
        raise ValueError(f"expected an overlap in [0, 1), got {overlap}")
    step = max(1, round(tile * (1 - overlap)))
    rows, columns = ([*range(0, side - tile, step), side - tile] for side in (height, width))
    return [Tile(y, x, tile) for y in rows for x in columns]


def merge(
    tiles: Sequence[Tile], maps: Iterable[tuple[Tile, NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Blend the maps of tiles into the map of the whole image.

    A pixel is the mean of what the tiles say of it, weighted by how deep it lies in each: what a
    network says near a tile's border it says with half of the neighbourhood missing.

    Besides the result only one tile and a few rows are held: all weights together are an outer
    product, of what the tiles' rows and their columns add up to.

    Args:
        tiles: what ``plan`` gave, all of it.
        maps: tiles of the plan with their maps, float32 [size, size] in [0, 1], in any order.
            A tile that is left out counts as a map of zeros.

    Returns:
        float32 [height, width] in [0, 1].
    """
    side = tiles[0].size
    ramp = _ramp(side)
    window = np.outer(ramp, ramp)
    rows = _sums(sorted({tile.y for tile in tiles}), ramp)
    columns = _sums(sorted({tile.x for tile in tiles}), ramp)
    merged = np.zeros((len(rows), len(columns)), np.float32)
    for tile, anomaly_map in maps:
        merged[tile.window] += window * anomaly_map
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        block = merged[start : start + _ROWS_AT_A_TIME]
        block /= np.outer(rows[start : start + _ROWS_AT_A_TIME], columns)
        # A weighted mean of ones may round to a little more than 1.
        np.clip(block, 0, 1, out=block)
    return merged


def _ramp(side: int) -> NDArray[np.float32]:
    """Return weights that fall towards both ends and nowhere reach 0, float32 [side]."""
    return np.square(np.sin(np.pi * (np.arange(side) + 0.5) / side)).astype(np.float32)


def _sums(starts: Sequence[int], ramp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum along one side of ramps that begin at some places."""
    total = np.zeros(starts[-1] + len(ramp), np.float32)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return total
