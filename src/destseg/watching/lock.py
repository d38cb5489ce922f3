"""One process at a time: a lock that goes with the process, however that ends."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from destseg.errors import DataError


def hold(path: Path, what: str) -> sqlite3.Connection:
    """Hold a lock file until what is returned is closed or the process ends, however it ends.

    SQLite's locks are the only ones in the standard library that work alike on every system.

    Raises:
        DataError: if another process holds it, or there can be none.
    """
    with contextlib.ExitStack() as undo:
        try:
            lock = undo.enter_context(contextlib.closing(sqlite3.connect(path, timeout=0)))
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise DataError(
                    f"{what}: expected to be the only destseg watch that writes there, got another "
                    "one that is running. Stop that, or name another place for this one."
                ) from error
            raise DataError(f"{path}: expected a lock file to hold, got {error}.") from error
        undo.pop_all()
    return lock
