"""What pixel counts hold: every value, or how many values fall into each bin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import numpy.typing as npt

from destseg.evaluation.ranked_pixels import RankedPixels
from destseg.evaluation.score_bins import BINS, bins_of, lowest_scores


class Store(ABC):
    """Pixels and regions of any number of images."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held."""

    @abstractmethod
    def add_good(self, scores: npt.NDArray[np.floating]) -> None:
        """Take the values [k] of an image without a defect."""

    @abstractmethod
    def add(
        self,
        scores: npt.NDArray[np.floating],
        defective: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.int32],
    ) -> None:
        """Take an image with at least one region.

        Args:
            scores: of each pixel [k].
            defective: whether it is in a region [k].
            regions: the number of its region from 1 on, int32 [k]; 0 for good pixels.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take all that another store of the same class holds, which stays as it is."""

    @abstractmethod
    def ranked(self) -> RankedPixels:
        """Return what the thresholds find."""


class ExactStore(Store):
    """Every pixel's value, and of defective ones also their weight: 1 / pixels of their region."""

    def __init__(self) -> None:
        # An entry is an image.  Merged stores share the arrays, so they are never written to.
        self._scores: list[npt.NDArray[np.floating]] = []
        self._found: list[npt.NDArray[np.floating]] = []
        self._weights: list[npt.NDArray[np.float64]] = []
        self._instances: list[npt.NDArray[np.floating]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all values held."""
        floats = [*self._scores, *self._found, *self._instances]
        return sum(each.nbytes for each in floats) + sum(each.nbytes for each in self._weights)

    def add_good(self, scores: npt.NDArray[np.floating]) -> None:
        """Take the values [k] of an image without a defect."""
        self._scores.append(scores.copy())

    def add(
        self,
        scores: npt.NDArray[np.floating],
        defective: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.int32],
    ) -> None:
        """Take an image with at least one region; see ``Store.add``."""
        found, region = scores[defective], regions[defective] - 1
        sizes = np.bincount(region)
        order = np.lexsort((found, region))
        self._scores.append(scores.copy())
        self._found.append(found)
        self._weights.append(1 / sizes[region])
        self._instances.append(found[order][_middles(sizes)])

    def merge(self, other: Self) -> None:
        """Take all that another exact store holds; its arrays are shared."""
        self._scores += other._scores
        self._found += other._found
        self._weights += other._weights
        self._instances += other._instances

    def ranked(self) -> RankedPixels:
        """Return what the thresholds find that matter to a metric or to a curve's shape."""
        scores, found = _joined(self._scores), _joined(self._found)
        order = np.argsort(found)
        found = found[order]
        weights = np.concatenate([*self._weights, np.zeros(0)])[order]
        scores.sort()
        instances = np.sort(_joined(self._instances))
        # Between two values of defective pixels only good pixels are found, one after the other,
        # and every curve is straight.  So its two ends say all, and a few per cent of the values
        # are thresholds.  The last one is the lowest value, which finds everything.
        above = np.searchsorted(scores, found, side="right")
        ends = scores[above[above < scores.size]]
        thresholds = np.unique(np.concatenate([found, ends, scores[:1]]))[::-1]
        positives = found.size - np.searchsorted(found, thresholds)
        pixels = scores.size - np.searchsorted(scores, thresholds)
        fractions = np.concatenate([np.zeros(1), np.cumsum(weights[::-1])])
        return RankedPixels(
            thresholds,
            positives.astype(np.int64),
            (pixels - positives).astype(np.int64),
            _as_fraction(fractions)[positives],
            (instances.size - np.searchsorted(instances, thresholds)).astype(np.int64),
        )


class BoundedStore(Store):
    """How many pixels, defective pixels and instances fall into each bin, and their weights."""

    def __init__(self) -> None:
        self._pixels = np.zeros(BINS, dtype=np.int64)
        self._defective = np.zeros(BINS, dtype=np.int64)
        self._weights = np.zeros(BINS, dtype=np.float64)
        self._instances = np.zeros(BINS, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all counts, whatever was counted."""
        counts = (self._pixels, self._defective, self._weights, self._instances)
        return sum(each.nbytes for each in counts)

    def add_good(self, scores: npt.NDArray[np.floating]) -> None:
        """Count the values [k], each in [0, 1], of an image without a defect."""
        np.add.at(self._pixels, bins_of(scores.astype(np.float32, copy=False)), 1)

    def add(
        self,
        scores: npt.NDArray[np.floating],
        defective: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.int32],
    ) -> None:
        """Count an image with at least one region; see ``Store.add``; in [0, 1]."""
        bins = bins_of(scores.astype(np.float32, copy=False))
        found, region = bins[defective], regions[defective] - 1
        sizes = np.bincount(region)
        # One sort of whole numbers orders the regions, and in each of them the bins.
        ordered = np.sort(region * np.int64(BINS) + found)
        np.add.at(self._pixels, bins, 1)
        np.add.at(self._defective, found, 1)
        np.add.at(self._weights, found, 1 / sizes[region])
        np.add.at(self._instances, ordered[_middles(sizes)] % BINS, 1)

    def merge(self, other: Self) -> None:
        """Add the counts of another bounded store."""
        self._pixels += other._pixels
        self._defective += other._defective
        self._weights += other._weights
        self._instances += other._instances

    def ranked(self) -> RankedPixels:
        """Return what a threshold at the lower end of each bin that is not empty finds."""
        bins = np.flatnonzero(self._pixels)[::-1]
        positives = np.cumsum(self._defective[bins])
        return RankedPixels(
            lowest_scores(bins),
            positives,
            np.cumsum(self._pixels[bins]) - positives,
            _as_fraction(np.cumsum(self._weights[bins])),
            np.cumsum(self._instances[bins]),
        )


def _middles(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each region's score is, after rising sorts of all regions one after the other.

    It is the value at index n // 2 of the falling order of its n values.
    """
    middles: npt.NDArray[np.int64] = np.cumsum(sizes) - 1 - sizes // 2
    return middles


def _joined(parts: list[npt.NDArray[np.floating]]) -> npt.NDArray[np.floating]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _as_fraction(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rising sums as fractions of the last one, so that rounding cannot pass 1."""
    return sums / sums[-1] if sums.size and sums[-1] > 0 else sums
