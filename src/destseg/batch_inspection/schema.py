"""What a batch says of its images, as typed rows of a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

import destseg
from destseg.batch_inspection.values import BatchCounts
from destseg.data.paths import shown
from destseg.errors import ImageError
from destseg.inference.result import Failure, Result

_INT = pyarrow.int32()
REGION = pyarrow.struct(
    [(name, _INT) for name in ("x", "y", "width", "height")]
    + [("area", pyarrow.int64()), ("peak", pyarrow.float64()), ("peak_x", _INT), ("peak_y", _INT)]
)
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("path", pyarrow.string(), nullable=False),
        pyarrow.field("partition", _INT, nullable=False),
        pyarrow.field("score", pyarrow.float64()),
        pyarrow.field("p_value", pyarrow.float64()),
        pyarrow.field("is_defective", pyarrow.bool_()),
        pyarrow.field("threshold", pyarrow.float64()),
        pyarrow.field("width", _INT),
        pyarrow.field("height", _INT),
        pyarrow.field("regions", pyarrow.list_(REGION)),
        pyarrow.field("error", pyarrow.string()),
        pyarrow.field("weights_sha256", pyarrow.string(), nullable=False),
    ]
)
"""Columns of the results: where there is an error, all but path, partition and weights_sha256 are
null; error is where there is none."""

_COUNTS = b"destseg"


def row(
    path: str, partition: int, answer: Result | Failure | ImageError, weights_sha256: str
) -> dict[str, Any]:
    """Return what is said of an image as a row of ``SCHEMA``; missing columns are null."""
    known = {"path": path, "partition": partition, "weights_sha256": weights_sha256}
    if isinstance(answer, Result):
        values = answer.to_json()
        del values["path"]
        return values | known
    error = answer if isinstance(answer, ImageError) else answer.error
    return known | {"error": shown(error.reason)}


def count(rows: Sequence[dict[str, Any]]) -> BatchCounts:
    """Return how many rows there are, and what they say."""
    failed = sum("error" in each for each in rows)
    return BatchCounts(len(rows), failed, sum(bool(each.get("is_defective")) for each in rows))


def to_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return a Parquet file of rows; their counts stand in its footer."""
    counts = {"version": destseg.__version__, **vars(count(rows))}
    schema = SCHEMA.with_metadata({_COUNTS: json.dumps(counts).encode()})
    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, content, compression="zstd")
    return bytes(content.getvalue().to_pybytes())


def read_counts(file: Any) -> BatchCounts | None:
    """Return the counts in the footer of a whole file of results; ``None`` if it is none.

    Args:
        file: opened for reading.
    """
    try:
        metadata = pyarrow.parquet.read_metadata(file)
        values = json.loads((metadata.metadata or {})[_COUNTS])
        counts = BatchCounts(values["images"], values["failed"], values["defective"])
        return counts if counts.images == metadata.num_rows else None
    except (pyarrow.ArrowInvalid, OSError, ValueError, KeyError, TypeError):
        return None
