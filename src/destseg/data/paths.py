r"""Paths as callers give them, and names of files as text: the one rule for bytes that are none.

A file's name is bytes, and Python keeps those that are no UTF-8 as lone surrogates (``b"\xff"`` is
``"\udcff"``), which no strict encoder writes.  What destseg writes is always text, and:

- JSON (results, records, calibrations) has the surrogate as the escape ``\udcff``: Python reads
  the same name back.  SQLite has such a name as bytes, which ``os.fsdecode`` reads back.
- All else (terminal, logs, CSV, Parquet, HTML) has these six characters as they are: ``shown``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from destseg.errors import DataError

AnyPath: TypeAlias = str | os.PathLike[str]
"""A path as callers give it; ``~`` is the home folder."""


def require_given(path: AnyPath) -> None:
    """Refuse an empty text as a path: ``Path`` takes it for the current folder.

    Raises:
        DataError: if it is empty, as an unset variable of a shell is.
    """
    if not os.fspath(path):
        raise DataError(
            "expected a path, got an empty text. Give the path (a variable of the shell may be "
            "unset), or . for the current folder."
        )


def expanded(path: AnyPath) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder, where there is one.

    Raises:
        DataError: if the path is empty.
    """
    require_given(path)
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's fails where there is none


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a path or any text so that every UTF-8 encoder can write it.

    >>> print(shown(os.fsdecode(b"a-\xff.png")))
    a-\udcff.png
    """
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()
