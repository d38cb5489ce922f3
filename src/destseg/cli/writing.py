"""Results of finished work on disk: those that cannot be written are told, the others count."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from destseg.data.paths import expanded
from destseg.errors import DataError, NotWrittenError

Value = TypeVar("Value")


def place_of(given: str | None, default: Path) -> Path:
    """Return where a file is to be written: where a flag says, or without it by default.

    Raises:
        DataError: if the flag names an empty text, as an unset variable of a shell is.
    """
    return default if given is None else expanded(given)


def finished(work: Callable[[], Value]) -> tuple[Value, Mapping[Path, DataError]]:
    """Do work and return what it gave, with an error for each file that could not be written."""
    try:
        return work(), {}
    except NotWrittenError as error:
        return error.result, error.failures


def tell(failures: Mapping[Path, DataError]) -> None:
    """Print errors to the standard error."""
    for failure in failures.values():
        print(f"destseg: error: {failure}", file=sys.stderr)
