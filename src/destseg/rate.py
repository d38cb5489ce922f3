"""A count of a total, and how sure the fraction is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


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
        """The fraction in [0, 1]."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the fraction that 95 % of such intervals cover."""
        if not self.total:
            return math.nan, math.nan
        n, rate, z = self.total, self.value, 1.959963984540054
        centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "count": self.count,
            "total": self.total,
            "rate": self.value,
            "interval": self.interval,
        }
