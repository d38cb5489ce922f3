"""Where inspected images go: a folder with one folder each for good, defective and failed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from destseg.errors import DataError, SettingsError
from destseg.inference.result import Failure, Result
from destseg.watching.arrivals import Arrival, look_at
from destseg.watching.lock import hold

KINDS = ("good", "defective", "failed")
_LONGEST = 255  # bytes of a file's name


class Mover:
    """Moves images out of a watched folder, in one step each, and never over another file.

    Args:
        folder: where the images are.
        target: gets the folders of ``KINDS``; made where there is none, and held against other
            processes until ``close``.

    Raises:
        SettingsError: if the watched folder lies in the target.
        DataError: if the target cannot be used, is on another file system or held by another.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self.target = target
        if target.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise SettingsError(
                f"--move: expected a folder that {folder} is not in, got {target}: what was moved "
                "would be found again"
            )
        try:
            for kind in KINDS:
                (target / kind).mkdir(parents=True, exist_ok=True)
            same = target.stat().st_dev == folder.stat().st_dev
        except OSError as error:
            raise DataError(f"{target}: expected a folder to move images to, got {error}.") from (
                error
            )
        if not same:
            raise DataError(
                f"{target}: expected a folder on the same file system as {folder}, so that an "
                "image is moved in one step or not at all, got one on another. Name a folder "
                "beside or in it."
            )
        self._lock = hold(target / ".watch.lock", str(target))

    def close(self) -> None:
        """Let go of the target."""
        self._lock.close()

    def plan(self, arrival: Arrival, answer: Result | Failure) -> str | None:
        """Return where an image is to go, relative to the target: a name that is free.

        ``None`` for a relative link, which would lead elsewhere from another folder.  To write it
        anew takes a second step, before which what it leads to could be lost.
        """
        with contextlib.suppress(OSError):  # it is no link
            if not (self.folder / arrival.file).readlink().is_absolute():
                return None
        kind = "failed"
        if isinstance(answer, Result):
            kind = "defective" if answer.is_defective else "good"
        wanted = PurePosixPath(kind, arrival.file)
        if not (self.target / wanted).exists():
            return wanted.as_posix()
        # A camera that uses a name again: the time tells them apart, and so do the results.
        tail = f"-{arrival.mtime_ns}{wanted.suffix}"
        return wanted.with_name(
            _cut(wanted.stem, _LONGEST - len(os.fsencode(tail))) + tail
        ).as_posix()

    def move(self, arrival: Arrival, planned: str) -> None:
        """Move an image, if it is still there as it was recorded.

        Raises:
            OSError: if it cannot be moved; it stays where it is.
        """
        source, target = self.folder / arrival.file, self.target / planned
        if look_at(self.folder, arrival.file) != arrival:
            return
        if target.exists():
            raise FileExistsError(f"{target} is in the way")
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            source.rename(target)
        moved = look_at(self.target, planned)
        if moved is not None and (moved.size, moved.mtime_ns) != (arrival.size, arrival.mtime_ns):
            # The camera put a new image there in between, which nobody has looked at yet.
            try:
                source.hardlink_to(target)  # never over yet another one
            except OSError:
                raise FileExistsError(f"{target} was not inspected: move it back") from None
            target.unlink()


def _cut(name: str, length: int) -> str:
    """Return as much of the beginning of a name as has so many bytes, its last letter whole."""
    while len(os.fsencode(name)) > length:
        name = name[:-1]
    return name
