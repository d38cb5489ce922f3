"""What became of pictures at the threshold: one by one, and counted with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from destseg.data.samples import GOOD


@dataclass(frozen=True)
class Rate:
    """A count of a total, with its 95 % Wilson interval (Wilson, 1927).

    Attributes:
        count: how many.
        total: of how many; the rate and its bounds are NaN where it is 0.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share in [0, 1]."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the share that 95 % of such intervals cover."""
        if not self.total:
            return math.nan, math.nan
        n, share, z = self.total, self.value, 1.959963984540054
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "count": self.count,
            "total": self.total,
            "rate": self.value,
            "interval": self.interval,
        }


@dataclass(frozen=True)
class Record:
    """One picture's outcome.

    Attributes:
        picture: its path as given.
        kind: good, or the kind of defect.
        score, p_value, is_defective, regions: as in ``Result``; regions counted.
    """

    picture: str
    kind: str
    score: float
    p_value: float
    is_defective: bool
    regions: int

    @property
    def outcome(self) -> str:
        """Found, missed, passed or false alarm."""
        if self.kind == GOOD:
            return "false alarm" if self.is_defective else "passed"
        return "found" if self.is_defective else "missed"
