"""Which good images have something in common that tomorrow's will not have: a day, a lot, a part.

What a group is called does not matter, only which images are in it; so names are kept as they are
found, for people to read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.alike import SIDE, alike
from destseg.data.decoding import read_time
from destseg.data.images import read_many
from destseg.data.lists import read_table, some
from destseg.data.names import is_good, is_train
from destseg.data.opening import open_image
from destseg.errors import DataError, ImageError
from destseg.fields import ALIKE, BY_FOLDER, EACH_IMAGE

_DAY = re.compile(r"(\d{4}):(\d\d):(\d\d) ")
_OTHER = "Mend that, or group by something else (--group-by)."


def group_names(
    sources: Sequence[tuple[Path, Sequence[Path]]], settings: DataSettings
) -> list[str] | None:
    """Return the name of each image's group; ``None`` where every image counts by itself.

    Args:
        sources: folders, lists or images, each with the images that were found in it.
        settings: ``group_by`` says what groups are: ``folder``, that of an image relative to its
            source, or the source itself, and those above it as long as all are only called good or
            another folder is called the same; ``name:REGEX``, the pattern's first group, or without
            one the whole match, searched for in the file's name; ``column:NAME`` of a source that
            is a table (.csv); ``day``, EXIF's DateTimeOriginal; ``alike``, as ``alike.alike``
            finds, called like the first image of them.  Others are of how images are read.

    Raises:
        DataError: if the group of an image is not known; names the first ones.
        ImageError: if an image has to be read and cannot be.
    """
    how, _, what = settings.group_by.partition(":")
    paths = [path for _, found in sources for path in found]
    if how == EACH_IMAGE:
        return None
    if how == ALIKE:
        return [paths[first].as_posix() for first in alike(_read(paths, settings))]
    if how == "day":
        return _known(paths, day_taken, "the time that they were taken (EXIF, DateTimeOriginal)")
    if how == "name":
        pattern = re.compile(what)
        return _known(paths, lambda path: _matched(pattern, path), f"a name that has {what!r}")
    if how == BY_FOLDER:
        return _folders(sources)
    named = []
    for source, found in sources:
        named += _known(found, _cell_of(source, what), f"a cell in the column {what!r}")
    return named


def day_taken(path: Path) -> str | None:
    """Return the day on which an image was taken, as EXIF says it: 2026-11-27; ``None`` without.

    Raises:
        ImageError: if it is no image.
    """
    with open_image(path) as file:
        said = _DAY.match(read_time(file, path) or "")
    return None if said is None or said[1] == "0000" else "-".join(said.groups())


def one_day(paths: Sequence[Path]) -> str | None:
    """Return the day on which all images were taken; ``None`` if it is not known, or not one."""
    first = None
    for path in paths:
        day = day_taken(path)
        if day is None or day != (first or day):
            return None
        first = day
    return first


def _matched(pattern: re.Pattern[str], path: Path) -> str | None:
    found = pattern.search(path.name)
    return None if found is None else str(found[1 if pattern.groups else 0] or "")


def _folders(sources: Sequence[tuple[Path, Sequence[Path]]]) -> list[str]:
    """Return the name of each image's folder: one a folder however it is spelled, and no other's.

    Two that would have one name get as much of those above as tells them apart.
    """
    real = {
        parent: os.path.realpath(parent)
        for parent in {path.parent for _, found in sources for path in found}
    }
    first: dict[str, tuple[Path, int]] = {}
    for source, found in sources:
        for path in found:
            if real[path.parent] not in first:
                first[real[path.parent]] = _folder(path, source)
    names = {each: _last(*parts) for each, parts in first.items()}
    longer = True
    while longer:
        longer, called = False, Counter(names.values())
        for each, (folder, depth) in first.items():
            if called[names[each]] > 1 and depth + 1 < len(folder.parts):
                longer, first[each] = True, (folder, depth + 1)
                names[each] = _last(folder, depth + 1)
    return [names[real[path.parent]] for _, found in sources for path in found]


def _last(folder: Path, depth: int) -> str:
    return "/".join(folder.parts[1:][-depth:])


def _folder(path: Path, source: Path) -> tuple[Path, int]:
    """Return the folder of an image, and how many of its last parts name it."""
    # One spelling: a list may have relative and absolute paths.  Links keep their names.
    root = Path(os.path.abspath(source if source.is_dir() else source.parent))  # noqa: PTH100
    folder = Path(os.path.abspath(path.parent))  # noqa: PTH100
    parts = folder.parts[1:]
    depth = max(1, len(folder.relative_to(root).parts) if folder.is_relative_to(root) else 0)
    # Every day has a folder of good parts: "ok" alone would be all days.
    while depth < len(parts) and all(is_good(part) or is_train(part) for part in parts[-depth:]):
        depth += 1
    return folder, depth


def _cell_of(source: Path, column: str) -> Callable[[Path], str | None]:
    """Return what gives the cell of an image in a column of a table."""
    if source.suffix.lower() != ".csv" or source.is_dir():
        raise DataError(
            f"{source}: expected a list with a column {column!r} (.csv) for --group-by "
            f"column:{column}, got {'a folder' if source.is_dir() else 'another file'}. Give such "
            "a list, or group by folder, name:REGEX or day."
        )
    cells: dict[Path, str] = {}
    for row in read_table(source, ["path", column.casefold()]):
        path, cell = (source.parent / row["path"]).resolve(), row[column.casefold()]
        if cells.setdefault(path, cell) != cell:
            raise DataError(
                f"{source}: expected one {column!r} an image, got {cells[path]!r} and {cell!r} of "
                f"{row['path']}."
            )
    return lambda path: cells.get(path.resolve())


def _known(
    paths: Sequence[Path], name_of: Callable[[Path], str | None], expected: str
) -> list[str]:
    names = [name_of(path) for path in paths]
    unknown = [path.as_posix() for path, name in zip(paths, names, strict=True) if not name]
    if unknown:
        raise DataError(
            f"expected {expected} of every image, got none of {len(unknown)} of {len(paths)}: "
            f"{some(unknown)}. {_OTHER}"
        )
    return [name for name in names if name]


def _read(paths: Sequence[Path], settings: DataSettings) -> list[NDArray[np.uint8]]:
    images = read_many(
        paths, size=(SIDE, SIDE), max_pixels=settings.max_pixels, bit_depth=settings.bit_depth
    )
    read = []
    for image in images:
        if isinstance(image, ImageError):
            raise image
        read.append(image)
    return read
