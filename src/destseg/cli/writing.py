"""Results of finished work on disk: one that cannot be written takes no other along."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from destseg.errors import DataError


def write_each(writes: Mapping[Path, Callable[[], object]]) -> list[Path]:
    """Write files one after another, tell of each that cannot be, and return the others.

    Args:
        writes: by the file, what writes it.
    """
    written = []
    for path, write in writes.items():
        try:
            write()
            written.append(path)
        except DataError as error:
            print(f"destseg: error: {error}", file=sys.stderr)
    return written
