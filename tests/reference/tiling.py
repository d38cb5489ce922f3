"""Tiles pixel by pixel, as slowly as it is plain."""

import math

import numpy as np


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one side."""
    step = max(1, round(tile * (1 - overlap)))
    found = []
    at = 0
    while at + tile < length:
        found.append(at)
        at += step
    found.append(length - tile)
    return found


def merged(height: int, width: int, tile: int, overlap: float, map_of) -> np.ndarray:
    """Weighted mean of what each tile says of each pixel, weights sin^2 of the depth."""
    result = np.zeros((height, width))
    rows, columns = starts(height, tile, overlap), starts(width, tile, overlap)
    maps = {(y, x): map_of(y, x) for y in rows for x in columns}
    for py in range(height):
        for px in range(width):
            total = weights = 0.0
            for (y, x), anomaly_map in maps.items():
                if y <= py < y + tile and x <= px < x + tile:
                    weight = math.sin(math.pi * (py - y + 0.5) / tile) ** 2
                    weight *= math.sin(math.pi * (px - x + 0.5) / tile) ** 2
                    total += weight * anomaly_map[py - y, px - x]
                    weights += weight
            result[py, px] = total / weights
    return result
