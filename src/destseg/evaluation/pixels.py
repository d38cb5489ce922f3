"""How well maps tell defective pixels from good ones: exactly, or in memory of a fixed size.

``PixelCounts`` takes one map after the other.  What it holds differs between exact and
bounded counts (``pixel_stores``); what every threshold finds (``RankedPixels``) and the metrics
are the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from destseg.data.arrays import beside_arrays
from destseg.errors import DataError
from destseg.evaluation.metrics import Curve
from destseg.evaluation.pixel_stores import BoundedStore, ExactStore, Store
from destseg.evaluation.ranked_pixels import RankedPixels

Pair = tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]
"""A map [h, w] and its mask [h, w], True where the image is defective."""


@dataclass(frozen=True)
class PixelMetrics:
    """How well the pixels of maps tell defects from good surface; every metric in [0, 1] or NaN.

    Attributes:
        auroc, ap: over all pixels of all images, as scikit-learn defines them.
        f1_max: the highest F1 of any threshold.
        aupro: area under the per-region overlap up to the false-positive rate that was asked for
            (0.3), divided by that rate.
        iap: instance average precision (DeSTSeg, section 4.2).
        iap_90: precision at the highest threshold with the instance recall asked for (0.9).
        instances: number of 8-connected defective regions.
        reasons: for each metric that is NaN by its name, why; else empty.
    """

    auroc: float
    ap: float
    f1_max: float
    aupro: float
    iap: float
    iap_90: float
    instances: int
    reasons: Mapping[str, str] = field(default_factory=dict)


def pixel_metrics(
    pairs: Iterable[Pair], *, exact: bool = True, fpr_limit: float = 0.3, recall: float = 0.9
) -> PixelMetrics:
    """Return all metrics of maps against masks; NaN with a reason where a class is absent.

    Args:
        pairs: a map [h, w] and a bool mask [h, w] for each image; sizes may differ.
        exact: hold every value (4 bytes a pixel); else count in bins, see ``PixelCounts.empty``.
        fpr_limit: where the area under the overlap ends, in (0, 1].
        recall: fraction of instances for ``iap_90``, in (0, 1].

    Raises:
        DataError: if a map or mask is not as ``PixelCounts.add`` expects it, or a number is out
            of its range.

    >>> mask = np.array([[True, False], [False, False]])
    >>> maps = np.array([[0.9, 0.2], [0.1, 0.3]], dtype=np.float32)
    >>> pixel_metrics([(maps, mask)]).aupro
    1.0
    """
    counts = _counted(pairs, PixelCounts.empty(exact=exact))
    return counts.metrics(fpr_limit=fpr_limit, recall=recall)


def aupro(pairs: Iterable[Pair], *, fpr_limit: float = 0.3) -> float:
    """Return the area under the per-region overlap up to a false-positive rate, over that rate.

    A region is an 8-connected part of a mask; the curve is the mean fraction of a region's pixels
    that are found over the false-positive rate of all pixels (Bergmann et al., MVTec AD,
    IJCV 2021, section 5.3).

    Args:
        pairs: a map, floats [h, w], and a bool mask [h, w] for each image; sizes may differ.
        fpr_limit: where the area ends, in (0, 1].

    Returns:
        In [0, 1]; NaN where no pixel is defective, or none is good.

    Raises:
        DataError: as ``pixel_metrics``.
    """
    return pixel_metrics(pairs, fpr_limit=fpr_limit).aupro


def iap(pairs: Iterable[Pair]) -> float:
    """Return the instance average precision (DeSTSeg, section 4.2).

    An instance is an 8-connected part of a mask, its score the value that half of its pixels
    reach.  The precision at that score is true-positive pixels over predicted ones, made monotone
    over rising scores; IAP is the mean of it over the instances.

    Args:
        pairs: a map, floats [h, w], and a bool mask [h, w] for each image; sizes may differ.

    Returns:
        In [0, 1]; NaN where no pixel is defective, or none is good.

    Raises:
        DataError: as ``pixel_metrics``.
    """
    return pixel_metrics(pairs).iap


def iap_at(pairs: Iterable[Pair], recall: float = 0.9) -> float:
    """Return the precision of ``iap`` at the highest score that finds a fraction of the instances.

    Args:
        pairs: a map, floats [h, w], and a bool mask [h, w] for each image; sizes may differ.
        recall: the fraction, in (0, 1]; 0.9 gives the paper's IAP@90.

    Returns:
        In [0, 1]; NaN where no pixel is defective, or none is good.

    Raises:
        DataError: as ``pixel_metrics``.
    """
    return pixel_metrics(pairs, recall=recall).iap_90


def pixel_curves(
    pairs: Iterable[Pair], *, exact: bool = True, points: int = 500
) -> dict[str, Curve]:
    """Return the curves ``roc``, ``pr`` and ``pro`` of maps against masks.

    Args:
        pairs: as in ``pixel_metrics``.
        exact: as there.
        points: at most so many a curve, 2 or more.

    Raises:
        DataError: as in ``pixel_metrics``.
    """
    counts = _counted(pairs, PixelCounts.empty(exact=exact))
    return counts.curves(points)


def _counted(pairs: Iterable[Pair], counts: PixelCounts) -> PixelCounts:
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = (
                f"an array {list(pair.shape)}" if isinstance(pair, np.ndarray) else f"{pair!r:.60}"
            )
            raise DataError(f"expected pairs of a map and a mask, one for each image, got {got}")
        counts.add(*pair)
    return counts


class PixelCounts:
    """Pixels of maps and regions of their masks, gathered image by image.

    Attributes:
        exact: whether every value is held.
        maps: how many maps it has taken.
    """

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self.maps = 0
        self._store: Store = ExactStore() if exact else BoundedStore()

    @staticmethod
    def empty(*, exact: bool = True) -> PixelCounts:
        """Return counts of no map yet.

        Args:
            exact: hold every value and be exact: 4 bytes a pixel, 8 while metrics are computed,
                and some 100 a defective pixel. Else hold 78 MB, however many maps come: only
                scores in [0, 1], which are told apart by 1/16384 of their distance to 0 or to 1,
                whichever is nearer. Every metric is then within 1e-4 of the exact one (on maps of
                sigmoids, saturated or not, tests measure less than 2e-5), unless most pixels
                share so narrow a range that even these bins cannot part them, as in maps of a
                model that was hardly trained: take exact counts for those.
        """
        return PixelCounts(exact=exact)

    @staticmethod
    def merged(parts: Iterable[PixelCounts]) -> PixelCounts:
        """Return new counts of all images in the parts, which stay as they are.

        As though every map had been added to the new ones. Merging copies no pixels.

        Raises:
            DataError: if exact and bounded ones are mixed.
        """
        rest = list(parts)
        whole = PixelCounts.empty(exact=rest[0].exact if rest else True)
        for part in rest:
            whole.merge(part)
        return whole

    def merge(self, other: PixelCounts) -> None:
        """Count the images of other counts, too, which stay as they are.

        Raises:
            DataError: if one is exact and the other is bounded.
        """
        if self.exact != other.exact:
            raise DataError("pixel counts: expected all exact or all bounded, got one of each")
        self._store.merge(other._store)
        self.maps += other.maps

    @property
    def nbytes(self) -> int:
        """Bytes of memory held for the counts."""
        return self._store.nbytes

    def ranked(self) -> RankedPixels:
        """Return what every threshold finds in the maps so far."""
        return self._store.ranked()

    def add(
        self,
        anomaly_map: npt.NDArray[np.floating],
        mask: npt.NDArray[np.bool_],
        inspected: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one image; what was counted stays unchanged where this raises.

        Args:
            anomaly_map: finite numbers, higher for defective [h, w]; bounded: in [0, 1].
            mask: True where defective [h, w].
            inspected: which pixels count [h, w]: what was not looked at is no surface that was
                found good.  Defects are cut by it.  ``None``: all.

        Raises:
            DataError: if shapes or types are others, or values NaN, infinite or out of range; the
                message names the map by its index, the first being 0.
        """
        masks = (mask,) if inspected is None else (mask, inspected)
        scores, (defective, *rest) = self._checked(anomaly_map, *masks)
        counted: Any = ...
        if rest:
            (counted,) = rest
            defective = defective & counted
        if defective.any():
            _, regions = cv2.connectedComponents(defective.view(np.uint8), connectivity=8)
            self._store.add(
                scores[counted].ravel(),
                defective[counted].ravel(),
                regions[counted].ravel().astype(np.int32, copy=False),
            )
        else:
            self._store.add_good(scores[counted].ravel())
        self.maps += 1

    def metrics(self, *, fpr_limit: float = 0.3, recall: float = 0.9) -> PixelMetrics:
        """Return all metrics of the maps so far; see ``pixel_metrics``.

        Raises:
            DataError: if the limit or the recall is not in (0, 1].
        """
        for name, value in (("fpr_limit", fpr_limit), ("recall", recall)):
            if not 0 < value <= 1:
                raise DataError(f"{name}: expected a number above 0 and at most 1, got {value}")
        ranked = self.ranked()
        values = {
            "auroc": ranked.auroc(),
            "ap": ranked.average_precision(),
            "f1_max": ranked.f1_max()[0],
            "aupro": ranked.aupro(fpr_limit),
            "iap": ranked.iap(),
            "iap_90": ranked.iap_at(recall),
        }
        reason = ranked.undefined("pixel")
        reasons = dict.fromkeys(values, reason) if reason else {}
        return PixelMetrics(**values, instances=ranked.regions, reasons=reasons)

    def curves(self, points: int = 500) -> dict[str, Curve]:
        """Return the curves ``roc``, ``pr``, ``pro`` of the maps so far; see ``pixel_curves``."""
        return self.ranked().curves(points)

    def _checked(
        self, anomaly_map: npt.ArrayLike, *masks: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.floating], list[npt.NDArray[np.bool_]]]:
        for given in (anomaly_map, *masks):
            if (other := beside_arrays(given)) is not None:
                raise DataError(f"map {self.maps}: expected a map and a mask, got {other}")
        scores = np.asarray(anomaly_map)
        marked = [np.asarray(mask) for mask in masks]
        for each in marked:
            if scores.ndim != 2 or scores.shape != each.shape or not scores.size:
                raise DataError(
                    f"map {self.maps}: expected a map and a mask of one shape [h, w], "
                    f"got {scores.shape} and {each.shape}"
                )
            if scores.dtype.kind != "f" or each.dtype != np.bool_:
                raise DataError(
                    f"map {self.maps}: expected a map of floats and a mask of booleans (mask > 0), "
                    f"got {scores.dtype} and {each.dtype}"
                )
        finite = np.isfinite(scores)
        if not finite.all():
            wrong = ~finite
            row, column = np.argwhere(wrong)[0]
            raise DataError(
                f"map {self.maps}: expected finite values, got {scores[row, column]} at row {row}, "
                f"column {column} ({np.count_nonzero(wrong)} of {wrong.size} in all); "
                "the model that made it is broken"
            )
        if not self.exact and (scores.min() < 0 or scores.max() > 1):
            raise DataError(
                f"map {self.maps}: expected values in [0, 1], got some from {scores.min()} to "
                f"{scores.max()}; only exact counts take others"
            )
        return np.ascontiguousarray(scores), [np.ascontiguousarray(each) for each in marked]
