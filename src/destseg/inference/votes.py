"""Calibration images of the same origin have one vote together: what of it lies above a value.

Hierarchical conformal prediction (Lee, Barber & Willett, "Distribution-free inference with
hierarchical data", 2023, arXiv 2306.06342, section 3): with K groups, each with one vote that its
images divide among them, a new image of a new group has the p-value (1 + votes at or above its
value) / (K + 1).  With a group for each image it is the p-value of split conformal prediction.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Votes:
    """Values of calibration images, rising, and how many votes lie at or above each.

    Votes are counted in parts, so that sums are exact whatever the groups' sizes.

    Attributes:
        values: rising.
        groups: number of groups, each with one vote.
        parts: in a vote.
        at_or_above: parts of the values from each on, and 0 after the last.
    """

    values: tuple[float, ...]
    groups: int
    parts: int
    at_or_above: tuple[int, ...]

    @classmethod
    def of(
        cls, values: Sequence[float], groups: Sequence[Hashable], *, highest: bool = False
    ) -> Votes:
        """Return the votes of values, in any order, of images in groups.

        Args:
            values: one an image.
            groups: of each image.
            highest: give a group's vote to its highest value alone, instead of dividing it.
        """
        rising = sorted(range(len(values)), key=values.__getitem__)
        sizes = Counter(groups)
        if highest:
            # What comes later replaces what came before: the last of a group is its highest.
            last = set({groups[index]: index for index in rising}.values())
            parts, weights = 1, [int(index in last) for index in rising]
        else:
            parts = math.lcm(*sizes.values())
            weights = [parts // sizes[groups[index]] for index in rising]
        falling = itertools.accumulate(reversed(weights), initial=0)
        return cls(
            values=tuple(values[index] for index in rising),
            groups=len(sizes),
            parts=parts,
            at_or_above=tuple(reversed(list(falling))),
        )

    def lowest(self, allowed: float) -> int:
        """Return the place of the lowest value with at most ``allowed`` votes above its place.

        At the highest value there are none, so there always is one.
        """
        place = len(self.values) - 1
        while place and self.at_or_above[place] / self.parts <= allowed:
            place -= 1
        return place

    def p_value(self, place: int) -> float:
        """Return the p-value, in (0, 1], of what the values from a place on are at or above."""
        whole = self.parts * (self.groups + 1)
        return (self.parts + self.at_or_above[place]) / whole
