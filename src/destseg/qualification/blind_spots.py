"""Blind spots: where on the part drawn defects of one size are missed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from destseg.inference.predictor import Predictor
from destseg.qualification.detection import Reference
from destseg.qualification.drawing import FAMILIES
from destseg.qualification.trials import Defect, Good, Trial, is_hit, run_trials

LONGER_SIDE = 8
"""How many fields the longer side of the part is divided into."""

_BLIND = 2
_CHANCE = 0.05


@dataclass(frozen=True)
class BlindSpots:
    """How many reference defects are found in each field of the part.

    Attributes:
        hits: found, rows from the top, fields of a row from the left.
        trials: of how many; 0 where the region of interest has no room.
        blind: fields with fewer found than chance explains: with a rate as over all fields, that
            any field of the whole map has so few has a probability below 5 %.
    """

    hits: tuple[tuple[int, ...], ...]
    trials: tuple[tuple[int, ...], ...]
    blind: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "hits": [list(row) for row in self.hits],
            "trials": [list(row) for row in self.trials],
            "blind": [list(field) for field in self.blind],
        }


def fields_of(good: Good) -> tuple[int, int]:
    """Return rows and columns of fields that are about square on a typical image."""
    aspect = float(np.median([height / width for height, width in good.sizes]))
    if aspect > 1:
        return LONGER_SIDE, max(1, round(LONGER_SIDE / aspect))
    return max(1, round(LONGER_SIDE * aspect)), LONGER_SIDE


def find_blind_spots(
    predictor: Predictor,
    good: Good,
    reference: Reference,
    trials: int,
    seed: int,
    on_done: Callable[[], object] = lambda: None,
) -> BlindSpots:
    """Return where reference defects are found and where not.

    Args:
        predictor: the model.
        good: images that are not called defective as they are.
        reference: the size and contrast.
        trials: of each family in each field.
        seed: of all that is random.
        on_done: called after each trial.
    """
    rows, columns = fields_of(good)
    dealing = np.random.default_rng((seed, _BLIND))
    each = len(FAMILIES) * trials
    planned = []
    for row in range(rows):
        for column in range(columns):
            box = (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns)
            images = np.resize(dealing.permutation(len(good.paths)), each)
            for number, family in enumerate([*FAMILIES] * trials):
                defect = Defect(family, reference.size, reference.contrast, box)
                at = (seed, _BLIND, row, column, number)
                planned.append(Trial(int(images[number]), at, defect))
    scores = run_trials(predictor, good, planned, on_done)
    shape = (rows, columns, each)
    hits = is_hit(predictor, scores).reshape(shape).sum(-1)
    counted = np.isfinite(scores).reshape(shape).sum(-1)
    return BlindSpots(
        hits=tuple(tuple(map(int, row)) for row in hits),
        trials=tuple(tuple(map(int, row)) for row in counted),
        blind=tuple(_blind(hits, counted)),
    )


def at_most(count: int, total: int, rate: float) -> float:
    """Return the probability of at most so many of a total, each with a rate (binomial).

    >>> round(at_most(1, 3, 0.5), 3)
    0.5
    """
    return math.fsum(
        math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count + 1)
    )


def _blind(hits: Any, counted: Any) -> list[tuple[int, int]]:
    fields = int(np.count_nonzero(counted))
    if not fields:
        return []
    rate = float(hits.sum() / counted.sum())
    return [
        (row, column)
        for row, column in np.ndindex(*hits.shape)
        if counted[row, column]
        and hits[row, column] < rate * counted[row, column]
        and at_most(int(hits[row, column]), int(counted[row, column]), rate) < _CHANCE / fields
    ]
