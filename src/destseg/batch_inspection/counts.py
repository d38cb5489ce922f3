"""How many images of a batch there are, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from destseg.batch_inspection.job import Job


@dataclass(frozen=True)
class BatchCounts:
    """What became of some images.

    Attributes:
        images: how many.
        failed: of them, those that could not be read.
        defective: of them, those whose score is above the threshold.
    """

    images: int = 0
    failed: int = 0
    defective: int = 0

    def __add__(self, other: BatchCounts) -> BatchCounts:
        return BatchCounts(
            self.images + other.images,
            self.failed + other.failed,
            self.defective + other.defective,
        )


@dataclass(frozen=True)
class BatchPlan:
    """What there is to do, before it is done.

    Attributes:
        job: the batch.
        before: counts of the partitions that were finished before.
        left: partitions that are to be done.
    """

    job: Job
    before: BatchCounts
    left: int
