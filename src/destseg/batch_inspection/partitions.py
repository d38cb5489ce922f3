"""The plan of a batch: which images are inspected and written together, always the same."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

_LARGEST, _SMALLEST, _WANTED = 1000, 16, 64


@dataclass(frozen=True)
class Piece:
    """Images that are inspected together: those of a partition, or some of them.

    Attributes:
        partition: number of the partition, from 0 in the order of the listing.
        start, stop: which of the partition's images.
        names: of their files below the source's root; of Parquet the one file.
        sizes: of each image file in bytes, -1 where it is not known; empty for Parquet.
        groups: row groups of the Parquet file that the partition has, one after another.
        first_row: number in the Parquet file of the partition's first row.
        whole: whether it is all of the partition.
    """

    partition: int
    start: int
    stop: int
    names: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    first_row: int = 0
    whole: bool = True

    def __len__(self) -> int:
        return self.stop - self.start

    def to_json(self) -> str:
        """Return it as text; names that are no text too."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Piece:
        """Return the piece that ``to_json`` wrote."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("names", "sizes", "groups")}
        return cls(**{**values, **lists})

    def split(self, parts: int) -> list[Piece]:
        """Return the piece in at most so many parts of nearly the same size, in order."""
        parts = min(parts, len(self))
        bounds = [len(self) * part // parts for part in range(parts + 1)]
        return [self._between(low, high) for low, high in itertools.pairwise(bounds)]

    def _between(self, low: int, high: int) -> Piece:
        piece = replace(self, start=self.start + low, stop=self.start + high, whole=False)
        if self.groups:
            return piece
        return replace(piece, names=self.names[low:high], sizes=self.sizes[low:high])


def partition_size(images: int) -> int:
    """Return how many images a partition has by default: few enough that all actors get some."""
    return min(_LARGEST, max(_SMALLEST, -(-images // _WANTED)))


def plan_files(files: Sequence[tuple[str, int]], size: int) -> list[Piece]:
    """Return partitions of so many image files each, in the order of the listing.

    Args:
        files: (name, bytes) of each.
        size: images of a partition; the last one may have fewer.
    """
    pieces = []
    for number, low in enumerate(range(0, len(files), size)):
        chosen = files[low : low + size]
        names, sizes = zip(*chosen, strict=True)
        pieces.append(Piece(number, 0, len(chosen), names, sizes))
    return pieces


def plan_rows(files: Iterable[tuple[str, Sequence[int]]], size: int) -> list[Piece]:
    """Return partitions of whole row groups of one Parquet file each.

    Args:
        files: (name, rows of each row group).
        size: row groups are put together until there are so many rows.
    """
    pieces: list[Piece] = []
    for name, groups in files:
        chosen: list[int] = []
        first = rows = 0
        for index, count in enumerate(groups):
            chosen.append(index)
            rows += count
            if rows and (rows >= size or index == len(groups) - 1):
                piece = Piece(len(pieces), 0, rows, (name,), (), tuple(chosen), first)
                pieces.append(piece)
                chosen, first, rows = [], first + rows, 0
    return pieces


def fingerprint(pieces: Iterable[Piece]) -> str:
    """Return a SHA-256 of all that a plan says: another listing or size has another one."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(repr((piece.stop, piece.sizes, piece.groups, piece.first_row)).encode())
        for name in piece.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
