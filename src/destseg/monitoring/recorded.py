"""Scores that were recorded before: the results of predict, watch and batch, read back."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from destseg.data.folders import natural_order
from destseg.errors import DataError, needs_extra
from destseg.inference.bundle import Bundle

SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
APPLICATION = 0x64537457
"""``application_id`` of the databases of ``destseg watch``: tells a file of ours from another's."""
VERSION = 1
"""Their ``user_version``."""

_LINES, _PARQUET = ".jsonl", ".parquet"
_JOB, _SUCCESS = "_job.json", "_SUCCESS"
_COLUMNS = ("score", "p_value", "threshold", "error")


@dataclass(frozen=True)
class ImageScore:
    """What was said of an image.

    Attributes:
        path: of the image.
        score: in [0, 1]; ``None`` where the image could not be read.
        error: why there is no score; else empty.
    """

    path: str
    score: float | None
    error: str = ""


def is_results(source: str | Path) -> bool:
    """Whether a file or folder is called like results: else it is taken for images.

    A folder is where Parquet files lie straight in it; a file by its suffix.
    """
    source = Path(source)
    if source.is_dir():
        return next(source.glob(f"*{_PARQUET}"), None) is not None or (source / _JOB).is_file()
    return source.suffix.lower() in (_LINES, _PARQUET, *SQLITE_SUFFIXES)


def read_results(source: str | Path, bundle: Bundle) -> Iterator[ImageScore]:
    """Yield what was recorded of each image, in the order of the record.

    - JSON lines of ``destseg predict`` or ``watch`` (.jsonl): line by line.
    - The database of ``destseg watch`` (.db, .sqlite, .sqlite3): in the order of inspection.  It is
      opened for reading alone, and a watch may go on writing to it.
    - Results of ``destseg batch`` (a folder of Parquet, or one file): in the order of the batch's
      listing, which for a folder of images is that of natural names, not of time.

    Args:
        source: file or folder.
        bundle: of the model that gave the results, with its calibration.

    Raises:
        DataError: if it cannot be read, is something else, or is of another model or threshold.
        MissingExtraError: for Parquet without pyarrow.
    """
    source = Path(source)
    for where, values in _rows(source):
        try:
            path = os.fsdecode(values["path"])
            if values.get("error") is not None:
                yield ImageScore(path, None, os.fsdecode(values["error"]))
                continue
            score = float(values["score"])
            said = float(values["p_value"]), float(values["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: expected a result of destseg predict, watch or batch, got {error!r}. "
                "Give the results as they were written, or the images themselves."
            ) from error
        if not 0 <= score <= 1:
            raise DataError(
                f"{where}: expected a score in [0, 1], got {score}: no model gives that. Give the "
                "results as they were written, or inspect the images again."
            )
        _require_same_model(where, score, said, values, bundle)
        yield ImageScore(path, score)


def _require_same_model(
    where: str,
    score: float,
    said: tuple[float, float],
    values: Mapping[str, Any],
    bundle: Bundle,
) -> None:
    calibration = bundle.calibration
    assert calibration is not None, "load_bundle always gives one"
    how = "Give the bundle and --backend that it was made with, or inspect the images again."
    weights = values.get("weights_sha256")
    if weights not in (None, calibration.weights_sha256):
        raise DataError(
            f"{where}: expected a result of the model {calibration.weights_sha256[:16]}, got "
            f"one of {str(weights)[:16]}. {how}"
        )
    # Both follow from the calibration's scores, so another model's would be others.
    expected = (calibration.p_value(score), calibration.threshold)
    if said != expected:
        raise DataError(
            f"{where}: expected p_value {expected[0]:.6g} and threshold {expected[1]:.6g} for the "
            f"score {score:.6g}, got {said[0]:.6g} and {said[1]:.6g}: it comes from another model, "
            f"threshold or INT8 form. {how} After destseg calibrate begin a new file of results."
        )


def _rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    suffix = source.suffix.lower()
    if source.is_dir() or suffix == _PARQUET:
        return _parquet_rows(source)
    return _sqlite_rows(source) if suffix in SQLITE_SUFFIXES else _json_rows(source)


def _json_rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    where = str(source)
    try:
        with source.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{source}, line {number}"
                yield where, json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}: expected JSON lines of destseg predict or watch, got {error}."
        ) from error


def _sqlite_rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    columns = ("id", "path", "weights_sha256", *_COLUMNS)
    try:
        address = f"{source.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=60)) as database:
            (kind,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if (kind, version) != (APPLICATION, VERSION):
                got = f"form {version}" if kind == APPLICATION else "another database"
                raise DataError(
                    f"{source}: expected results of destseg watch in form {VERSION}, got {got}."
                )
            for row in database.execute(f"SELECT {', '.join(columns)} FROM results ORDER BY id"):
                yield f"{source}, row {row[0]}", dict(zip(columns, row, strict=True))
    except sqlite3.Error as error:
        raise DataError(
            f"{source}: expected the database of destseg watch, got: {error}. It is read together "
            "with the files -wal and -shm beside it."
        ) from error


def _parquet_rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with needs_extra("parquet", f"reading {source}"):
        import pyarrow
        import pyarrow.parquet
    columns = ["path", "weights_sha256", *_COLUMNS]
    for file in _parts(source):
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(file) as parquet:
                missing = [name for name in columns if name not in parquet.schema_arrow.names]
                if missing:
                    raise DataError(
                        f"{file}: expected results of destseg batch, got Parquet without the "
                        f"columns {', '.join(missing)}. To inspect images that lie in Parquet, "
                        "use destseg batch first."
                    )
                for batch in parquet.iter_batches(columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{file}, row {number}", row
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{file}: expected Parquet of destseg batch, got {error}.") from error


def _parts(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    if (source / _JOB).is_file() and not (source / _SUCCESS).is_file():
        raise DataError(
            f"{source}: expected the results of a batch that is finished, got one without "
            f"{_SUCCESS}. Give the command of the batch again, which does what is missing."
        )
    parts = sorted(source.glob(f"*{_PARQUET}"), key=lambda path: natural_order(Path(path.name)))
    if not parts:
        raise DataError(f"{source}: expected results of destseg batch, got no {_PARQUET} there.")
    return parts
