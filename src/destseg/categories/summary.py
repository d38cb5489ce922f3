"""What came of all jobs: a row a category, over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from destseg.categories.job import JobOutcome

METRICS = {
    "image AUROC": ("image", "auroc"),
    "pixel AUROC": ("pixel", "auroc"),
    "pixel AP": ("pixel", "ap"),
    "AUPRO": ("pixel", "aupro"),
    "IAP": ("pixel", "iap"),
    "IAP@90": ("pixel", "iap_90"),
}
COLUMNS = (
    "category",
    "seeds",
    "images",
    "with mask",
    *METRICS,
    "false alarms",
    "missed",
    "minutes",
)


@dataclass(frozen=True)
class CategorySummary:
    """A category over its seeds.

    Attributes:
        category: its name.
        outcomes: one a seed, with or without a result.
    """

    category: str
    outcomes: tuple[JobOutcome, ...]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Of the seeds that have one."""
        return [each.result for each in self.outcomes if each.result is not None]

    @property
    def failures(self) -> list[JobOutcome]:
        """The seeds that have none."""
        return [each for each in self.outcomes if each.result is None]

    @property
    def reasons(self) -> dict[str, str]:
        """Why seeds failed, by whom: ``bottle, seed 0 1``; seeds that failed alike are one."""
        seeds: dict[str, list[str]] = {}
        for each in self.failures:
            seeds.setdefault(each.reason or "", []).append(str(each.job.seed))
        return {f"{self.category}, seed {' '.join(own)}": why for why, own in seeds.items()}

    def values(self, metric: str) -> list[float]:
        """Return a metric of each seed that has it."""
        return [
            value for result in self.results if (value := metric_of(result, metric)) is not None
        ]

    def counted(self, what: str) -> str:
        """Return ``false_alarms`` or ``misses`` of all seeds together: ``5 of 40``."""
        counts = [result["metrics"][what] for result in self.results if result["metrics"]]
        total = sum(each["total"] for each in counts)
        return f"{sum(each['count'] for each in counts)} of {total}" if total else "-"

    @property
    def unread(self) -> dict[str, str]:
        """What could not be read of the test images, by whose it was and which: ``path: why``."""
        return {
            f"{self.category}, seed {result['seed']}: {failed['path']}": str(failed["error"])
            for result in self.results
            for failed in (result["metrics"] or {}).get("failures", ())
        }

    def covered(self, what: str) -> str:
        """Return how many images metrics are of, ``of`` how many where some could not be read.

        Args:
            what: ``images`` of the image metrics, ``with_mask`` of the pixel metrics.
        """
        measured = [result["metrics"] for result in self.results if result["metrics"]]
        counts = [each["coverage"] for each in measured if "coverage" in each]
        told = [
            f"{each[what]}" + f" of {each['given']}" * (each[what] < each["given"])
            for each in counts
        ]
        return " / ".join(dict.fromkeys(told)) or "-"

    def cells(self) -> tuple[str, ...]:
        """Return the texts of ``COLUMNS``: per cent, mean ± standard deviation over seeds."""
        seeds = f"{len(self.results)}" + (f" of {len(self.outcomes)}" if self.failures else "")
        minutes = [float(each["minutes"]) for each in self.results if each["minutes"] is not None]
        return (
            self.category,
            seeds,
            self.covered("images"),
            self.covered("with_mask"),
            *(mean_and_deviation(self.values(name)) for name in METRICS),
            self.counted("false_alarms"),
            self.counted("misses"),
            f"{statistics.fmean(minutes):.1f}" if minutes else "-",
        )


def rows_of(outcomes: Iterable[JobOutcome]) -> list[CategorySummary]:
    """Return a row a category, in the order in which they first come; seeds in theirs."""
    grouped: dict[str, list[JobOutcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.job.category.name, []).append(outcome)
    return [CategorySummary(name, tuple(own)) for name, own in grouped.items()]


def mean_row(rows: Sequence[CategorySummary]) -> tuple[str, ...]:
    """Return the texts of ``COLUMNS`` for the mean of the categories' means."""
    means = {
        name: [statistics.fmean(values) for row in rows if (values := row.values(name))]
        for name in METRICS
    }
    figures = [f"{100 * statistics.fmean(each):.1f}" if each else "-" for each in means.values()]
    return ("mean", "", "", "", *figures, "", "", "")


def mean_and_deviation(values: Iterable[float]) -> str:
    """Return fractions as per cent: the mean, and of several the standard deviation."""
    each = [100 * value for value in values]
    if not each:
        return "-"
    spread = f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else ""
    return f"{statistics.fmean(each):.1f}{spread}"


def metric_of(result: Mapping[str, Any], metric: str) -> float | None:
    """Return a metric of a result; ``None`` where there is none or it is not defined."""
    group, name = METRICS[metric]
    value = result["metrics"][group][name] if result["metrics"] else None
    return None if value is None or math.isnan(value) else float(value)
