"""A batch on disk: what it was begun with, and which partitions are finished."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import destseg
from destseg.batch_inspection.partitions import Piece
from destseg.batch_inspection.schema import read_counts
from destseg.batch_inspection.storage import Storage
from destseg.batch_inspection.values import BatchCounts, BatchJob
from destseg.data.lists import some
from destseg.data.prefetch import in_order
from destseg.errors import DataError
from destseg.redaction import hide

RECORD, SUCCESS = "_job.json", "_SUCCESS"
"""Names that begin with an underscore are no data to those who read a folder of Parquet."""

_PART = re.compile(r"part-\d{6,}-[0-9a-f]{8}\.parquet")
_READERS = 16


def begin(output: Storage, job: BatchJob, *, overwrite: bool = False) -> None:
    """Write the record of a new batch, or check that the one in the folder is the same.

    Raises:
        DataError: if there is another, or results without one; or the folder cannot be used.
    """
    try:
        present = output.names()
        if overwrite:
            for name in [*filter({RECORD, SUCCESS}.__contains__, present), *_results(present)]:
                output.delete(name)
            present = []
        if RECORD in present:
            _require_same(output, job)
            return
        if _results(present):
            raise DataError(
                f"{output.root}: expected an empty folder or a begun batch, got results without "
                f"{RECORD}. Give another --output, or --overwrite to delete them."
            )
        about = {"destseg": destseg.__version__}
        about["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps({**about, **asdict(job)}, indent=1) + "\n"
        output.write(RECORD, text.encode())
    except OSError as error:
        told = hide(str(error), output.root)
        raise DataError(f"{output.root}: expected a folder to write to, got {told}") from error


def _results(names: Sequence[str]) -> list[str]:
    return [name for name in names if _PART.fullmatch(name)]


def _require_same(output: Storage, job: BatchJob) -> None:
    try:
        begun = dict(json.loads(output.read(RECORD)))
        changed = [name for name, now in asdict(job).items() if begun.get(name) != now]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{output.root}/{RECORD}: expected the record of a batch, got {error}. Give another "
            "--output, or --overwrite to begin anew."
        ) from error
    if changed:
        first = [f"{name} {begun.get(name)!r}, now {getattr(job, name)!r}" for name in changed]
        raise DataError(
            f"{output.root}: expected the batch that was begun there, got another one: "
            f"{'; '.join(first)}. To finish that one, give the same images, bundle and flags; "
            "else give another --output, or --overwrite to delete its results and begin anew."
        )


def finished(
    output: Storage, job: BatchJob, pieces: Sequence[Piece], *, retry_failed: bool = False
) -> dict[int, BatchCounts]:
    """Return the counts of the partitions whose results are there and whole.

    Args:
        output: where the results lie.
        job: of the batch.
        pieces: all partitions.
        retry_failed: whether those with an image that could not be read are to be done again.
    """
    present = set(output.names())
    there = [piece for piece in pieces if job.file(piece.partition) in present]

    def look(piece: Piece) -> BatchCounts | None:
        try:
            with output.open(job.file(piece.partition)) as file:
                return read_counts(file)
        except OSError:
            return None

    looked = in_order(look, there, threads=_READERS, ahead=8 * _READERS)
    return {
        piece.partition: counts
        for piece, counts in zip(there, looked, strict=True)
        if counts is not None
        and counts.images == len(piece)
        and not (retry_failed and counts.failed)
    }


def complete(output: Storage, job: BatchJob, counts: BatchCounts) -> None:
    """Check that each partition has its file and no other is there, and write that it is so.

    Raises:
        DataError: if a file is missing, or the folder cannot be used.
    """
    try:
        present = output.names()
        expected = {job.file(partition) for partition in range(job.partitions)}
        missing = sorted(expected.difference(present))
        if missing:
            raise DataError(
                f"{output.root}: expected the results of all {job.partitions} partitions, "
                f"{some(missing)} went away. Give the same command again."
            )
        for name in _results(present):
            if name not in expected:  # of an overwritten batch, by a straggler
                output.delete(name)
        output.write(SUCCESS, (json.dumps(vars(counts)) + "\n").encode())
    except OSError as error:
        told = hide(str(error), output.root)
        raise DataError(f"{output.root}: expected a folder to write to, got {told}") from error
