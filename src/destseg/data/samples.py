"""Which images there are: MVTec layout, plain folder or list file to samples, without pixels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from destseg.data import names
from destseg.data.folders import (
    content_of,
    files_below,
    folders_in,
    head_of,
    images_below,
    suffixes,
)
from destseg.data.good_images import good_paths
from destseg.data.kinds import is_image, name_says
from destseg.data.lists import LIST_SUFFIXES, existing, read_list, some
from destseg.data.names import GOOD as GOOD
from destseg.errors import DataError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    Attributes:
        path: the image's file.
        defect_type: ``good``, the type of the defect, or ``None`` where it is not known.
        mask: the file with the true defect pixels, or ``None`` where there is none.
    """

    path: Path
    defect_type: str | None
    mask: Path | None = None

    @property
    def is_defective(self) -> bool | None:
        """Whether the part is defective; ``None`` where it is not known."""
        return None if self.defect_type is None else self.defect_type != GOOD


def find_images(source: str | Path) -> list[Path]:
    """Return the image files of a folder, a list file or a single file.

    A folder is searched to any depth, without hidden files and folders, in natural order of the
    relative path (``2.png`` before ``10.png``), each real folder once however many links lead to
    it.  An image is what its suffix says is one, or its content where the suffix says nothing;
    images of kinds that are not read and links to nothing are among them, so that reading them
    says so.  A ``.txt`` list has one path a line (blank lines and ``#`` comments are skipped), a
    ``.csv`` list has a column ``path`` or one column without a header; relative paths start at
    the list's own folder, and a list's order is kept.

    Raises:
        DataError: the source does not exist or is empty, or files of a list are missing.
    """
    source = Path(source)
    if source.is_dir():
        return images_below(source)
    if not source.is_file():
        raise DataError(
            f"{source}: expected a folder with images, an image or a list (.txt, .csv), "
            f"got {'something else' if source.exists() else 'nothing there'}; check the path."
        )
    if source.suffix.lower() in LIST_SUFFIXES:
        return existing(source, [path for path, _ in read_list(source)])
    if is_image(source.name, partial(head_of, source)):
        return [source]
    raise DataError(
        f"{source}: expected a folder, an image ({suffixes()}) or a list (.txt, .csv), "
        f"got a file ending in {source.suffix.lower() or 'nothing'!r}."
    )


def good_samples(source: str | Path, tell: Callable[[str], None] = _LOGGER.warning) -> list[Sample]:
    """Return the good images to learn from: ``good_images.good_paths`` says which they are.

    Args:
        source: data set, folder, list or image.
        tell: is told what is left out.

    Raises:
        DataError: there are none, or some may not be good.
    """
    source = Path(source)
    many = source.is_dir() or source.suffix.lower() in LIST_SUFFIXES
    paths = good_paths(source, tell) if many else find_images(source)
    # A list may name an image twice; it must not be trained on and calibrate at once.
    unique = {path.resolve(): path for path in reversed(paths)}
    return [Sample(path, GOOD) for path in reversed(unique.values())]


def test_folder(source: str | Path) -> Path | None:
    """Return the folder of a data set's test images, ``test`` in any letter case, if any."""
    return next(iter(folders_in(Path(source), names.is_test)), None)


def test_samples(source: str | Path) -> list[Sample]:
    """Return the test images of a data set, types in order, files in order.

    Images are ``test/<type>/<name>``, masks ``ground_truth/<type>/<name>_mask`` or ``<name>``
    with any suffix of an image.  A good type (``good``, ``OK``, ``normal``, ...) is given as
    ``good`` and has no masks; the mask of a defective image is ``None`` where the file is missing.
    A folder of masks may have any name that means that, and may lie in ``test/``; where there is
    but one defect type its masks may lie straight in it.  Or masks lie beside their images as
    ``<name>_mask``.

    Raises:
        DataError: there is no test folder, or no image in it, or one outside of the types; an image
            has two masks, a folder in ``test/`` is called masks and has none of these images, or
            like no type of defect (``none``).
    """
    folder, samples, called_masks = _found(Path(source))
    masks = {sample.mask for sample in samples}
    for name, paths in called_masks.items():
        _require_masks(folder / name, paths, masks)
    require_clear(folder, samples)
    return samples


def images_to_test(source: Path) -> list[Path]:
    """Return the images of ``test_samples``, for who need not know what is known of them.

    Raises:
        DataError: there is no test folder, or no image in it, or one outside of the types.
    """
    return [sample.path for sample in _found(source)[1]]


def _found(source: Path) -> tuple[Path, list[Sample], dict[str, list[Path]]]:
    """Return the test folder, its samples, and by folder what lies in those called like masks."""
    folder = test_folder(source)
    if folder is None:
        raise DataError(
            f"{source}: expected a folder test/ with one folder a type (test/good, test/scratch, "
            f"...), got {content_of(source)}; see the data layout in the docs. What was trained on "
            "tells nothing, so a folder of good and defective images is not divided here: move "
            "those that the model has not seen into test/."
        )
    found, called_masks = [], dict[str, list[Path]]()
    for path in images_below(folder):
        name, *below = path.relative_to(folder).parts
        if not below:
            raise DataError(
                f"{path}: expected test images in one folder a type (test/good, test/scratch, "
                "...), got one straight in test/; move it into the folder of its type."
            )
        if names.is_masks(name):
            called_masks.setdefault(name, []).append(path)
        else:
            found.append((path, PurePath(name, *below)))
    beside = names.masks_beside([path for path, _ in found])
    of_image = {image: Path(mask) for mask, image in beside.items()}
    found = [(path, inside) for path, inside in found if path not in beside]
    types = {inside.parts[0] for _, inside in found}
    defective = types - names.good_among(types)
    finder = mask_finder([source, folder], single=len(defective) == 1)
    masks = {path: finder(inside) for path, inside in found if inside.parts[0] in defective}
    for path, mask in masks.items():
        own = of_image.get(path.with_suffix(""))
        if own and mask:
            raise DataError(f"{path}: expected one mask, got {mask} and {own}. Remove one of them.")
        masks[path] = own or mask
    samples = [
        Sample(path, inside.parts[0], masks[path]) if path in masks else Sample(path, GOOD)
        for path, inside in found
    ]
    return folder, samples, called_masks


def require_clear(source: object, samples: Iterable[Sample]) -> None:
    """Refuse types of defects that may be none: ``none``, ``no``, ``0``, ``OK``.

    Args:
        source: what says them, for the error.
        samples: those that are good have the type ``good``.

    Raises:
        DataError: naming the types.
    """
    unclear = Counter(
        each.defect_type
        for each in samples
        if each.defect_type not in (GOOD, None)
        and (names.is_good_label(each.defect_type) or names.is_unclear_label(each.defect_type))
    )
    if unclear:
        listed = some([f"{label!r} ({count})" for label, count in unclear.most_common()])
        raise DataError(
            f"{source}: expected good or the name of a defect type for each image, got {listed}, "
            "which is not clear. Call good parts good, others by their type of defect, and leave "
            "out what nobody knows."
        )


def _require_masks(folder: Path, files: Sequence[Path], masks: Collection[Path | None]) -> None:
    """Refuse a folder that is called like one of masks if none of its files is one.

    Raises:
        DataError: naming it.
    """
    if set(files).isdisjoint(masks):
        listed = some([path.relative_to(folder).as_posix() for path in files])
        raise DataError(
            f"{folder}: expected masks, as this name says, each called as its image is "
            f"({folder.name}/TYPE/NAME), got files that belong to none of the test images: "
            f"{listed}. Call them so; or if {folder.name} is a type of defect, give its folder "
            f"another name, such as {folder.name}_defect."
        )


# pytest would collect these functions wherever a test module imports them.
test_samples.__test__ = False  # type: ignore[attr-defined]
test_folder.__test__ = False  # type: ignore[attr-defined]


def split_calibration(
    samples: Sequence[Sample],
    *,
    fraction: float,
    minimum: int,
    seed: int,
    groups: Sequence[str] | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """Split good samples into those to train on and those that set the threshold.

    Of n samples min(max(round(fraction * n), minimum), n // 2) calibrate.  The choice depends
    on the seed and the positions only, so that a moved folder gives the same split.

    Of groups whole ones calibrate, in random order until there are as many samples; one that
    would make them more than half is passed over.

    Args:
        samples: good ones.
        fraction: of them that calibrate, in [0, 1].
        minimum: fewest that do, though never more than half.
        seed: of the choice.
        groups: of each sample; ``None``: each is one by itself.

    Returns:
        (training, calibration), both in the order given; of one group alone none calibrate.
    """
    count = min(max(round(fraction * len(samples)), minimum), len(samples) // 2)
    random = np.random.default_rng(seed)
    if groups is None:
        chosen = set(random.permutation(len(samples))[:count].tolist())
    else:
        chosen = _whole_groups(groups, count, random)
    training = [sample for index, sample in enumerate(samples) if index not in chosen]
    return training, [sample for index, sample in enumerate(samples) if index in chosen]


def _whole_groups(groups: Sequence[str], count: int, random: np.random.Generator) -> set[int]:
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    chosen: set[int] = set()
    for number in random.permutation(len(members)):
        whole = list(members.values())[number]
        if len(chosen) < count and len(chosen) + len(whole) <= len(groups) // 2:
            chosen.update(whole)
    return chosen


def mask_finder(places: Sequence[Path], *, single: bool) -> Callable[[PurePath], Path | None]:
    """Return what finds the mask of an image by its path in the test folder.

    Args:
        places: where folders of masks lie.
        single: whether masks may lie straight in such a folder, without one of their type.
    """
    masks: dict[PurePath, Path] = {}
    for folder in (each for place in places for each in folders_in(place, names.is_masks)):
        for path in files_below(folder):
            if name_says(path.name):
                inside = path.relative_to(folder).with_suffix("")
                # MVTec's own suffix first.
                if inside not in masks or path.suffix.lower() == ".png":
                    masks[inside] = path

    def find(image: PurePath) -> Path | None:
        stem = image.with_suffix("")
        wanted = [stem, PurePath(*stem.parts[1:])] if single else [stem]
        called = [each.with_name(each.name + end) for each in wanted for end in ("_mask", "")]
        return next((masks[each] for each in called if each in masks), None)

    return find
