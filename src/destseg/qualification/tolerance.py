"""Tolerance: how strong a change may be before good parts are rejected or defects missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from destseg.inference.predictor import Predictor
from destseg.qualification.blind_spots import at_most
from destseg.qualification.detection import Reference
from destseg.qualification.drawing import FAMILIES
from destseg.qualification.nuisances import NUISANCES, Nuisance
from destseg.qualification.trials import Change, Defect, Good, Trial, is_hit, run_trials

MAX_FALL = 0.1
"""Detection may fall by so much, as a fraction of the defects drawn."""

TOO_FEW = "too few defects found"
"""What ends a tolerance before it begins: fewer than may be missed are found without a change."""

_CHANCE = 0.05
_TOLERANCE = 3  # begins the seeds
_MIDDLE = (0.2, 0.2, 0.8, 0.8)  # a shift or a rotation leaves the defect in the image
_REFINEMENTS = 2


@dataclass(frozen=True)
class Strength:
    """What one strength of a change does.

    Attributes:
        strength: in the unit of the change.
        false_alarms: how many good images are called defective, of ``images``.
        found: how many reference defects are found, of ``images``.
        images: how many were tried.
        is_tolerated: whether both are still as they should be.
    """

    strength: float
    false_alarms: int
    found: int
    images: int
    is_tolerated: bool


@dataclass(frozen=True)
class Tolerance:
    """How strong one change may be.

    Attributes:
        name: of the change.
        unit: of its strength.
        says: a sentence with a place for the limit.
        tried: strengths, rising; none where too few defects are found without the change.
        limit: the largest strength below the first that is not tolerated; 0 where not even the
            weakest is, or the images as they are fail already.
        is_largest: whether the largest strength tried is tolerated, so that the limit is above.
        ended_by: ``false alarms``, ``missed defects``, both, ``TOO_FEW``, or nothing.
    """

    name: str
    unit: str
    says: str
    tried: tuple[Strength, ...]
    limit: float
    is_largest: bool
    ended_by: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **vars(self),
            "tried": [dict(vars(each)) for each in self.tried],
            "ended_by": list(self.ended_by),
        }


def most_trials(images: int) -> int:
    """Return how many trials ``find_tolerances`` makes at most."""
    return 2 * images * (1 + sum(len(each.strengths) + _REFINEMENTS for each in NUISANCES))


def find_tolerances(
    predictor: Predictor,
    good: Good,
    reference: Reference,
    images: int,
    seed: int,
    on_done: Callable[[int], object] = lambda _: None,
) -> tuple[Strength, tuple[Tolerance, ...]]:
    """Return what is so without a change, and how strong each change may be.

    Strengths rise until one is not tolerated; then the gap below it is halved twice.  None is tried
    where so few defects are found without a change that no fall would show.  Too many false alarms
    are more than the guaranteed rate explains: as many or more have a probability below 5 % with
    it.  The images, and the defects on them, are the same at every strength.

    Args:
        predictor: the model.
        good: images that are not called defective as they are.
        reference: the defects whose detection may not fall by ``MAX_FALL``.
        images: how many good images, and how many with a defect.
        seed: of all that is random.
        on_done: called with the number of trials that are done or no longer needed.
    """
    families = list(FAMILIES)
    rate = predictor.calibration.guaranteed_false_alarm_rate

    def counts(change: Change | None) -> tuple[int, int, int]:
        planned = []
        for defective in (False, True):
            for number in range(images):
                family = families[number % len(families)]
                defect = Defect(family, reference.size, reference.contrast, _MIDDLE)
                at = (seed, _TOLERANCE, number)
                planned.append(
                    Trial(number % len(good.paths), at, defect if defective else None, change)
                )
        scores = run_trials(predictor, good, planned)
        on_done(len(planned))
        called = is_hit(predictor, scores)
        placed = int(np.isfinite(scores[images:]).sum())
        return int(called[:images].sum()), int(called[images:].sum()), placed

    _, before, placed = counts(None)
    unchanged = Strength(0.0, 0, before, images, True)
    if before < max(1, MAX_FALL * placed):  # no fall would show
        on_done(most_trials(images) - 2 * images)
        return unchanged, tuple(
            Tolerance(each.name, each.unit, each.says, (), 0.0, False, (TOO_FEW,))
            for each in NUISANCES
        )

    def at(nuisance: Nuisance, strength: float) -> Strength:
        alarms, found, _ = counts(nuisance.at(strength))
        tolerated = not _reasons(alarms, found, images, before, placed, rate)
        return Strength(strength, alarms, found, images, tolerated)

    limits = []
    for nuisance in NUISANCES:
        tried: list[Strength] = []
        for strength in nuisance.strengths:
            tried.append(at(nuisance, strength))
            if not tried[-1].is_tolerated:
                break
        on_done(2 * images * (len(nuisance.strengths) - len(tried)))
        if tried[-1].is_tolerated:
            on_done(2 * images * _REFINEMENTS)
        else:
            low = tried[-2].strength if len(tried) > 1 else 0.0
            high = tried[-1].strength
            for _ in range(_REFINEMENTS):
                middle = float(f"{(low + high) / 2:.3g}")
                tried.append(at(nuisance, middle))
                low, high = (middle, high) if tried[-1].is_tolerated else (low, middle)
        limits.append(_limit(nuisance, tried, images, before, placed, rate))
    return unchanged, tuple(limits)


def _reasons(
    alarms: int, found: int, images: int, before: int, placed: int, rate: float
) -> list[str]:
    reasons = []
    if alarms and 1 - at_most(alarms - 1, images, rate) < _CHANCE:
        reasons.append("false alarms")
    if before - found >= MAX_FALL * placed - 1e-9 and before > found:
        reasons.append("missed defects")
    return reasons


def _limit(
    nuisance: Nuisance, tried: list[Strength], images: int, before: int, placed: int, rate: float
) -> Tolerance:
    rising = sorted(tried, key=lambda each: each.strength)
    failed = next((each for each in rising if not each.is_tolerated), None)
    below = [
        each.strength
        for each in rising
        if each.is_tolerated and (failed is None or each.strength < failed.strength)
    ]
    return Tolerance(
        name=nuisance.name,
        unit=nuisance.unit,
        says=nuisance.says,
        tried=tuple(rising),
        limit=max(below, default=0.0),
        is_largest=failed is None,
        ended_by=()
        if failed is None
        else tuple(_reasons(failed.false_alarms, failed.found, images, before, placed, rate)),
    )
