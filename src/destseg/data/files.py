"""Files that are never half written, and never by two at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from destseg.data.paths import shown
from destseg.errors import DataError, ImageError
from destseg.interruption import whole

_NAME_KEPT = 40  # of a file's name in that of its temporary one: names have at most 255 bytes


def beside(path: Path) -> Path:
    """Return a temporary name in the same folder that nobody else has; hidden, ends in .part."""
    return path.with_name(f".{path.name[:_NAME_KEPT]}.{secrets.token_hex(4)}.part")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content; an ``OSError`` is the caller's to explain."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_image(path: Path) -> str:
    """Return the SHA-256 of an image's file.

    Raises:
        ImageError: if it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise ImageError(
            path, f"expected an image that can be read, got: {error.strerror}"
        ) from error


class FileState(NamedTuple):
    """What of a file changes when it is written anew: its size, and when that was."""

    size: int
    mtime_ns: int


def state_of(path: Path) -> FileState | None:
    """Return the state of a file; ``None`` where it cannot be looked at."""
    try:
        about = path.stat()
    except OSError:
        return None
    return FileState(about.st_size, about.st_mtime_ns)


def states_of(paths: Iterable[Path]) -> dict[Path, FileState | None]:
    """Return the states of files, to ask later whether they are still what they were."""
    return {path: state_of(path) for path in paths}


_LEAVE_TRAINING = (
    "Leave the images as they are while a training runs; put this one back and go on with "
    "--resume, or begin anew with --overwrite."
)


def require_same(path: Path, before: FileState | None, advice: str = _LEAVE_TRAINING) -> None:
    """Refuse an image that was read, if it is not the file any more that was looked at before.

    Args:
        path: of the image.
        before: its state then.
        advice: what to do about it; for a training, where nothing is said.

    Raises:
        ImageError: naming it.
    """
    if state_of(path) != before:
        raise ImageError(
            path,
            "expected the image that was there when the run began, got a file that was written or "
            f"taken away since. {advice}",
        )


def require_all_same(before: Mapping[Path, FileState | None], done: str) -> None:
    """Refuse images that are not what they were, before what was learned from them is written.

    Args:
        before: their states then.
        done: what is done to the model, such as "calibrated".

    Raises:
        ImageError: naming the first.
    """
    advice = (
        f"Leave the images as they are while a model is {done}. Nothing is written; give the same "
        "command again."
    )
    for path, state in before.items():
        require_same(path, state, advice)


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return the error of a file that could not be written, with its name."""
    return DataError(
        f"{path}: expected a file that can be written, got: {error.strerror or error}. "
        "Free space, change permissions or choose another place."
    )


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file so that at any moment either the old or the new content is there.

    The content goes into a new file beside it, which then takes its name; folders are made.  Of
    several writers the last one to finish wins as a whole.

    Args:
        path: the file.
        content: bytes, or text that is written as UTF-8, names that are no text as ``shown``.

    Raises:
        DataError: if it cannot be written; it names the file, and what was there stays.
    """
    target = Path(path)
    raw = shown(content).encode() if isinstance(content, str) else content
    # Not tempfile: that makes files private to the user, and a bundle is to be shared.
    part = beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error


class LinesFile:
    """Lines that take a file's name when all are there, and can be kept when they are not all.

    Until ``finish`` they lie in a file of their own beside it, so that several writers never mix
    and an older file of that name stays.  Each line is handed to the system as it is added.

    Args:
        path: the file; its folder must be there.

    Raises:
        DataError: if no file can be made there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._end = 0  # in bytes, of the last whole line
        plain = path.with_name(f".{path.name[:_NAME_KEPT]}.part")
        try:
            try:
                self._part, self._file = plain, plain.open("xb", buffering=0)
            except FileExistsError:  # another writer's, or left by one that was killed
                self._part = beside(path)
                self._file = self._part.open("xb", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from error

    def add(self, line: str) -> None:
        """Write a line, which ends as it is given; whole or not at all.

        Raises:
            DataError: if it cannot be written.
        """
        content = memoryview(line.encode())
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._end += len(content)
        self.lines += 1

    def finish(self) -> None:
        """Put the lines in the file's place.

        Raises:
            DataError: if that cannot be; ``keep`` then still can.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def keep(self) -> Path | None:
        """Give up; return the file, beside the other, that has the lines so far; none if empty."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            self._file.close()
        with contextlib.suppress(OSError):
            if self.lines:
                visible = self._part.with_name(beside(self.path).name.lstrip("."))
                return self._part.rename(visible)
            self._part.unlink()
        return self._part if self.lines and self._part.exists() else None


def replace_folder(folder: Path, new: Path) -> None:
    """Put a new folder in another's place; if that cannot be, the old one stays whole.

    Raises:
        OSError: if it cannot be.
    """
    old = beside(folder)
    with whole():
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a new file's name as durable as what is in it; Windows does that by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
