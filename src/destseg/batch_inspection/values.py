"""A batch as values: what its results depend on, what is left to do, what became of its images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class BatchJob:
    """What the results of a batch depend on; with another one a begun batch is not gone on with.

    Attributes:
        source: folder, glob, file or list, absolute or a URI without login and options.
        images, partitions: how many there are.
        partition_size: images of a partition.
        listing_sha256: of the names and sizes of all files.
        bundle_sha256: of the bundle's files that a worker gets: weights, threshold, region.
        weights_sha256: SHA-256 of the weights.
        backend: what runs it.
        image_column, path_column: of a Parquet source.
    """

    source: str
    images: int
    partitions: int
    partition_size: int
    listing_sha256: str
    bundle_sha256: str
    weights_sha256: str
    backend: str
    image_column: str | None = None
    path_column: str | None = None

    def file(self, partition: int) -> str:
        """Return the name of a partition's results: always the same, so that none is there twice.

        It has a hash of the job, so that a straggler of an overwritten one does no harm.
        """
        content = json.dumps(asdict(self), sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:8]
        return f"part-{partition:06}-{key}.parquet"


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

    job: BatchJob
    before: BatchCounts
    left: int
