"""Which images a file, a folder or a list stands for, and what to call what is made of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from destseg.data.folders import folders_in
from destseg.data.lists import LIST_SUFFIXES
from destseg.data.names import is_defective, is_good, is_masks, is_test
from destseg.data.samples import find_images, images_to_test, test_folder

_LOGGER = logging.getLogger(__name__)


def source_images(source: Path) -> list[Path]:
    """Return the images of a file, a folder, a list, or an MVTec folder's test images.

    A single image may be missing: reading it says so, and the others are done all the same.

    Raises:
        DataError: if a folder or a list is missing or empty.
    """
    if test_folder(source) and folders_in(source, is_masks):
        return images_to_test(source)
    if source.is_dir() or source.suffix.lower() in LIST_SUFFIXES:
        return _without_masks(source, find_images(source))
    return [source]


def inspected(names: Sequence[str], folders: Collection[str]) -> list[str]:
    """Return which images of a folder are inspected, by ``source_images``' rule.

    Where all that is known of a folder is what its files are called, as in an object store.

    Args:
        names: of all images in it, at any depth, relative to it with slashes.
        folders: names of the folders straight in it.
    """
    masks = set(filter(is_masks, folders))
    tests = sorted(filter(is_test, folders))
    if tests and masks:
        inside = [name.split("/") for name in names]
        return [
            name
            for name, parts in zip(names, inside, strict=True)
            if parts[0] == tests[0] and not (len(parts) > 2 and is_masks(parts[1]))
        ]
    if any(map(is_good, folders)) or any(map(is_defective, folders)):
        return [name for name in names if "/" not in name or name.partition("/")[0] not in masks]
    return list(names)


def named_images(sources: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each image with the name of a PNG for it, unique and like its place in the source.

    Raises:
        DataError: as ``source_images``.
    """
    used: dict[str, int] = {}  # the names, and the last number that was added to each
    for source in sources:
        for path in source_images(source):
            inside = path.relative_to(source) if source in path.parents else Path(path.name)
            name = wanted = inside.with_suffix(".png").as_posix()
            while name in used:
                used[wanted] += 1
                name = inside.with_name(f"{inside.stem}-{used[wanted]}.png").as_posix()
            used[name] = 1
            yield path, name


def _without_masks(source: Path, paths: list[Path]) -> list[Path]:
    """Leave the masks of a folder of good and defective images out, and tell how many they are."""
    if not folders_in(source, is_good) and not folders_in(source, is_defective):
        return paths
    masks = {path for path in paths if is_masks(path.relative_to(source).parts[0])}
    if masks:
        _LOGGER.warning("%s: left out the masks (%d)", source, len(masks))
    return [path for path in paths if path not in masks]
