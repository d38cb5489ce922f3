"""Known defects: a folder of bad parts, read, checked against their images and as the model sees.

What is wrong with any of them is said of all at once, before anything is trained.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data import names
from destseg.data.files import sha256_of
from destseg.data.folders import content_of, files_below, folders_in, images_below
from destseg.data.images import read_with, resize_for_model
from destseg.data.labelme import SUFFIX, Labelme, read_labelme
from destseg.data.lists import counted, some
from destseg.data.masks import read_mask
from destseg.data.roi import Roi
from destseg.data.samples import Sample, mask_finder
from destseg.errors import DataError

Tell = Callable[[str], object]
_MOST = 0.5  # of what is inspected: a mask rarely marks more

_LAYOUT = (
    "a folder of bad parts: one folder a defect type (scratch/, dent/), with masks in "
    "ground_truth/TYPE/, as NAME_mask.png beside the images, or as labelme's NAME.json"
)


@dataclass(frozen=True, eq=False)
class Defect:
    """An image of a bad part, and where its defect is.

    Attributes:
        sample: its file, defect type and mask's file.
        image: uint8 [h, w, 3], as ``resize_for_model`` gives it.
        mask: bool [h, w], true at the defect, at least once; ``None`` where it is not known.
        sha256: of the image's file.
    """

    sample: Sample
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    sha256: str

    @property
    def defect_type(self) -> str:
        """Name of its type."""
        return str(self.sample.defect_type)


def defect_samples(source: str | Path, tell: Tell = lambda _: None) -> list[Sample]:
    """Return the images of a folder of bad parts, each with its type and, if any, its mask.

    The type is the name of the folder in ``source`` that an image lies in.  Straight in ``source``
    it is the label that labelme gave it, else the name of ``source``.  Masks lie in
    ``ground_truth/<type>/`` in or beside ``source``, or beside the data set's ``test`` that it is
    in; of one type alone also straight in ``ground_truth/``.  Or they lie beside their images as
    ``<name>_mask``, or are polygons of labelme's in ``<name>.json``.

    Args:
        source: the folder.
        tell: is told what is left out.

    Raises:
        DataError: if it is no such folder, or an image has two masks.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source}: expected {_LAYOUT}; got {content_of(source)}. Check --defects.")
    if folders_in(source, names.is_train) or folders_in(source, names.is_test):
        raise DataError(
            f"{source}: expected {_LAYOUT}; got a data set with {content_of(source)}. What is "
            "learned can measure nothing any more: move some of test/ into a folder of their own "
            "and give that."
        )
    inside = {path: path.relative_to(source) for path in images_below(source)}
    beside = names.masks_beside(list(inside))
    of_image = {image: Path(mask) for mask, image in beside.items()}
    images = [
        path
        for path, name in inside.items()
        if path not in beside and not any(map(names.is_masks, name.parts[:-1]))
    ]
    folders = {path: inside[path].parts[0] for path in images if len(inside[path].parts) > 1}
    called_good = names.good_among(set(folders.values()))
    good = [path for path in images if folders.get(path) in called_good]
    if good:
        tell(f"{source}: left out {counted(len(good), 'image')} in folders called good: no defects")
    images = [path for path in images if path not in set(good)]
    if not images:
        raise DataError(f"{source}: expected {_LAYOUT}; got {content_of(source)}.")
    called = Path(os.path.abspath(source))  # noqa: PTH100 - "." has no name, links keep theirs
    types = {inside[path].parts[0] for path in images if len(inside[path].parts) > 1}
    of_folder = mask_finder([source, *_beside(called)], single=len(types) <= 1)
    samples, problems = [], []
    for path in images:
        drawn = path.with_suffix(SUFFIX)
        own = inside[path]
        typed = own if len(own.parts) > 1 else PurePath(called.name, own)
        found = [of_folder(typed), of_image.get(path.with_suffix(""))]
        masks = [mask for mask in (*found, drawn if drawn.is_file() else None) if mask]
        if len(set(masks)) > 1:
            listed = " and ".join(map(str, masks))
            problems.append(f"{path}: expected one mask, got {listed}. Remove all but one.")
            continue
        mask = masks[0] if masks else None
        try:
            samples.append(Sample(path, _type(called.name, own, mask), mask))
        except DataError as error:
            problems.append(str(error))
    _raise_all(problems)
    if unused := _unused(source, samples, beside):
        tell(f"{source}: masks without an image: {some(unused)}: left out")
    return samples


def read_defects(
    samples: Sequence[Sample],
    settings: DataSettings,
    tell: Tell = lambda _: None,
    roi: Roi | None = None,
) -> list[Defect]:
    """Read images of defects and their masks as large as the model sees them.

    An image that is there twice is used once.  Masks that mark more than half of what is inspected
    are told: they may be inverted, and some defects are as large.

    Args:
        samples: as ``defect_samples`` gives them.
        settings: how images are read.
        tell: is told what is left out or cut off.
        roi: what is inspected; ``None`` is all.

    Raises:
        DataError: naming every file that cannot be used, and why: an image that cannot be read, a
            mask of another size or that marks nothing or all, an image with two types or two masks.
    """
    found: dict[str, Defect] = {}
    problems: list[str] = []
    for sample in samples:
        try:
            defect = _read(sample, settings, tell)
        except DataError as error:
            problems.append(str(error))
            continue
        same = found.setdefault(defect.sha256, defect)
        if same is defect:
            continue
        if same.defect_type != defect.defect_type:
            problems.append(
                f"{sample.path}: expected one defect type an image, got the same image as "
                f"{same.sample.path}. Remove one of them."
            )
        elif same.mask is None:
            found[defect.sha256] = defect
        elif defect.mask is not None and not np.array_equal(same.mask, defect.mask):
            problems.append(
                f"{sample.path}: expected one mask an image, got another than that of the same "
                f"image as {same.sample.path}. Draw both into one, and remove the other image."
            )
        tell(f"{sample.path}: the same image as {same.sample.path}: used once")
    _raise_all(problems)
    large = []
    for each in found.values():
        if each.sample.mask and each.mask is not None:
            inspected = None if roi is None else roi.at((each.mask.shape[0], each.mask.shape[1]))
            if marks_most(each.mask, inspected):
                large.append(each.sample.mask.as_posix())
    if large:
        tell(large_masks_note(large, sum(each.mask is not None for each in found.values())))
    return list(found.values())


def marks_most(mask: NDArray[np.bool_], inspected: NDArray[np.bool_] | None = None) -> bool:
    """Whether a mask, bool [h, w], marks more than half of what is inspected; ``None``: of all."""
    marked = mask if inspected is None else mask[inspected]
    return bool(np.count_nonzero(marked) > _MOST * marked.size)


def large_masks_note(large: Sequence[str], masks: int) -> str:
    """Return that masks mark most of what is inspected, in a line.

    Args:
        large: paths of these masks.
        masks: how many there are in all.
    """
    return (
        f"{len(large)} of {masks} masks mark more than half of what is inspected: {some(large)}. "
        "Where the defects are not so large, the masks are inverted: what is not black is the "
        "defect."
    )


def require_not_good(defects: Iterable[Defect], good: Iterable[Path]) -> None:
    """Refuse images of defects whose files are, byte for byte, also among the good images.

    Raises:
        DataError: naming all of them.
    """
    bad = {defect.sha256: defect.sample.path for defect in defects}
    sizes = {path.stat().st_size for path in bad.values()}
    # Only files of the same length are read: there are thousands of good ones.
    twice = [
        f"  {bad[content]} is {path}"
        for path in good
        if _length(path) in sizes and (content := _sha256(path)) in bad
    ]
    if twice:
        raise DataError(
            "expected images of defects that are not among the good ones, got the same:\n"
            + "\n".join(twice)
            + "\nTake each out of one of the two folders."
        )


def require_masks(defects: Iterable[Defect], source: Path) -> None:
    """Refuse defects of which none has a mask.

    Raises:
        DataError: naming what masks may be.
    """
    if all(defect.mask is None for defect in defects):
        raise DataError(
            f"{source}: expected at least one image with a mask, got none: without masks it is not "
            f"known where the defects are. Give {_LAYOUT}."
        )


def fingerprint_of(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 of known defects: types and contents of images and masks, in any order.

    Raises:
        DataError: if a file cannot be read.
    """
    lines = sorted(
        f"{each.defect_type}\0{_sha256(each.path)}\0{_sha256(each.mask) if each.mask else ''}\n"
        for each in samples
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def counts_by_type(defects: Iterable[Defect]) -> Counter[str]:
    """Return how many images each type has, types in order."""
    return Counter(sorted(defect.defect_type for defect in defects))


def mask_for_model(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at another (height, width): a pixel is marked if half of it is.

    Where that leaves nothing of a piece, as of a small defect beside a large one, its pixels that
    are marked most stay: what is not marked is learned as good surface.
    """
    if mask.shape == size:
        return mask
    height, width = mask.shape
    # One after the other: where one side grows, OpenCV takes no mean along the one that shrinks.
    least = (min(height, size[0]), min(width, size[1]))
    covered = cv2.resize(mask.astype(np.float32), least[::-1], interpolation=cv2.INTER_AREA)
    covered = cv2.resize(covered, size[::-1], interpolation=cv2.INTER_LINEAR)
    marked = np.asarray(covered >= 0.5)
    rows, columns = np.nonzero(mask)
    numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    pieces = np.asarray(numbers[rows, columns], np.int32)
    rows, columns = rows * size[0] // height, columns * size[1] // width
    most = np.zeros(int(pieces.max(initial=0)) + 1, np.float32)
    np.maximum.at(most, pieces, covered[rows, columns])
    stays = covered[rows, columns] >= np.minimum(0.5, most[pieces])
    marked[rows[stays], columns[stays]] = True
    return marked


def _read(sample: Sample, settings: DataSettings, tell: Tell) -> Defect:
    image = read_with(sample.path, settings)
    size = (image.shape[0], image.shape[1])
    shown = resize_for_model(image, settings)
    if sample.mask is None:
        return Defect(sample, shown, None, _sha256(sample.path))
    mask = _mask(sample.mask, size, settings.max_pixels, tell)
    if mask.shape != size:
        raise DataError(
            f"{sample.mask}: expected a mask of its image's size, {size[1]} x {size[0]} pixels "
            f"(width x height), got {mask.shape[1]} x {mask.shape[0]}. Export it at that size."
        )
    if not mask.any():
        raise DataError(
            f"{sample.mask}: expected a mask that marks the defect, got one that marks nothing. "
            "Mark it; or remove the mask, and the image is used for measuring only."
        )
    if mask.all():
        raise DataError(
            f"{sample.mask}: expected a mask that outlines the defect, got one that marks the "
            "whole image. What is not black is the defect: draw it anew; or remove the mask, and "
            "the image is used for measuring only."
        )
    mask = mask_for_model(mask, (shown.shape[0], shown.shape[1]))
    return Defect(sample, shown, mask, _sha256(sample.path))


def _mask(path: Path, size: tuple[int, int], max_pixels: int, tell: Tell) -> NDArray[np.bool_]:
    if path.suffix != SUFFIX:
        return read_mask(path, max_pixels=max_pixels)
    drawn = read_labelme(path)
    mask = drawn.mask(size)
    if outside := drawn.outside(size):
        tell(f"{path}: {outside} of {len(drawn.polygons)} shapes reach out of the image: cut off")
    return mask


def _beside(source: Path) -> list[Path]:
    """Return the folders outside of one with defects in which folders with its masks may lie."""
    if names.is_masks(source.name):  # it would be taken for that of its own masks
        return []
    above = source.parent
    return [above, *([above.parent] if names.is_test(above.name) else [])]


def _type(source: str, inside: PurePath, mask: Path | None) -> str:
    if len(inside.parts) > 1:
        return inside.parts[0]
    drawn: Labelme | None = None
    if mask is not None and mask.suffix == SUFFIX:
        drawn = read_labelme(mask)
    return source if drawn is None else drawn.label


def _unused(source: Path, samples: Sequence[Sample], beside: Iterable[PurePath]) -> list[str]:
    """Return the files that are masks by their place or suffix and belong to no image."""
    used = {sample.mask for sample in samples} | set(beside)
    return sorted(
        inside.as_posix()
        for path in files_below(source)
        if path not in used
        and (inside := path.relative_to(source))
        and (path.suffix == SUFFIX or any(map(names.is_masks, inside.parts[:-1])))
    )


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        many = f"{len(problems)} of the defects cannot be used:\n" if len(problems) > 1 else ""
        raise DataError(many + "\n".join(problems))


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read, got {error.strerror}") from None


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
