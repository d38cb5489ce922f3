"""Repeatability: what noise and sub-pixel shifts do to the score of one and the same part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.inference.predictor import Predictor
from destseg.qualification.detection import Reference
from destseg.qualification.drawing import FAMILIES
from destseg.qualification.nuisances import moved, noise
from destseg.qualification.trials import Defect, Good, Trial, is_hit, run_trials

NOISE = 2.0
"""Standard deviation of the camera's noise in grey levels."""

SHIFT = 0.5
"""Largest shift to each side, in pixels."""

_REPEATABILITY = 4  # begins the seeds


@dataclass(frozen=True)
class Spread:
    """Scores of some parts, each inspected several times.

    Attributes:
        parts: how many.
        repeats: of each.
        deviation: standard deviation of the score within a part, over all parts (pooled).
        distance: of the threshold from the parts' mean scores, the nearest of them; below 0 on
            the wrong side.
        flipped: parts that are called good at one time and defective at another.
    """

    parts: int
    repeats: int
    deviation: float
    distance: float
    flipped: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


def repeated(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image as a second shot of the same part: shifted by a fraction of a pixel, noisy.

    Args:
        image: uint8 RGB [h, w, 3].
        random: for both.
    """
    y, x = random.uniform(-SHIFT, SHIFT, 2)
    return noise(moved(image, random, x=float(x), y=float(y)), random, sigma=NOISE)


def measure_repeatability(
    predictor: Predictor,
    good: Good,
    reference: Reference,
    parts: int,
    repeats: int,
    seed: int,
    on_done: Callable[[], object] = lambda: None,
) -> tuple[Spread, Spread]:
    """Return the spread of good parts, and of the same parts with a reference defect.

    Args:
        predictor: the model.
        good: images that are not called defective as they are.
        reference: the defect.
        parts: how many images, evenly of all.
        repeats: shots of each.
        seed: of all that is random.
        on_done: called after each trial.
    """
    families = list(FAMILIES)
    images = [number * len(good.paths) // parts for number in range(parts)]
    spreads = []
    for defective in (False, True):
        planned = []
        for number, image in enumerate(images):
            family = families[number % len(families)]
            defect = Defect(family, reference.size, reference.contrast) if defective else None
            at = (seed, _REPEATABILITY, number)
            planned += [Trial(image, at, defect, _Shot((*at, repeat))) for repeat in range(repeats)]
        scores = run_trials(predictor, good, planned, on_done).reshape(parts, repeats)
        spreads.append(_spread(predictor, scores[np.isfinite(scores).all(axis=1)], defective))
    return spreads[0], spreads[1]


@dataclass(frozen=True)
class _Shot:
    """A shot with random numbers of its own, while the defect's are those of the part."""

    seed: tuple[int, ...]

    def __call__(self, image: NDArray[np.uint8], _: np.random.Generator) -> NDArray[np.uint8]:
        return repeated(image, np.random.default_rng(self.seed))


def _spread(predictor: Predictor, scores: NDArray[np.float64], defective: bool) -> Spread:
    """Return the spread of scores [parts, repeats]."""
    if not len(scores):
        return Spread(0, scores.shape[1], 0.0, 0.0, 0)
    called = is_hit(predictor, scores)
    way = 1.0 if defective else -1.0
    distances = way * (scores.mean(axis=1) - predictor.calibration.threshold)
    return Spread(
        parts=len(scores),
        repeats=scores.shape[1],
        deviation=float(np.sqrt(scores.var(axis=1, ddof=1).mean())),
        distance=float(distances.min()),
        flipped=int((called.any(axis=1) & ~called.all(axis=1)).sum()),
    )
