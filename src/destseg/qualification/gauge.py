"""Gauge repeatability and reproducibility: real parts, each shot several times, by ANOVA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.data.samples import find_images
from destseg.errors import DataError
from destseg.inference.measuring import all_measured
from destseg.inference.predictor import Predictor

ACCEPTABLE, DOUBTFUL, UNACCEPTABLE = "acceptable", "doubtful", "unacceptable"
CATEGORIES_NEEDED = 5


@dataclass(frozen=True)
class Gauge:
    """How much of the spread of scores comes from the measurement, not from the parts.

    The method is the ANOVA of AIAG's *Measurement Systems Analysis* (4th edition, chapter III).

    Attributes:
        parts: how many.
        conditions: under which each was shot (days, shifts, cameras); 1 where there are no
            folders of them, and then there is no reproducibility.
        shots: of each part under each condition.
        repeatability: standard deviation of shots of one part under one condition.
        reproducibility: standard deviation between conditions, with their interaction with parts.
        part_variation: standard deviation between parts.
    """

    parts: int
    conditions: int
    shots: int
    repeatability: float
    reproducibility: float
    part_variation: float

    @property
    def gauge(self) -> float:
        """Repeatability and reproducibility together (GRR), a standard deviation."""
        return math.hypot(self.repeatability, self.reproducibility)

    @property
    def study_variation(self) -> float:
        """GRR as a fraction of the total standard deviation; NaN where nothing varies."""
        total = math.hypot(self.gauge, self.part_variation)
        return self.gauge / total if total else math.nan

    @property
    def categories(self) -> int | None:
        """Number of distinct categories, 1.41 PV / GRR; ``None`` where the gauge does not vary."""
        return math.floor(math.sqrt(2) * self.part_variation / self.gauge) if self.gauge else None

    @property
    def verdict(self) -> str:
        """The field's usual words: below 10 % acceptable, above 30 % unacceptable.

        Fewer than five categories are not better than doubtful.
        """
        if math.isnan(self.study_variation) or self.study_variation > 0.3:
            return UNACCEPTABLE
        enough = self.categories is None or self.categories >= CATEGORIES_NEEDED
        return ACCEPTABLE if self.study_variation < 0.1 and enough else DOUBTFUL

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not defined is ``None``."""
        study = self.study_variation
        return {
            **vars(self),
            "gauge": self.gauge,
            "study_variation": None if math.isnan(study) else study,
            "categories": self.categories,
            "verdict": self.verdict,
        }


def gauge_of(scores: NDArray[np.float64]) -> Gauge:
    """Return the components of variance of a balanced study.

    Parts and conditions are random.  The interaction is joined with the repeatability where its
    mean square is not above it; components that come out below 0 are 0.

    Args:
        scores: float [parts, conditions, shots], at least 2 parts and 2 shots.
    """
    parts, conditions, shots = scores.shape
    cells = scores.mean(axis=2)
    by_part, by_condition, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    within = ((scores - cells[..., None]) ** 2).sum()
    degrees = parts * conditions * (shots - 1)
    between = conditions * shots * ((by_part - mean) ** 2).sum() / (parts - 1)
    if conditions == 1:
        error = within / degrees
        return Gauge(
            parts, 1, shots, math.sqrt(error), 0.0, math.sqrt(max(0.0, (between - error) / shots))
        )
    across = parts * shots * ((by_condition - mean) ** 2).sum() / (conditions - 1)
    apart = cells - by_part[:, None] - by_condition[None] + mean
    both, both_degrees = shots * (apart**2).sum(), (parts - 1) * (conditions - 1)
    error = within / degrees
    interaction = both / both_degrees
    if interaction <= error:
        error = interaction = (within + both) / (degrees + both_degrees)
    mixed = (interaction - error) / shots
    condition = max(0.0, (across - interaction) / (parts * shots))
    part = max(0.0, (between - interaction) / (conditions * shots))
    return Gauge(
        parts, conditions, shots, math.sqrt(error), math.sqrt(condition + mixed), math.sqrt(part)
    )


def repeats_in(folder: Path) -> list[list[list[Path]]]:
    """Return real repeated shots: of each part, under each condition, the images.

    Args:
        folder: a folder a part, with its shots; or in it a folder a condition (the same for all
            parts), with the shots under it.

    Raises:
        DataError: if there are fewer than 2 parts or shots, or not equally many everywhere.
    """
    parts = _folders(folder) if folder.is_dir() else []
    expected = "a folder a part with at least 2 shots in each (or a folder a condition in each)"
    if len(parts) < 2:
        raise DataError(f"{folder}: expected {expected}, at least 2 parts, got {len(parts)}")
    named = {part: [each.name for each in _folders(part)] for part in parts}
    first = named[parts[0]]
    other = next((part for part in parts if named[part] != first), None)
    if other is not None:
        raise DataError(
            f"{other}: expected the same conditions as in {parts[0].name}/, "
            f"({', '.join(first) or 'no folders'}), got {', '.join(named[other]) or 'no folders'}"
        )
    shots = [
        [find_images(part / name) for name in first] if first else [find_images(part)]
        for part in parts
    ]
    counts = {len(images) for conditions in shots for images in conditions}
    if len(counts) > 1 or min(counts) < 2:
        raise DataError(
            f"{folder}: expected {expected}, equally many everywhere, got "
            f"{' or '.join(map(str, sorted(counts)))}; take away or add shots"
        )
    return shots


def shots_in(study: Iterable[Iterable[Iterable[Path]]]) -> list[Path]:
    """Return all images of a study, in its order."""
    return [path for part in study for condition in part for path in condition]


def measure_gauge(
    predictor: Predictor,
    study: list[list[list[Path]]],
    on_done: Callable[[], object] = lambda: None,
) -> Gauge:
    """Return the gauge's components from the scores of real repeated shots.

    Raises:
        ImageError: if an image cannot be read.
    """
    scores = []
    for measured in all_measured(predictor, shots_in(study)):
        scores.append(measured.score)
        on_done()
    return gauge_of(np.reshape(scores, (len(study), len(study[0]), -1)))


def _folders(folder: Path) -> list[Path]:
    return sorted(
        each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
