"""What the PICTURES on a command line stand for."""

from __future__ import annotations

from pathlib import Path

from destseg.data.folders import folders_in
from destseg.data.lists import LIST_SUFFIXES
from destseg.data.names import is_masks
from destseg.data.samples import find_pictures, test_folder, test_samples


def source_pictures(source: Path) -> list[Path]:
    """Return the pictures of a file, a folder, a list, or an MVTec folder's test pictures.

    A single picture may be missing: reading it says so, and the others are done all the same.

    Raises:
        DataError: if a folder or a list is missing or empty.
    """
    if test_folder(source) and folders_in(source, is_masks):
        return [sample.path for sample in test_samples(source)]
    if source.is_dir() or source.suffix.lower() in LIST_SUFFIXES:
        return find_pictures(source)
    return [source]
