"""One watch at a time writes results, or moves images into a folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from destseg.data import lock


def hold(path: Path, what: str) -> sqlite3.Connection:
    """Hold a lock file until what is returned is closed or the process ends, however it ends.

    Raises:
        DataError: if another process holds it, or there can be none.
    """
    return lock.hold(
        path,
        f"{what}: expected to be the only destseg watch that writes there, got another one that is "
        "running. Stop that, or name another place for this one.",
    )
