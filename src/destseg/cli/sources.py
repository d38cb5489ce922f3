"""What the PICTURES on a command line stand for."""

from __future__ import annotations

from pathlib import Path

from destseg.data.samples import find_pictures, test_samples


def source_pictures(source: Path) -> list[Path]:
    """Return the pictures of a file, a folder, a list, or an MVTec folder's test pictures.

    A single picture may be missing: reading it says so, and the others are done all the same.

    Raises:
        DataError: if a folder or a list is missing or empty.
    """
    if (source / "test").is_dir() and (source / "ground_truth").is_dir():
        return [sample.path for sample in test_samples(source)]
    if source.is_dir() or source.suffix.lower() in (".txt", ".csv"):
        return find_pictures(source)
    return [source]
