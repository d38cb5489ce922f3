"""What is a good image: the one rule, for all that learns from good parts."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from destseg.data import names
from destseg.data.folders import content_of, folders_in, images_below
from destseg.data.lists import counted, existing, read_list, some
from destseg.errors import DataError

_LOGGER = logging.getLogger(__name__)
_GOOD, _DEFECTIVE, _MASK, _DOUBTFUL, _PLAIN = "good", "defective", "mask", "doubtful", "plain"
_IVE = "ive a folder of good images alone, or a list (.csv) with the columns path and label."


def good_paths(source: Path, tell: Callable[[str], None] = _LOGGER.warning) -> list[Path]:
    """Return the images of good parts in a folder or a list; refuse to guess.

    - Of a data set with ``train/`` those of the good folder in it.
    - Where folders are called good, and others beside them defective or masks (``OK/ NG/``,
      ``normal/ abnormal/ mask/``), those of the good ones.  What is left out is told.  So it is
      where all else in the names is the same (``good_crops/ bad_crops/``).
    - Where no folder's name says anything (dates, cameras, shifts), all.
    - Refused is all else: a good folder beside others or beside images, a word for defects or masks
      in a name (``bad_crops/`` beside ``crops/``), types of defects, parts of a data set, masks
      beside images.
    - Of a list with labels the rows labelled good.  What is left out is told.  A list without
      labels is taken whole, unless it names files in folders called defective, masks or like a
      defect type, or beside those in a folder called good others.

    Which names are known: ``destseg.data.names``.

    Args:
        source: folder or list (.txt, .csv).
        tell: is told what is left out.

    Raises:
        DataError: if there is none, or some may not be good.
    """
    if not source.is_dir():
        paths = _good_of_list(source, tell)
    else:
        _refuse_place(source)
        training = folders_in(source, names.is_train)
        if not training:
            _refuse_test_alone(source)
        # There, a folder whose name says nothing is one of defects.
        only_called_good = bool(training) or _is_test_of_data_set(source)
        paths = []
        for folder in training or [source]:
            paths += _good_of_folder(folder, images_below(folder), only_called_good, tell)
    _refuse_names(source, paths)
    return paths


def training_folder(source: Path) -> Path | None:
    """Return the folder of training images that a folder or an image is in or has, if any."""
    place = Path(os.path.abspath(source))  # noqa: PTH100 - links keep their names
    near = (place, place.parent, place.parent.parent) if place.is_file() else (place, place.parent)
    above = [each for each in near if names.is_train(each.name)]
    return next(iter([*folders_in(place, names.is_train), *above]), None)


def _refuse_place(source: Path) -> None:
    """Refuse a folder that what lies beside it shows to be of defects or of masks."""
    place = Path(os.path.abspath(source))  # noqa: PTH100 - links keep their names
    beside, above = place.parent, place.parent.parent
    others = [folder.name for folder in folders_in(beside, lambda _: True)]
    good = names.good_among([*others, place.name])
    has_good = any(name in good for name in others)
    kind = _kind_of([place.name], good)
    in_test = names.is_test(beside.name) and (has_good or _is_test_of_data_set(beside))
    # A name alone is not enough: a category, or any folder, can be called test or mask.
    in_masks = (names.is_masks(place.name) and folders_in(beside, names.is_split)) or (
        names.is_masks(beside.name) and folders_in(above, names.is_split)
    )
    if in_masks or (kind != _GOOD and (in_test or (has_good and kind != _PLAIN))):
        raise DataError(
            f"{source}: expected a folder of good images, got {place.name}/ beside "
            f"{content_of(beside)}. If they are good, move them out of {beside}."
        )


def _is_test_of_data_set(folder: Path) -> bool:
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - links keep their names
    others = (names.is_train, names.is_masks)
    return names.is_test(place.name) and any(folders_in(place.parent, each) for each in others)


def _refuse_test_alone(source: Path) -> None:
    for test in folders_in(source, names.is_test):
        raise DataError(
            f"{source}: expected train/good beside {test.name}/, got {content_of(source)}. Move "
            "the good images into train/good, or give a folder that holds good images only."
        )


def _good_of_folder(
    folder: Path, paths: Sequence[Path], only_called_good: bool, tell: Callable[[str], None]
) -> list[Path]:
    inside = {path: path.relative_to(folder).parts[:-1] for path in paths}
    called_good = names.good_among({part for parts in inside.values() for part in parts})
    kinds = {parts: _kind_of(parts, called_good) for parts in set(inside.values())}
    if set(kinds.values()) == {_PLAIN} and not only_called_good:
        return list(paths)
    good = [path for path in paths if kinds[inside[path]] == _GOOD]
    others = [path for path in paths if kinds[inside[path]] != _GOOD]
    unclear = any(kinds[inside[path]] in (_DOUBTFUL, _PLAIN) for path in others)
    if unclear or not good:
        how = f"G{_IVE}"
        if set(kinds.values()) == {_PLAIN} and not names.is_test(folder.name):
            how = f"If all of them are good, give {folder} itself; else g{_IVE}"
        raise DataError(
            f"{folder}: only good images may be taken: expected a folder called good (or OK, "
            "normal, ...) and beside it none but of defects (bad, NG, abnormal, ...) and masks, "
            f"got {_counted(folder, paths)}. {how}"
        )
    if others:
        tell(
            f"good images are those in {_counted(folder, good)}; left out: "
            f"{_counted(folder, others)}"
        )
    return good


def _good_of_list(source: Path, tell: Callable[[str], None]) -> list[Path]:
    rows = read_list(source)
    if all(label is None for _, label in rows):
        paths = existing(source, [path for path, _ in rows])
        if wrong := _doubtful_of_list(paths):
            raise DataError(
                f"{source}: expected good images alone, got {len(wrong)} that may be none, by the "
                f"names of their folders: {some([str(path) for path in wrong])}. Take them out, or "
                "name a list's columns path and label (.csv)."
            )
        return paths
    good = [path for path, label in rows if label is not None and names.is_good_label(label)]
    left_out = Counter(label or "" for _, label in rows if not names.is_good_label(label or ""))
    labels = some([f"{label!r} ({count})" for label, count in left_out.most_common()])
    if not good:
        raise DataError(
            f"{source}: expected rows labelled good (or OK, normal, 0), got labels {labels}; "
            "only good images may be taken."
        )
    if left_out:
        tell(
            f"{source}: {counted(len(good), 'row')} labelled good; left out: {left_out.total()} "
            f"labelled {labels}"
        )
    return existing(source, good)


def _doubtful_of_list(paths: Sequence[Path]) -> list[Path]:
    """Return those of a list's images that would not be taken from folders of these names."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    inside = [
        # Which part of a data set an image is of does not matter where it is named itself.
        [part for part in path.absolute().relative_to(root).parts[:-1] if not names.is_split(part)]
        for path in paths
    ]
    called_good = names.good_among({part for parts in inside for part in parts})
    kinds = [_kind_of(parts, called_good) for parts in inside]
    taken = {_GOOD} if _GOOD in kinds else {_PLAIN}
    return [path for path, kind in zip(paths, kinds, strict=True) if kind not in taken]


def _refuse_names(source: Path, paths: Sequence[Path]) -> None:
    """Refuse files whose own names say that not all are images of good parts."""
    masks = names.masks_beside(paths)
    if masks:
        raise DataError(
            f"{source}: expected good images alone, got {len(masks)} that are called like masks of "
            f"others: {some([path.name for path in masks])}. Images with masks are of "
            f"defects, as a rule. G{_IVE}"
        )
    if (both := names.called_both(paths)) is not None:
        raise DataError(
            f"{source}: expected good images alone, got files called good and defective: "
            f"{both[0].name}, {both[1].name}. G{_IVE}"
        )


def _kind_of(folders: Iterable[str], called_good: Collection[str]) -> str:
    """Return what the names of the folders that a file lies in say of it.

    Args:
        folders: their names.
        called_good: those that say so, as ``names.good_among`` gives them.
    """
    folders = list(folders)
    words = [names.words_of(folder) for folder in folders if folder not in called_good]
    for kind, said in (
        (_MASK, any(each.masks for each in words)),
        (_DEFECTIVE, any(each.defective for each in words)),
        (_DOUBTFUL, any(map(names.is_split, folders))),
        (_GOOD, any(folder in called_good for folder in folders)),
        (_DOUBTFUL, any(each.defect_type for each in words)),
    ):
        if said:
            return kind
    return _PLAIN


def _counted(folder: Path, paths: Iterable[Path]) -> str:
    """Return the folders straight in a folder with how many of the images each has."""
    inside = Counter(
        f"{parts[0]}/" if len(parts := path.relative_to(folder).parts) > 1 else "no folder"
        for path in paths
    )
    return some([f"{name} ({count})" for name, count in inside.items()])
