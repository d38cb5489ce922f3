"""Labelled images: what is known of each, from folders or from a table of labels."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from destseg.data.lists import read_table, some
from destseg.data.names import is_good_label
from destseg.data.samples import GOOD, Sample, require_clear, test_samples
from destseg.errors import DataError, ImageError

_LOGGER = logging.getLogger(__name__)


def labelled_samples(source: str | Path) -> list[Sample]:
    """Return labelled images: the test images of a data set's folder, or the rows of a CSV.

    A CSV has the columns ``path`` and ``label`` (or as ``read_list`` says) and perhaps ``mask``;
    relative paths start at its own folder.  A label is a spelling of good (``good``, ``ok``,
    ``normal``, ``0``, ``false``, in any letter case) or the name of a defect type.  An empty cell
    of ``mask`` is no mask, and a good image may have one that marks nothing.  Files may be missing:
    that costs their rows when they are inspected.  A row that says an image again is left out, and
    that is logged.

    Raises:
        DataError: if there are none, a label is missing or may mean good or a defect (``none``), or
            an image has two labels or two masks.
    """
    source = Path(source)
    if source.suffix.lower() != ".csv" or source.is_dir():
        return test_samples(source)
    rows = read_table(source, ("path", "label"))
    unlabelled = [row["path"] for row in rows if not row["label"]]
    if unlabelled:
        raise DataError(
            f"{source}: expected a label in every row, {len(unlabelled)} of {len(rows)} have "
            f"none: {some(unlabelled)}. Write good or the defect type, or leave the rows out."
        )
    found: dict[str, Sample] = {}  # by the file, whatever it is called
    for row in rows:
        sample = _sample(source.parent, row)
        first = found.setdefault(os.path.realpath(sample.path), sample)
        if first.defect_type != sample.defect_type:
            raise DataError(
                f"{source}: expected one label an image, got {first.defect_type!r} and "
                f"{sample.defect_type!r} for {sample.path}. Leave one of the rows out."
            )
        if _real(first.mask) != _real(sample.mask):
            raise DataError(
                f"{source}: expected one mask an image, got {first.mask} and {sample.mask} for "
                f"{sample.path}. Draw both into one file, and leave one of the rows out."
            )
    require_clear(source, found.values())
    if twice := len(rows) - len(found):
        _LOGGER.warning("%s: left out the rows that say an image again (%d)", source, twice)
    return list(found.values())


def unreadable(samples: Sequence[Sample]) -> Iterator[ImageError]:
    """Yield an error for each file of samples that cannot be read as it lies there, unopened."""
    for path in files_of(samples):
        if reason := _unreadable(path):
            yield ImageError(path, reason)


def files_of(samples: Sequence[Sample]) -> Iterator[Path]:
    """Yield the files of samples: each image, and its mask where it has one."""
    for sample in samples:
        yield sample.path
        if sample.mask is not None:
            yield sample.mask


def _real(path: Path | None) -> str | None:
    return None if path is None else os.path.realpath(path)


def _sample(folder: Path, row: dict[str, str]) -> Sample:
    defect_type = GOOD if is_good_label(row["label"]) else row["label"]
    mask = row.get("mask")
    return Sample(folder / row["path"], defect_type, folder / mask if mask else None)


def _unreadable(path: Path) -> str | None:
    try:
        about = path.stat()
    except OSError as error:
        return "a dead link" if path.is_symlink() else f"{error.strerror}"
    if not stat.S_ISREG(about.st_mode):
        return "no regular file"
    if not os.access(path, os.R_OK):
        return "may not be read"
    return None if about.st_size else "empty"
