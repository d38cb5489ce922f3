"""Large images a band of rows at a time, so that what a step needs in between stays small."""

from __future__ import annotations

from collections.abc import Iterator


def bands(shape: tuple[int, ...], pixels: int = 2**18) -> Iterator[slice]:
    """Yield the rows of an image some at a time: so many pixels at most, but at least one row.

    >>> list(bands((5, 100), 250))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    height, width = shape[:2]
    rows = max(1, pixels // max(1, width))
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))
