"""What an evaluation found, as files: metrics in JSON, and a table with a row an image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from destseg.data.files import write_atomically
from destseg.data.paths import shown
from destseg.errors import SettingsError, needs_extra
from destseg.evaluation.evaluate import Evaluation
from destseg.evaluation.outcomes import ImageRecord


def write_metrics(path: Path, evaluation: Evaluation) -> None:
    """Write the metrics as JSON: ``Evaluation.to_json``.

    Raises:
        DataError: if the file cannot be written.
    """
    write_atomically(path, json.dumps(evaluation.to_json(), indent=1) + "\n")


def write_records(path: Path, records: Sequence[ImageRecord]) -> None:
    """Write a row an image: the fields of ``ImageRecord``, and its outcome; unknown ones are empty.

    Raises:
        DataError: if the file cannot be written.
    """
    rows: list[dict[str, Any]] = [{**vars(each), "outcome": each.outcome} for each in records]
    rows = [
        {name: shown(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue())
        return
    pyarrow = _parquet()
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    write_atomically(path, content.getvalue().to_pybytes())


def require_table(path: Path) -> None:
    """Refuse a file that ``write_records`` cannot write here.

    Raises:
        SettingsError: if its name ends neither in .csv nor in .parquet.
        MissingExtraError: for Parquet without pyarrow.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise SettingsError(f"--by-image: expected FILE.csv or FILE.parquet, got {path}")
    if path.suffix == ".parquet":
        _parquet()


def _parquet() -> Any:
    with needs_extra("parquet", "--by-image FILE.parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow
