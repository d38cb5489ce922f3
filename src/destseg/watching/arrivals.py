"""What lies in a folder that is written to, and which of it is complete."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from destseg.data.samples import PICTURE_SUFFIXES

_TEMPORARY = (".tmp", ".part", ".partial")


class Arrival(NamedTuple):
    """A picture file as it was seen: what tells it from every other, without reading it.

    Attributes:
        file: its path relative to the folder, with slashes.
        size: in bytes.
        mtime_ns: when it was last written, in nanoseconds, by the file system's clock.
    """

    file: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> bytes:
        """16 bytes that no two arrivals share; a hash, so that many can be kept."""
        text = f"{self.size} {self.mtime_ns} {self.file}"
        return hashlib.blake2b(os.fsencode(text), digest_size=16).digest()


def is_picture(name: str) -> bool:
    """Whether a file's name is a finished picture's: no hidden file, no temporary one."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - ten times as quick as a Path
    return (
        suffix.lower() in PICTURE_SUFFIXES
        and name[0] not in ".~"
        and not stem.lower().endswith(_TEMPORARY)
    )


def look_at(folder: Path, file: str) -> Arrival | None:
    """Return a file as it is now, or ``None`` where there is none that can be seen."""
    try:
        status = (folder / file).stat()
    except OSError:
        return None
    return Arrival(file, status.st_size, status.st_mtime_ns)


def scan(
    folder: Path, refused: Callable[[OSError], None], leave: Path | None = None
) -> Iterator[Arrival]:
    """Yield the pictures of a folder and the folders in it, in any order, each folder once.

    Hidden files and folders and temporary names are left alone, as is the folder ``leave``.

    Args:
        folder: where to look.
        refused: is told of a folder inside that cannot be read.
        leave: a folder not to look into.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    seen = {os.path.realpath(leave)} if leave else set()
    # Links wait until the real folders are done: a picture keeps its own path, not a link's.
    folders = deque([("", os.path.realpath(folder))])
    while folders:
        inside, real = folders.popleft()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = entry.name
                    if is_picture(name) and (status := _status(entry)) is not None:
                        yield Arrival(inside + name, status.st_size, status.st_mtime_ns)
                    elif name[0] == "." or not _is_folder(entry):
                        continue
                    elif entry.is_symlink():
                        folders.append((f"{inside}{name}/", os.path.realpath(entry.path)))
                    else:
                        folders.appendleft((f"{inside}{name}/", os.path.join(real, name)))  # noqa: PTH118
        except FileNotFoundError:
            if not inside:
                raise
        except OSError as error:
            if not inside:
                raise
            refused(error)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what is known of an entry that is a file; ``None`` for others and what is gone."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class _Waiting:
    arrival: Arrival
    since: float
    due: float


class Arrivals:
    """Pictures that are not done, and when each is to be read: nothing here touches a disk.

    A picture is due when it was the same for ``settle`` seconds.  One that then cannot be read may
    still be being written, also where its size and time do not tell: it is due again after twice
    the time, and so on, and given up where it stayed the same for ``give_up`` seconds.

    Args:
        settle, give_up: in seconds.
    """

    def __init__(self, settle: float, give_up: float) -> None:
        self.settle = settle
        self.give_up = give_up
        self._waiting: dict[str, _Waiting] = {}

    @property
    def files(self) -> set[str]:
        """The files that are waited for."""
        return set(self._waiting)

    def look(self, there: Iterable[Arrival], now: float) -> list[Arrival]:
        """Take note of all pictures that are not done; return those due, oldest first.

        Args:
            there: all of them; what is not among them any more is forgotten.
            now: in seconds, of a clock that never goes back.
        """
        waiting = {}
        for arrival in there:
            known = self._waiting.get(arrival.file)
            if known is None or known.arrival != arrival:
                known = _Waiting(arrival, now, now + self.settle)
            waiting[arrival.file] = known
        self._waiting = waiting
        due = [each.arrival for each in waiting.values() if each.due <= now]
        return sorted(due, key=lambda arrival: (arrival.mtime_ns, arrival.file))

    def unreadable(self, arrival: Arrival, now: float) -> bool:
        """Return whether a picture that could not be read is given up; else it is due later."""
        known = self._waiting[arrival.file]
        age = now - known.since
        if age >= self.give_up:
            return True
        due = min(now + max(age, self.settle), known.since + self.give_up)
        self._waiting[arrival.file] = _Waiting(arrival, known.since, due)
        return False

    def done(self, arrival: Arrival) -> None:
        """Wait for a picture no longer."""
        self._waiting.pop(arrival.file, None)
