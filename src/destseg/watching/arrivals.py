"""What lies in a folder that is written to, and which of it is complete."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from destseg.data.folders import entries_below, head_of
from destseg.data.kinds import kind_of, name_says

_TEMPORARY = (".tmp", ".part", ".partial")


class Arrival(NamedTuple):
    """An image file as it was seen: what tells it from every other, without reading it.

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


def is_finished(name: str) -> bool:
    """Whether a file's name is none of a file that is being written."""
    return name[0] not in ".~" and not _stem(name).lower().endswith(_TEMPORARY)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - ten times as quick as a Path


def look_at(folder: Path, file: str) -> Arrival | None:
    """Return a file as it is now, or ``None`` where there is none that can be seen."""
    try:
        status = (folder / file).stat()
    except OSError:
        return None
    return Arrival(file, status.st_size, status.st_mtime_ns)


class Scanner:
    """Looks what images lie in a folder and the folders in it, each folder once.

    Hidden files and folders and temporary names (7.tmp.png, 7.png.upload) are left alone.  Where a
    name does not tell whether a file is an image its first bytes do, once for each state of it.

    Args:
        folder: where to look.
        refused: is told of a folder inside that cannot be read, and of a link to nothing.
        leave: a folder not to look into.
    """

    def __init__(
        self, folder: Path, refused: Callable[[OSError], None], leave: Path | None = None
    ) -> None:
        self.folder = folder
        self._refused = refused
        self._leave = leave
        self._looked_into: dict[Arrival, bool] = {}

    def scan(self) -> Iterator[Arrival]:
        """Yield the images, in any order.

        Raises:
            OSError: if the folder itself cannot be read.
        """
        before, self._looked_into = self._looked_into, {}
        for file, entry in entries_below(self.folder, self._refused, self._leave):
            name = entry.name
            said = name_says(name)
            if said is False or not is_finished(name) or (said is None and name_says(_stem(name))):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                # Others are gone again, as temporary files are.
                if entry.is_symlink():
                    self._refused(error)
                continue
            arrival = Arrival(file, status.st_size, status.st_mtime_ns)
            if stat.S_ISREG(status.st_mode) and (said or self._is_image(arrival, before)):
                yield arrival

    def _is_image(self, arrival: Arrival, before: dict[Arrival, bool]) -> bool:
        known = before.get(arrival)
        if known is None:
            try:
                head = head_of(self.folder / arrival.file)
            except OSError:
                return False  # Perhaps its writer has locked it: it is looked into again.
            if not any(head):
                return False  # Nothing is written yet, or only room is made for it.
            known = kind_of(head) is not None
        self._looked_into[arrival] = known
        return known


@dataclass(frozen=True)
class _Waiting:
    arrival: Arrival
    since: float
    due: float


class Arrivals:
    """Images that are not done, and when each is to be read: nothing here touches a disk.

    An image is due when it was the same for ``settle`` seconds.  One that then cannot be read may
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
        """Take note of all images that are not done; return those due, oldest first.

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
        """Return whether an image that could not be read is given up; else it is due later."""
        known = self._waiting[arrival.file]
        age = now - known.since
        if age >= self.give_up:
            return True
        due = min(now + max(age, self.settle), known.since + self.give_up)
        self._waiting[arrival.file] = _Waiting(arrival, known.since, due)
        return False

    def done(self, arrival: Arrival) -> None:
        """Wait for an image no longer."""
        self._waiting.pop(arrival.file, None)
