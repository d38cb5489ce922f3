"""Files wherever they lie: a path, or a URI of any file system that Arrow or fsspec knows."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.utils
import pyarrow
from fsspec.core import url_to_fs
from pyarrow import fs

from destseg.data.files import write_atomically
from destseg.data.folders import files_below, head_of, is_dead_link, natural_order
from destseg.data.kinds import HEAD
from destseg.data.lists import some
from destseg.errors import DataError, SettingsError
from destseg.model_folder import ROI, has_model
from destseg.redaction import hide, without_secrets

_MAGIC = "*?["
_PAUSES = (0.5, 2.0)
# What a second try would not change.
_FINAL = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR}


def absolute(place: str) -> str:
    """Return a URI as it is, and a path so that every process finds it."""
    if place.startswith("file://"):
        place = fs.FileSystem.from_uri(place)[1]
    return place if is_uri(place) else Path(place).absolute().as_posix()


def is_uri(place: str) -> bool:
    """Return whether a place is a URI of another file system than this machine's."""
    return "://" in place


def is_folder(place: str) -> bool:
    """Return whether a place that has files is a folder, and not a single file or a glob."""
    place = absolute(place)
    if not is_uri(place):
        return Path(place).is_dir()
    address, _, options = place.partition("?")
    if any(sign in address for sign in _MAGIC) or (options and "=" not in options):
        return False
    filesystem, path = _resolve(place)
    return not filesystem.get_file_info(path).is_file


def join(root: str, name: str) -> str:
    """Return the path or URI of a file below a root, as it is told: without login and options."""
    root = without_secrets(root).partition("?")[0] if is_uri(root) else root
    return f"{root}{name}" if root.endswith("/") else f"{root}/{name}"


class Storage:
    """The files below a folder, by their names relative to it; it can be sent to other processes.

    Args:
        root: absolute path or URI.

    Raises:
        SettingsError: if nothing that is installed knows such a URI.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._filesystem, path = _resolve(root)
        # Object stores have no leading slash, and a trailing one would be part of a name.
        self._base = path if path == "/" else path.rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def open(self, name: str) -> Any:
        """Return a file opened for reading at random, as ``pyarrow.NativeFile``.

        Raises:
            OSError: if it cannot be opened.
        """
        return self._filesystem.open_input_file(self._path(name))

    def head(self, name: str) -> bytes:
        """Return a file's first bytes, which tell its kind.

        Raises:
            OSError: if it cannot be read.
        """
        if not is_uri(self.root):
            return head_of(Path(self._path(name)))
        with self.open(name) as file:
            return bytes(file.read(HEAD))

    def read(self, name: str) -> bytes:
        """Return a file's content; what may be a passing fault of the network is tried again.

        Raises:
            OSError: if it cannot be read.
        """
        if not is_uri(self.root):
            return Path(self._path(name)).read_bytes()
        for pause in _PAUSES:
            try:
                return self._read(name)
            except OSError as error:
                if error.errno in _FINAL:
                    raise
                time.sleep(pause)
        return self._read(name)

    def _read(self, name: str) -> bytes:
        with self._filesystem.open_input_stream(self._path(name)) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file: by a rename on this machine, by a single upload elsewhere.

        Raises:
            DataError, OSError: if it cannot be written.
        """
        if not is_uri(self.root):
            write_atomically(self._path(name), content)
            return
        self._filesystem.create_dir(self._base, recursive=True)
        with self._filesystem.open_output_stream(self._path(name)) as file:
            file.write(content)

    def delete(self, name: str) -> None:
        """Delete a file.

        Raises:
            OSError: if it cannot be deleted.
        """
        self._filesystem.delete_file(self._path(name))

    def names(self) -> list[str]:
        """Return the files straight in the folder; none where there is no such folder.

        Raises:
            OSError: if the folder cannot be read.
        """
        selector = fs.FileSelector(self._base, allow_not_found=True)
        return [i.base_name for i in self._filesystem.get_file_info(selector) if i.is_file]

    def walk(self, *, deep: bool = True) -> Iterator[tuple[str, int]]:
        """Yield (name, bytes) of the files below, without those whose name starts with a dot.

        Raises:
            OSError: if there is no such folder or it cannot be read.
        """
        selector = fs.FileSelector(self._base, recursive=deep)
        for info in self._filesystem.get_file_info(selector):
            name = info.path[len(self._base) :].lstrip("/")
            if info.is_file and not _is_hidden(name):
                yield name, info.size

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"


def _resolve(place: str) -> tuple[fs.FileSystem, str]:
    if not is_uri(place):
        return fs.LocalFileSystem(), place
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(place)
        return found
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as unknown:
        try:
            other, path = url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"{place}: expected a path, or a URI of a file system that Arrow or fsspec knows, "
                f"got {hide(f'{unknown} and {error}', place)}. Install the package that fsspec "
                "needs for it, on every machine."
            ) from error
        return fs.PyFileSystem(fs.FSSpecHandler(other)), path


def list_files(source: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the root of a folder, a glob or a single file, and the names and bytes of its files.

    Folders are searched to any depth without hidden files.  On this machine names are in natural
    order (2.png before 10.png), elsewhere in that of their characters.

    Raises:
        DataError: if there is nothing, or it cannot be read.
    """
    source = absolute(source)
    try:
        root, files = _list_remote(source) if is_uri(source) else _list_local(source)
    except OSError as error:
        got = hide(str(error), source)
        raise DataError(f"{source}: expected a folder, a glob or a file, got {got}") from error
    if not files:
        raise DataError(f"{source}: expected files, got none; check the path.")
    return root, files


def list_paths(paths: list[Path]) -> tuple[str, list[tuple[str, int]]]:
    """Return the root that paths share, and each once by its name below it; missing ones too."""
    unique = dict.fromkeys(os.path.normpath(path.absolute()) for path in paths)
    try:
        root = os.path.commonpath([Path(path).parent for path in unique])
    except ValueError as error:
        drives = some(sorted({os.path.splitdrive(path)[0] for path in unique}))
        raise DataError(f"expected a list of files on one drive, got {drives}") from error
    return Path(root).as_posix(), [(Path(os.path.relpath(p, root)).as_posix(), -1) for p in unique]


def _list_local(source: str) -> tuple[str, list[tuple[str, int]]]:
    path = Path(source)
    if path.is_dir():
        files = sorted(files_below(path), key=lambda file: natural_order(file.relative_to(path)))
    elif path.is_file():
        path, files = path.parent, [path]
    elif not any(sign in source for sign in _MAGIC):
        raise FileNotFoundError(errno.ENOENT, "nothing there")
    else:
        path = Path(_before_magic(source))
        found = path.glob(source[len(path.as_posix()) :].lstrip("/"))
        shown = (file for file in found if not _is_hidden(file.relative_to(path).as_posix()))
        there = (file for file in shown if file.is_file() or is_dead_link(file))
        files = sorted(there, key=natural_order)
    return path.as_posix(), [(file.relative_to(path).as_posix(), _size(file)) for file in files]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # It vanished, or may not be looked at: reading it will say so.


def _list_remote(source: str) -> tuple[str, list[tuple[str, int]]]:
    address, mark, options = source.partition("?")
    if mark and "=" not in options:  # a glob, not options
        address, mark, options = source, "", ""
    if not any(sign in address for sign in _MAGIC):
        filesystem, path = _resolve(source)
        info = filesystem.get_file_info(path)
        if info.is_file:
            root = address.rpartition("/")[0] + mark + options
            return root, [(info.base_name, info.size)]
        root = address.rstrip("/") + mark + options
        return root, sorted(_without_regions([*Storage(root).walk()]))
    start = _before_magic(address)
    pattern = address[len(start) :].lstrip("/")
    fits = re.compile(fsspec.utils.glob_translate(pattern)).match
    found = Storage(start + mark + options).walk(deep="/" in pattern or "**" in pattern)
    return start + mark + options, sorted((name, size) for name, size in found if fits(name))


def _without_regions(files: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Leave out the region of interest in the folder of a model, as ``entries_below`` does."""
    names = {name for name, _ in files}

    def is_region(name: str) -> bool:
        folder, slash, last = name.rpartition("/")
        return last == ROI and has_model(lambda other: f"{folder}{slash}{other}" in names)

    return [file for file in files if not is_region(file[0])]


def _before_magic(pattern: str) -> str:
    """Return the part of a pattern up to the last slash before its first sign."""
    first = min(pattern.index(sign) for sign in _MAGIC if sign in pattern)
    return pattern[:first].rpartition("/")[0] or "/"
