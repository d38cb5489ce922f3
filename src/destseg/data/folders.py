"""What lies in a folder, at any depth: each real folder once, however many links lead to it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePath

from destseg.data.kinds import HEAD, IMAGE_SUFFIXES, is_image, name_says
from destseg.data.lists import some
from destseg.errors import DataError
from destseg.model_folder import ROI, left_by_training

_LOGGER = logging.getLogger(__name__)


def entries_below(
    folder: Path, refused: Callable[[OSError], None], leave: Path | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (relative path with slashes, entry) of all that is no folder and not hidden.

    Real folders come before links to folders, so that a file keeps its own path.  The region of
    interest that a training left in a model's folder is passed over: it is no image of a part.

    Args:
        folder: where to look.
        refused: is told of a folder inside that cannot be read.
        leave: a folder not to look into.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    seen = {os.path.realpath(leave)} if leave else set()
    folders = [("", os.path.realpath(folder))]
    links: list[tuple[str, str]] = []
    while folders or links:
        if not folders:
            # In order, so that of two links to one folder it is always the same.
            links.sort(reverse=True)
            folders.append(links.pop())
        inside, real = folders.pop()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if name == ROI and left_by_training(folder / inside):
                        continue
                    if not _is_folder(entry):
                        yield inside + name, entry
                    elif entry.is_symlink():
                        links.append((f"{inside}{name}/", os.path.realpath(entry.path)))
                    else:
                        folders.append((f"{inside}{name}/", os.path.join(real, name)))  # noqa: PTH118
        except FileNotFoundError:
            if not inside:
                raise
        except OSError as error:
            if not inside:
                raise
            refused(error)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder at any depth and the links to nothing, unsorted.

    Raises:
        DataError: if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: expected a readable folder, got {error.strerror}.")

    try:
        for inside, entry in entries_below(folder, refuse):
            if _is_file(entry) or is_dead_link(entry):
                yield folder / inside
    except OSError as error:
        refuse(error)


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder at any depth, in natural order of the relative path.

    Files whose names say nothing are looked into; those that are no images are told to the log.

    Raises:
        DataError: if there is none, or a folder cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path in files_below(folder):
        fits = is_image(path.name, partial(head_of, path))
        (images if fits else others).append(path)
    if not images:
        names = sorted(path.relative_to(folder).as_posix() for path in others)
        raise DataError(
            f"{folder}: expected images ({suffixes()}), got "
            f"{'other files only: ' + some(names) if names else 'no files'}; check the path."
        )
    unknown = [path.relative_to(folder) for path in others if name_says(path.name) is None]
    if unknown:
        names = [path.as_posix() for path in sorted(unknown, key=natural_order)]
        _LOGGER.warning("%s: left out what is no image: %s", folder, some(names))
    return sorted(images, key=lambda path: natural_order(path.relative_to(folder)))


def folders_in(folder: Path, called: Callable[[str], bool]) -> list[Path]:
    """Return the folders straight in a folder whose names fit, by name; none if there is none."""
    try:
        with os.scandir(folder) as entries:
            found = [each.name for each in entries if called(each.name) and _is_folder(each)]
    except OSError:
        return []
    return [folder / name for name in sorted(found)]


def content_of(folder: Path) -> str:
    """Return what lies straight in a folder, for messages."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return some(names) if names else "an empty folder"


def head_of(path: Path) -> bytes:
    """Return a file's first bytes, which tell its kind."""
    with path.open("rb") as file:
        return file.read(HEAD)


def is_dead_link(entry: os.DirEntry[str] | Path) -> bool:
    """Whether it is a link to nothing."""
    return entry.is_symlink() and not os.path.exists(entry)  # noqa: PTH110 - also a DirEntry


def natural_order(path: PurePath) -> tuple[list[list[str | int]], str]:
    """Return a sort key in which numbers inside names count as numbers."""
    parts = [
        [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)]
        for pieces in (re.split("([0-9]+)", part) for part in path.parts)
    ]
    return parts, path.as_posix()


def suffixes() -> str:
    """Return the suffixes of the images that are read, for messages."""
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return True  # It may not be looked at: reading it says so.
