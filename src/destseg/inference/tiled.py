"""A large image through a backend, tile by tile: memory for a batch of tiles and one map."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from destseg.data.tiling import Tile, merge, plan


def tiled_map(
    image: NDArray[np.uint8],
    backend: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    tile: int,
    overlap: float,
    batch_size: int,
    inspected: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return the anomaly map of an image, put together from its tiles' maps.

    Args:
        image: uint8 RGB [h, w, 3], sides at least ``tile``.
        backend: gives maps [n, tile, tile] for images [n, tile, tile, 3].
        tile: side of a tile in pixels.
        overlap: fraction of a tile's side that neighbours have in common, in [0, 1).
        batch_size: tiles that go through the backend together.
        inspected: bool [h, w]; tiles without a pixel to inspect are not run.

    Returns:
        float32 [h, w] in [0, 1]; meant only where pixels are inspected.
    """
    tiles = plan(image.shape[0], image.shape[1], tile, overlap)
    wanted = (each for each in tiles if inspected is None or inspected[each.window].any())
    return merge(tiles, _maps(image, backend, wanted, batch_size))


def _maps(
    image: NDArray[np.uint8],
    backend: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    tiles: Iterable[Tile],
    batch_size: int,
) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    remaining = iter(tiles)
    while batch := list(itertools.islice(remaining, batch_size)):
        maps = backend(np.stack([image[each.window] for each in batch]))
        yield from zip(batch, maps, strict=True)
