"""One process at a time: a lock that goes with the process, however that ends."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from destseg.errors import DataError


def hold(path: Path, taken: str) -> sqlite3.Connection:
    """Hold a lock file until what is returned is closed or the process ends, however it ends.

    SQLite's locks are the only ones in the standard library that work alike on every system.  What
    is returned may be closed in any thread.

    Args:
        path: the file, made where there is none.
        taken: what to say where another holds it.

    Raises:
        DataError: ``taken``; or ``LockError``, if there can be no lock there.
    """
    while True:
        try:
            path.touch()
            file = path.stat().st_ino
            with contextlib.ExitStack() as undo:
                opened = sqlite3.connect(path, timeout=0, check_same_thread=False)
                undo.enter_context(contextlib.closing(opened))
                opened.execute("BEGIN EXCLUSIVE")
                # Its last holder may have taken it away meanwhile, and the next have made another.
                if path.exists() and path.stat().st_ino == file:
                    undo.pop_all()
                    return opened
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise DataError(taken) from error
            raise LockError(path, error) from error
        except OSError as error:
            raise LockError(path, error) from error


class LockError(DataError):
    """A place where no lock can be held."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path}: expected a lock file to hold, got {error}.")
