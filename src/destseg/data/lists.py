"""Lists of images: a path a line, or a table with a column of paths."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from destseg.errors import DataError

LIST_SUFFIXES = frozenset({".txt", ".csv"})
"""Suffixes of lists, in any letter case."""

_LABEL_COLUMNS = ("label", "labels", "class", "kind", "defect_type")


def read_list(source: Path) -> list[tuple[Path, str | None]]:
    """Return (path, label) of a list's rows, the label ``None`` without such a column.

    Args:
        source: .txt with a path a line, # before comments (unless there is a file of that name);
            or .csv with a column ``path`` and perhaps ``label`` (or ``labels``, ``class``,
            ``kind``, ``defect_type``).  Relative paths start at the list's folder.

    Raises:
        DataError: if it cannot be read, is empty or lacks the column.
    """
    lines = _lines(source)
    if source.suffix.lower() == ".csv":
        rows = _read_csv(source, lines)
    else:
        stripped = (line.strip() for line in lines)
        rows = [(line, None) for line in stripped if line and not _is_comment(source, line)]
    if not rows:
        raise DataError(f"{source}: expected one image a line, got an empty list.")
    return [(source.parent / path, label) for path, label in rows]


def read_table(source: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV by the names of its columns, in lower case; paths as they stand.

    Args:
        source: with a header in its first line, separated by commas or semicolons.
        columns: that it must have; those of a row may be empty but for the first.  ``label`` may
            be called otherwise, as ``read_list`` says.

    Raises:
        DataError: if it cannot be read, is empty, lacks a column, or a row has other cells.
    """
    header, *table = _table(source, _lines(source)) or [[]]
    header = [cell.casefold() for cell in header]
    if "label" in columns and (found := _label_column(header)):
        header[header.index(found)] = "label"
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(
            f"{source}: expected columns named {' and '.join(missing)}, got "
            f"{', '.join(header) or 'an empty file'}; name the columns in the first line, for "
            f"example: {','.join(columns)}"
        )
    if not table:
        raise DataError(f"{source}: expected one image a line, got a header alone.")
    where = header.index(columns[0])
    short = [row for row in table if len(row) != len(header) or not row[where]]
    if short:
        raise DataError(f"{source}: expected {counted(len(header), 'cell')} a row, got {short[0]}.")
    return [dict(zip(header, row, strict=True)) for row in table]


def _lines(source: Path) -> list[str]:
    try:
        # Every kind of line end is \n by now; splitlines() would cut names at other characters.
        return source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: expected a list of paths in UTF-8, got {error}.") from None


def _is_comment(source: Path, line: str) -> bool:
    # A comment can be no name at all, for which a Path would raise.
    return line.startswith("#") and not os.path.isfile(source.parent / line)  # noqa: PTH113


def _table(source: Path, lines: list[str]) -> list[list[str]]:
    # Spreadsheets write semicolons where the comma is the decimal sign.
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise DataError(f"{source}: expected a table (CSV), got {error}.") from None
    return [row for row in table if any(row)]


def _read_csv(source: Path, lines: list[str]) -> list[tuple[str, str | None]]:
    table = _table(source, lines)
    header = [cell.casefold() for cell in table[0]] if table else []
    if "path" in header:
        table = table[1:]
    elif len(header) > 1:
        raise DataError(
            f"{source}: expected a column named path, got {', '.join(header)}; "
            "name the columns in the first line, for example: path,label"
        )
    where = header.index("path") if "path" in header else 0
    named = _label_column(header)
    label = None if named is None else header.index(named)
    short = [row for row in table if len(row) <= max(where, label or 0) or not row[where]]
    if short:
        raise DataError(
            f"{source}: expected {counted(len(header), 'filled cell')} a row, got {short[0]}."
        )
    return [(row[where], None if label is None else row[label]) for row in table]


def _label_column(header: Sequence[str]) -> str | None:
    return next((name for name in _LABEL_COLUMNS if name in header), None)


def existing(source: Path, paths: list[Path]) -> list[Path]:
    """Return the paths of a list if all are files.

    Raises:
        DataError: naming those that are not.
    """
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{source}: expected the files that it lists, {len(missing)} of {len(paths)} are "
            f"missing: {some(missing)}; relative paths start at {source.parent.resolve()}."
        )
    return paths


def counted(count: int, thing: str, things: str = "") -> str:
    """Return how many of a thing there are: "1 image", "2 images"."""
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def some(names: Sequence[str], shown: int = 10) -> str:
    """Return the first names of many, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
