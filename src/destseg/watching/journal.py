"""The results of a watched folder, which are also the record of what is done.

There is no second book that could disagree with the results: an image is done when its result is
in the file, and a result is in the file as a whole or not at all.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from destseg.data.files import sync_folder
from destseg.errors import DataError, SettingsError
from destseg.monitoring.recorded import APPLICATION, SQLITE_SUFFIXES, VERSION
from destseg.watching.arrivals import Arrival
from destseg.watching.lock import hold

JSON_SUFFIXES = (".jsonl",)
SCHEMA = """
CREATE TABLE results (
  id             INTEGER PRIMARY KEY,  -- in the order of inspection
  file           TEXT NOT NULL,        -- relative to the folder
  size           INTEGER NOT NULL,     -- in bytes
  mtime_ns       INTEGER NOT NULL,     -- when the file was written, nanoseconds since 1970
  inspected      TEXT NOT NULL,        -- UTC, ISO 8601
  weights_sha256 TEXT NOT NULL,        -- of the model that said it
  path           TEXT NOT NULL,        -- FOLDER/file, as in destseg predict
  score          REAL,                 -- this and all below but error: NULL where it was unreadable
  p_value        REAL,
  is_defective   INTEGER,              -- 0 or 1
  threshold      REAL,
  width          INTEGER,              -- in pixels
  height         INTEGER,
  regions        TEXT,                 -- JSON, as in destseg predict
  error          TEXT,                 -- NULL where it was readable
  moved_to       TEXT,                 -- relative to the folder of --move; NULL without it
  UNIQUE (file, size, mtime_ns)
)
"""
_STAYS = -1
_BEGINNING = b'{"path": '


class Journal(abc.ABC):
    """Results on disk, of which each is there for good when ``add`` returns.

    In memory an image costs its identity and a number, about 120 bytes.

    Args:
        path: the file, made where there is none; held against other processes until ``close``.

    Raises:
        DataError: if another process holds it, it cannot be used, or it is not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Identity to place, or _STAYS where the image is not to be moved.
        self._done: dict[bytes, int] = {}
        self._folders: set[str] = set()
        with contextlib.ExitStack() as undo:
            with self._errors("a file for the results"):
                path.parent.mkdir(parents=True, exist_ok=True)
                real = path.resolve()  # two may come to it by two names
            self._lock = hold(real.with_name(f".{real.name}.lock"), f"{path}")
            undo.callback(self._lock.close)
            with self._errors("results of destseg watch"):
                self._open()
            undo.pop_all()

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, arrival: Arrival) -> bool:
        return arrival.identity in self._done

    def require_folder(self, folder: Path) -> None:
        """Refuse results of another folder: what is done there would be taken as done here.

        Raises:
            DataError: naming both.
        """
        for other in sorted(self._folders):
            if not _is_same(Path(other), folder):
                raise DataError(
                    f"{self.path}: expected results of {folder}, got those of {other or '.'}. A "
                    "file of results belongs to one folder: name another --output. If it is that "
                    f"folder at another place, let a link lead from {other or '.'} to it."
                )

    def destination(self, arrival: Arrival) -> str | None:
        """Return where an image that is done was to be moved; ``None`` where it was not."""
        place = self._done[arrival.identity]
        with self._errors("results that can be read"):
            return None if place == _STAYS else self._moved_to(place)

    def add(self, line: dict[str, Any]) -> None:
        """Write a result, with file, size, mtime_ns and moved_to, so that it stays.

        Raises:
            DataError: if it cannot be written; the file is as it was.
        """
        with self._errors("to write a result"):
            self._note(line, self._write(line))

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.closing(self._lock):  # whatever becomes of the file
            self._close()

    def _note(self, line: dict[str, Any], place: int) -> None:
        arrival = Arrival(line["file"], line["size"], line["mtime_ns"])
        self._done[arrival.identity] = _STAYS if line["moved_to"] is None else place
        self._folders.add(line["path"][: -len(arrival.file)])  # FOLDER/file

    @contextlib.contextmanager
    def _errors(self, expected: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self.path}: expected {expected}, got {error}. What was recorded before is "
                "kept: mend that, or name another --output, and start again."
            ) from error

    @abc.abstractmethod
    def _open(self) -> None: ...

    @abc.abstractmethod
    def _moved_to(self, place: int) -> str: ...

    @abc.abstractmethod
    def _write(self, line: dict[str, Any]) -> int: ...

    @abc.abstractmethod
    def _close(self) -> None: ...


class JsonLines(Journal):
    """A JSON line a result; one that a crash left torn at the end is cut off when it is opened."""

    def _open(self) -> None:
        self._end = 0
        made = not self.path.exists()
        # Not buffered: what could not be written must not be tried again behind our back.
        self._file = self.path.open("ab", buffering=0)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    last = self._end + len(line) == size
                    if last and _is_torn(line, first=number == 1):
                        break
                    self._note(self._read(line, number), self._end)
                    self._end += len(line)
            self._file.truncate(self._end)
            if made:
                sync_folder(self.path.parent)
        except BaseException:
            self._file.close()
            raise

    def _read(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            values = json.loads(line)
            types = [type(values[name]) for name in ("path", "file", "size", "mtime_ns")]
            if types == [str, str, int, int] and isinstance(values["moved_to"], str | None):
                return dict(values)
        except (ValueError, TypeError, KeyError):
            pass
        raise DataError(
            f"{self.path}, line {number}: expected a line of destseg watch, got "
            f"{line[:60].decode(errors='replace')!r}. Name another --output: the lines are also "
            "the record of what is done, so no others can be among them."
        )

    def _moved_to(self, place: int) -> str:
        with self.path.open("rb") as lines:
            lines.seek(place)
            return str(json.loads(lines.readline())["moved_to"])

    def _write(self, line: dict[str, Any]) -> int:
        content = memoryview(json.dumps(line).encode() + b"\n")
        place = self._end
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(place)
            raise
        self._end += len(content)
        return place

    def _close(self) -> None:
        self._file.close()


class Sqlite(Journal):
    """A row of the table ``results`` a result, each in a transaction of its own."""

    def _open(self) -> None:
        # One thread at a time uses it, but not always the same: a watch is an iterator.
        self._database = sqlite3.connect(
            self.path, timeout=60, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
            names = ("path", "file", "size", "mtime_ns", "moved_to")
            rows = self._database.execute(f"SELECT id, {', '.join(names)} FROM results")
            for place, path, file, *others in rows:
                values = (_from_sql(path), _from_sql(file), *others)
                self._note(dict(zip(names, values, strict=True)), place)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        execute = self._database.execute
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        (kind,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        if tables and (kind, version) != (APPLICATION, VERSION):
            raise DataError(
                f"{self.path}: expected results of destseg watch in form {VERSION}, got "
                + (f"form {version}" if kind == APPLICATION else "another database")
                + ". Name another --output."
            )
        # A log beside the file: whoever reads it meanwhile holds nobody up.
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = EXTRA")
        if not tables:
            execute("BEGIN")
            execute(SCHEMA)
            execute(f"PRAGMA application_id = {APPLICATION}")
            execute(f"PRAGMA user_version = {VERSION}")
            execute("COMMIT")
            sync_folder(self.path.parent)

    def _moved_to(self, place: int) -> str:
        row = self._database.execute("SELECT moved_to FROM results WHERE id = ?", (place,))
        return _from_sql(row.fetchone()[0])

    def _write(self, line: dict[str, Any]) -> int:
        values = {name: _to_sql(value) for name, value in line.items()}
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        done = self._database.execute(
            f"INSERT INTO results ({names}) VALUES ({marks})", tuple(values.values())
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def _close(self) -> None:
        self._database.close()


def open_journal(path: str | Path) -> Journal:
    """Open a file of results, of the kind that its suffix says, or make it.

    Raises:
        SettingsError: if the suffix says neither.
        DataError: as ``Journal``.
    """
    path = Path(path)
    if path.suffix.lower() in JSON_SUFFIXES:
        return JsonLines(path)
    if path.suffix.lower() in SQLITE_SUFFIXES:
        return Sqlite(path)
    known = ", ".join((*JSON_SUFFIXES, *SQLITE_SUFFIXES))
    raise SettingsError(f"--output: expected a name that ends in {known}, got {path.name!r}")


def _is_same(recorded: Path, folder: Path) -> bool:
    """Whether a folder is the one that was recorded, as far as can be told.

    A relative one was perhaps given from another place: where there is none of that name here, it
    is the same if it ends alike.
    """
    if recorded.absolute() == folder.absolute():
        return True
    try:
        return recorded.samefile(folder)
    except OSError:
        ends = [part for part in recorded.parts if part != ".."]
        alike = list(folder.resolve().parts[-len(ends) :]) == ends
        return alike and not recorded.is_absolute() and not recorded.exists()


def _is_torn(line: bytes, *, first: bool) -> bool:
    """Whether the last line is one that was not finished, and no other program's.

    When the power fails, parts of it can be zeros, and its end there before its beginning.
    """
    ours = line.startswith(_BEGINNING) or _BEGINNING.startswith(line)
    if b"\0" in line:
        return ours or not first or not line.strip(b"\0\n")
    return ours and not line.endswith(b"\n")


def _to_sql(value: Any) -> Any:
    """Return a value as SQLite keeps it; names that are no Unicode become bytes."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value)
    return value


def _from_sql(value: str | bytes) -> str:
    return value if isinstance(value, str) else os.fsdecode(value)
