"""Images known by their content: the same one twice counts once, and a data set is what it was.

A name can be another image's, and an image can have two names.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from destseg.config import Settings
from destseg.data.files import sha256_of, sha256_of_image
from destseg.data.lists import some
from destseg.data.roi import Roi, is_other_region
from destseg.data.samples import Sample, find_images
from destseg.fields import BUILTIN

_LOGGER = logging.getLogger(__name__)


def hashes_of(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each image's file.

    Raises:
        ImageError: if one cannot be read.
    """
    return [sha256_of_image(path) for path in paths]


def each_once(
    paths: Sequence[Path],
    contents: Sequence[Hashable],
    tell: Callable[[str], object] = _LOGGER.warning,
) -> list[int]:
    """Return the places of images that are no copies of one before.

    Args:
        paths: of the images.
        contents: of each what it is the same by, such as the SHA-256 of its file.
        tell: is told of the copies, if there are any.
    """
    first: dict[Hashable, int] = {}
    for place, content in enumerate(contents):
        first.setdefault(content, place)
    once = set(first.values())
    if copies := [path.as_posix() for place, path in enumerate(paths) if place not in once]:
        tell(f"the same image as another, so it does not count: {some(sorted(copies))}")
    return list(first.values())


class Unreadable(str):
    """Why a file has no SHA-256: two that cannot be read for one reason are not the same."""

    __slots__ = ()


def contents_of(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file, or ``Unreadable``."""
    contents = {}
    for path in paths:
        try:
            contents[path] = sha256_of(path)
        except OSError as error:
            contents[path] = Unreadable(f"unreadable: {error.strerror}")
    return contents


def fingerprint(data: str | Path, contents: Mapping[Path, str]) -> str:
    """Return the SHA-256 of a data set's good images: their names in it, order and contents.

    Two runs of the same settings see the same exactly where this is the same, wherever it lies.

    Args:
        data: the data set.
        contents: as ``contents_of`` gives them.
    """
    root, whole = root_of(data), hashlib.sha256()
    for path, content in contents.items():
        name = os.fsencode(name_in(root, path))
        whole.update(name + b"\0" + content.encode() + b"\n")
    return whole.hexdigest()


def textures_fingerprint(source: str) -> str:
    """Return the SHA-256 of the textures of a run; empty where they are built in, or gone by now.

    Raises:
        DataError: if there are none in the folder.
    """
    if source == BUILTIN or not Path(source).exists():
        return ""
    return fingerprint(source, contents_of(find_images(source)))


def changed_files(
    settings: Settings,
    roi: Roi | None,
    textures_sha256: str | None,
    textures: Callable[[str], str] = textures_fingerprint,
) -> list[str]:
    """Return which files that a run's settings name, region and textures, are others by now.

    Args:
        settings: of the run.
        roi: the region that it began with; ``None`` where that is not known.
        textures_sha256: the same of its textures.
        textures: gives the SHA-256 of those that are there now.

    Raises:
        DataError: if one of the files cannot be used.
    """
    differing = []
    region, laid_over = settings.data.roi, settings.synthesis.textures
    if region is not None and is_other_region(region, roi, settings.data.max_pixels):
        differing.append(f"  --roi {region}: another region than then")
    now = textures(laid_over)
    if now and textures_sha256 not in (None, now):
        differing.append(f"  --textures {laid_over}: other images than then")
    return differing


def test_fingerprint(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of labelled images: their types and contents and those of the masks."""
    images = contents_of(each.path for each in samples)
    masks = contents_of(each.mask for each in samples if each.mask)
    lines = sorted(
        f"{each.defect_type}\0{images[each.path]}\0{masks[each.mask] if each.mask else ''}\n"
        for each in samples
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# pytest would collect it wherever a test module imports it.
test_fingerprint.__test__ = False  # type: ignore[attr-defined]


def root_of(data: str | Path) -> Path:
    """Return the folder that the names of a data set's images are relative to."""
    path = Path(data)
    return path if path.is_dir() else path.parent


def name_in(root: Path, path: Path) -> str:
    """Return an image's name in a data set; its path where it does not lie in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
