"""Which pictures there are: MVTec layout, plain folder or list file to samples, without pixels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from destseg.data.lists import existing, read_list, some
from destseg.errors import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Suffixes of the files that are taken for pictures, in any letter case."""

GOOD = "good"
_LIST_SUFFIXES = frozenset({".txt", ".csv"})
_GOOD_LABELS = frozenset({"good", "normal", "ok", "0"})


@dataclass(frozen=True)
class Sample:
    """One picture and what is known about it.

    Attributes:
        path: the picture's file.
        defect: ``good``, the kind of defect, or ``None`` where it is not known.
        mask: the file with the true defect pixels, or ``None`` where there is none.
    """

    path: Path
    defect: str | None
    mask: Path | None = None

    @property
    def is_defective(self) -> bool | None:
        """Whether the part is defective; ``None`` where it is not known."""
        return None if self.defect is None else self.defect != GOOD


def find_pictures(source: str | Path) -> list[Path]:
    """Return the picture files of a folder, a list file or a single file.

    A folder is searched to any depth, without hidden files and folders, in natural order of the
    relative path (``2.png`` before ``10.png``), each real folder once however many links lead to
    it.  A ``.txt`` list has one path a line (blank lines and ``#`` comments are skipped), a
    ``.csv`` list has a column ``path`` or one column without a header; relative paths start at
    the list's own folder, and a list's order is kept.

    Raises:
        DataError: the source does not exist or is empty, or files of a list are missing.
    """
    source = Path(source)
    if source.is_dir():
        return _pictures_below(source)
    suffix = source.suffix.lower()
    if not source.is_file():
        raise DataError(
            f"{source}: expected a folder with pictures, a picture or a list (.txt, .csv), "
            f"got {'something else' if source.exists() else 'nothing there'}; check the path."
        )
    if suffix in PICTURE_SUFFIXES:
        return [source]
    if suffix not in _LIST_SUFFIXES:
        raise DataError(
            f"{source}: expected a folder, a picture ({_suffixes()}) or a list (.txt, .csv), "
            f"got a file ending in {suffix or 'nothing'!r}."
        )
    return existing(source, [path for path, _ in read_list(source)])


def good_samples(source: str | Path) -> list[Sample]:
    """Return the good pictures to train on.

    They are ``train/good`` of a folder in MVTec layout, every picture of a plain folder, or those
    of a list file; of a CSV list with a column ``label`` only the rows that say ``good``,
    ``normal``, ``ok`` or ``0``.

    Raises:
        DataError: there are none, or defective pictures lie where only good ones may be.
    """
    source = Path(source)
    if source.is_file() and source.suffix.lower() in _LIST_SUFFIXES:
        rows = read_list(source)
        good = [path for path, label in rows if label is None or is_good_label(label)]
        if not good:
            raise DataError(
                f"{source}: expected rows labelled {', '.join(sorted(_GOOD_LABELS))}, got labels "
                f"{some(sorted({repr(label) for _, label in rows}))}; training needs good parts."
            )
        paths = existing(source, good)
    else:
        paths = find_pictures(_good_folder(source) if source.is_dir() else source)
    # A list may name a picture twice; it must not be trained on and held out at once.
    unique = {path.resolve(): path for path in reversed(paths)}
    return [Sample(path, GOOD) for path in reversed(unique.values())]


def test_samples(source: str | Path) -> list[Sample]:
    """Return the test pictures of a folder in MVTec layout, kinds in order, files in order.

    Pictures are ``test/<kind>/<name>``, masks ``ground_truth/<kind>/<name>_mask`` or ``<name>``
    with any picture suffix.  The kind ``good`` has no masks; the mask of a defective picture is
    ``None`` where the file is missing.

    Raises:
        DataError: there is no test folder, or no picture in it, or one outside of the kinds.
    """
    source = Path(source)
    folder = source / "test"
    if not folder.is_dir():
        raise DataError(
            f"{source}: expected a folder test/ with one folder a kind (test/good, "
            f"test/scratch, ...), got {_content(source)}; see the data layout in the docs."
        )
    samples = []
    for path in _pictures_below(folder):
        kind, *below = path.relative_to(folder).parts
        if not below:
            raise DataError(
                f"{path}: expected test pictures in one folder a kind (test/good, test/scratch, "
                "...), got one straight in test/; move it into the folder of its kind."
            )
        samples.append(Sample(path, kind, _mask(source, PurePath(kind, *below))))
    return samples


# pytest would collect this function wherever a test module imports it.
test_samples.__test__ = False  # type: ignore[attr-defined]


def is_good_label(label: str) -> bool:
    """Whether a label of a list says that the part is good, in any letter case."""
    return label.casefold() in _GOOD_LABELS


def split_held_out(
    samples: Sequence[Sample], *, fraction: float, minimum: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split good samples into those to train on and those held out for the threshold.

    Of n samples min(max(round(fraction * n), minimum), n // 2) are held out.  The choice depends
    on the seed and the positions only, so that a moved folder gives the same split.

    Returns:
        (training, held out), both in the order given.
    """
    count = min(max(round(fraction * len(samples)), minimum), len(samples) // 2)
    chosen = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    training = [sample for index, sample in enumerate(samples) if index not in chosen]
    return training, [sample for index, sample in enumerate(samples) if index in chosen]


def _pictures_below(folder: Path) -> list[Path]:
    files = list(files_below(folder))
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        names = [path.relative_to(folder).as_posix() for path in files]
        raise DataError(
            f"{folder}: expected pictures ({_suffixes()}), got "
            f"{'other files only: ' + some(names) if names else 'no files'}; check the path."
        )
    return sorted(pictures, key=lambda path: natural_order(path.relative_to(folder)))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder at any depth, as ``find_pictures`` searches it, unsorted.

    Raises:
        DataError: if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: expected a readable folder, got {error.strerror}.")

    # A link to a folder above would be followed for ever without the folders already seen.
    seen = {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        inner = []
        # Real folders first, so that a picture keeps its own path rather than a link's.
        for name in sorted(folders, key=lambda name: (Path(where, name).is_symlink(), name)):
            real = os.path.realpath(Path(where, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                inner.append(name)
        folders[:] = inner
        for name in files:
            path = Path(where, name)
            if not name.startswith(".") and path.is_file():
                yield path


def natural_order(path: PurePath) -> tuple[list[list[str | int]], str]:
    """Return a sort key in which numbers inside names count as numbers."""
    parts = [
        [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)]
        for pieces in (re.split("([0-9]+)", part) for part in path.parts)
    ]
    return parts, path.as_posix()


def _good_folder(source: Path) -> Path:
    train = source / "train"
    if train.is_dir():
        _only_good(train)
        if not (train / GOOD).is_dir():
            raise DataError(
                f"{source}: expected train/good, got train/ with {_content(train)}; if all of "
                f"them show good parts, train on {train} itself."
            )
        return train / GOOD
    for name in ("test", "ground_truth"):
        if (source / name).is_dir():
            raise DataError(
                f"{source}: expected train/good beside {name}/, got {_content(source)}; move the "
                "good pictures into train/good or give a folder that holds good pictures only."
            )
    if (source / GOOD).is_dir():
        _only_good(source)
    return source


def _only_good(folder: Path) -> None:
    others = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name != GOOD and not entry.name.startswith(".")
    )
    if others:
        raise DataError(
            f"{folder}: only good pictures may be trained on; expected the folder good alone, "
            f"got also {some(others)}; move them to test/ or train on {folder / GOOD} itself."
        )


def _mask(source: Path, picture: PurePath) -> Path | None:
    if picture.parts[0] == GOOD:
        return None
    folder = source / "ground_truth" / picture.parent
    # MVTec's own name first; suffixes in both cases because most file systems tell them apart.
    for stem in (f"{picture.stem}_mask", picture.stem):
        for suffix in sorted(PICTURE_SUFFIXES, key=lambda suffix: (suffix != ".png", suffix)):
            for name in (stem + suffix, stem + suffix.upper()):
                if (folder / name).is_file():
                    return folder / name
    return None


def _content(folder: Path) -> str:
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return some(names) if names else "an empty folder"


def _suffixes() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))
