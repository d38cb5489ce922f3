"""Probability of detection: which drawn defects are found, by family, size and contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from destseg.errors import DataError
from destseg.inference.predictor import Predictor
from destseg.qualification.curves import FOUND, DetectionCurve, fit_curve
from destseg.qualification.drawing import FAMILIES
from destseg.qualification.trials import Defect, Good, Trial, is_hit, run_trials

SIZES = 6
"""How many sizes are tried where none are given."""

_GRID = 1  # begins the seeds of these trials, so that no other has them


@dataclass(frozen=True)
class FamilyDetection:
    """How one family is found at one contrast.

    Attributes:
        family: its name.
        contrast: in grey levels.
        curve: hits and misses over size, and what follows from them.
    """

    family: str
    contrast: float
    curve: DetectionCurve

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"family": self.family, "contrast": self.contrast, **self.curve.to_json()}


@dataclass(frozen=True)
class Reference:
    """The defects that blind spots, tolerance and repeatability are measured with.

    Attributes:
        size: in pixels.
        contrast: in grey levels.
        found: fraction of the drawn defects of all families that is found so.
    """

    size: float
    contrast: float
    found: float


def sizes_for(good: Good, model_size: tuple[int, int] | None) -> tuple[float, ...]:
    """Return sizes to try: from two pixels of the model's to a quarter of the image.

    Args:
        good: the images.
        model_size: (height, width) that images are resized to; ``None`` with tiles.
    """
    short = min(min(size) for size in good.sizes)
    scales = [
        1.0 if model_size is None else max(size[0] / model_size[0], size[1] / model_size[1], 1.0)
        for size in good.sizes
    ]
    smallest = 2 * float(np.median(scales))
    largest = max(short / 4, 2 * smallest)
    return tuple(float(f"{each:.3g}") for each in np.geomspace(smallest, largest, SIZES))


def grid_size(sizes: Sequence[float], contrasts: Sequence[float], trials: int) -> int:
    """Return how many trials ``detect`` makes."""
    return len(FAMILIES) * len(sizes) * len(contrasts) * trials


def detect(
    predictor: Predictor,
    good: Good,
    sizes: Sequence[float],
    contrasts: Sequence[float],
    trials: int,
    seed: int,
    on_done: Callable[[], object] = lambda: None,
) -> tuple[FamilyDetection, ...]:
    """Return how each family is found at each contrast, families first.

    A hit is an image whose score is above the model's threshold: what the line would reject.  The
    images are dealt out evenly to the trials of each curve.

    Args:
        predictor: the model.
        good: images that are not called defective as they are.
        sizes: in pixels, rising.
        contrasts: in grey levels.
        trials: for each family, size and contrast.
        seed: of all that is random.
        on_done: called after each trial.

    Raises:
        DataError: if the region of interest has no room for two of the sizes.
        ImageError: if an image can no longer be read.
    """
    planned = [
        Trial(image, (seed, _GRID, *where, number), Defect(family, size, contrast))
        for f, family in enumerate(FAMILIES)
        for c, contrast in enumerate(contrasts)
        for (s, size), images in zip(
            enumerate(sizes), _dealt(good, len(sizes), trials, (seed, _GRID, f, c)), strict=True
        )
        for where in [(f, c, s)]
        for number, image in enumerate(images)
    ]
    scores = run_trials(predictor, good, planned, on_done)
    shape = (len(FAMILIES), len(contrasts), len(sizes), trials)
    hits = is_hit(predictor, scores).reshape(shape).sum(-1)
    counted = np.isfinite(scores).reshape(shape).sum(-1)
    return tuple(
        FamilyDetection(family, contrast, _curve(sizes, hits[f, c], counted[f, c], seed))
        for f, family in enumerate(FAMILIES)
        for c, contrast in enumerate(contrasts)
    )


def reference_of(found: Sequence[FamilyDetection]) -> Reference:
    """Return the faintest of the two highest contrasts, and there the smallest size, found well.

    That is nine times in ten over all families; where there is none, the largest and strongest.
    """
    contrasts = sorted({each.contrast for each in found})
    for contrast in contrasts[-2:]:
        for size, rate in _rates(found, contrast).items():
            if rate >= FOUND:
                return Reference(size, contrast, rate)
    rates = _rates(found, contrasts[-1])
    return Reference(max(rates), contrasts[-1], rates[max(rates)])


def _rates(found: Sequence[FamilyDetection], contrast: float) -> dict[float, float]:
    """Return the fraction found by size, over all families."""
    hits: dict[float, int] = {}
    trials: dict[float, int] = {}
    for curve in (each.curve for each in found if each.contrast == contrast):
        for size, hit, count in zip(curve.sizes, curve.hits, curve.trials, strict=True):
            hits[size] = hits.get(size, 0) + hit
            trials[size] = trials.get(size, 0) + count
    return {size: hits[size] / trials[size] for size in sorted(hits)}


def _dealt(good: Good, groups: int, trials: int, seed: tuple[int, ...]) -> list[list[int]]:
    """Return images for groups of trials: all are used before one is used again."""
    random = np.random.default_rng(seed)
    count = len(good.paths)
    rounds = -(-groups * trials // count)
    dealt = np.concatenate([random.permutation(count) for _ in range(rounds)])
    return [dealt[g * trials : (g + 1) * trials].tolist() for g in range(groups)]


def _curve(sizes: Sequence[float], hits: object, counted: object, seed: int) -> DetectionCurve:
    """Return the curve over those sizes that there was a place for."""
    rows = [
        (size, int(hit), int(count))
        for size, hit, count in zip(sizes, np.asarray(hits), np.asarray(counted), strict=True)
        if count
    ]
    if len(rows) < 2:
        raise DataError(
            "expected room in the region of interest for defects of at least two sizes, got it "
            f"for {len(rows)} of {', '.join(f'{size:g}' for size in sizes)} "
            "pixels; give smaller --sizes"
        )
    own, found, tried = zip(*rows, strict=True)
    return fit_curve(own, found, tried, seed=seed)
