"""What people call folders, labels and files: the known spellings, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

GOOD = "good"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Without case, spaces and signs: "Not OK", "not_ok" and "notOK" are one name.
_GOOD = _words(
    """
    good ok normal pass passed io defectfree nodefect nodefects nondefective notdefective undamaged
    noanomaly noanomalies nodamage nofault nofaults
    良品 合格 正常
    """
)
_DEFECTIVE = _words(
    """
    bad ng nok ko nio notgood notok nogood notnormal reject rejected rejects fail failed faulty
    defect defects defective abnormal anomaly anomalies anomalous 不良 不良品 不合格 缺陷 异常
    """
)
_MASKS = _words(
    """
    mask masks gt gts groundtruth groundtruths labels annotation annotations segmentation
    segmentations 掩码 掩膜
    """
)
# Defects have such names, and hardly anything else.
_DEFECT_TYPES = _words(
    """
    scratch scratches scratched dent dents dented crack cracks cracked chipped broken stain stains
    contamination damage damaged rust misprint 划痕 裂纹
    """
)
# No defect, or that nobody looked; good, or a defect.
_UNCLEAR = _words(
    """
    none no yes n y na nan null unknown unlabeled unlabelled negative positive neg pos 无 是 否 未知
    """
)
_SPELLINGS = _GOOD | _DEFECTIVE | _MASKS | _DEFECT_TYPES
_TRAIN = frozenset({"train", "training"})
_TEST = frozenset({"test", "testing"})
_SPLITS = _TRAIN | _TEST | {"val", "validation"}
# Say nothing: good_parts and 01_OK are called good.
_NEUTRAL = _words("image images img imgs picture pictures photo photos part parts sample samples")
_MASK_OF = re.compile(r"(.+)[-_ .](?:mask|masks|gt|ground_?truth|label|seg)", re.IGNORECASE)
_SAYS = re.compile("|".join(_GOOD | _DEFECTIVE), re.IGNORECASE)
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


class Words(NamedTuple):
    """What single words of a name say, whatever stands beside them: bad_crops, ok_cam1.

    Attributes:
        good, defective, masks, defect_type: whether there is such a word.
        rest: the words that say nothing.
    """

    good: bool
    defective: bool
    masks: bool
    defect_type: bool
    rest: tuple[str, ...]


def is_good(name: str) -> bool:
    """Whether a folder's name says that good parts are in it."""
    return _plain(name) in _GOOD


def is_defective(name: str) -> bool:
    """Whether a folder's name says that defective parts are in it, of whatever type."""
    return _plain(name) in _DEFECTIVE


def is_masks(name: str) -> bool:
    """Whether a folder's name says that masks are in it."""
    return _plain(name) in _MASKS


def words_of(name: str) -> Words:
    """Return what the words of a folder's or a file's name say: "not ok" is one, not "ok"."""
    words, said, rest = _named(name), set(), []
    while words:
        for count in range(len(words), 0, -1):
            if (spelling := "".join(words[:count])) in _SPELLINGS:
                said.add(spelling)
                break
        else:
            count = 1
            rest.append(words[0])
        words = words[count:]
    return Words(
        good=bool(said & _GOOD),
        defective=bool(said & _DEFECTIVE),
        masks=bool(said & _MASKS),
        defect_type=bool(said & _DEFECT_TYPES),
        rest=tuple(rest),
    )


def good_among(folders: Iterable[str]) -> set[str]:
    """Return those of the names of folders that say that good parts are in them.

    Of a name with other words than that, good_crops, only if it is clear what they stand for: if
    a defective one has the same, bad_crops.
    """
    words = {name: words_of(name) for name in folders}
    against = {name for name, each in words.items() if each.defective or each.defect_type}
    rests = {words[name].rest for name in against}
    return {
        name
        for name, each in words.items()
        if is_good(name)
        or (each.good and each.rest in rests and name not in against and not each.masks)
    }


def is_train(name: str) -> bool:
    """Whether a folder has what a data set is to be trained on."""
    return name.casefold() in _TRAIN


def is_test(name: str) -> bool:
    """Whether a folder has what a data set is to be measured on."""
    return name.casefold() in _TEST


def is_split(name: str) -> bool:
    """Whether a folder is called like a part of a data set: for training, for testing, ..."""
    return name.casefold() in _SPLITS


_NOT_DEFECTIVE = ("0", "0.0", "false")  # as programs write a column of numbers or of yes and no


def is_good_label(label: str) -> bool:
    """Whether a label of a list says that the part is good."""
    return label.strip().casefold() in _NOT_DEFECTIVE or is_good(label)


def is_unclear_label(label: str) -> bool:
    """Whether a label says that the part is good, or has a defect, but not which of these."""
    return not any(map(str.isalnum, label)) or "".join(_pieces(label)) in _UNCLEAR


def masks_beside(paths: Sequence[PurePath]) -> dict[PurePath, PurePath]:
    """Return the files that are called like masks of others of the paths: 1_mask.png by 1.png.

    Returns:
        By the mask's path that of its image, without a suffix.
    """
    masks = [(path, called[1]) for path in paths if (called := _MASK_OF.fullmatch(path.stem))]
    there = {path.with_suffix("") for path in paths} if masks else set()
    images = {path: path.with_name(image) for path, image in masks}
    return {path: image for path, image in images.items() if image in there}


def called_both(paths: Iterable[PurePath]) -> tuple[PurePath, PurePath] | None:
    """Return a file called good and one called defective, where both are: 1_OK.png and 2_NG.png."""
    good = bad = None
    for path in paths:
        if not _SAYS.search(path.name):
            continue
        words = words_of(path.stem)
        if words.defective:
            bad = bad or path
        elif words.good:
            good = good or path
        if good and bad:
            return good, bad
    return None


def _plain(name: str) -> str:
    return "".join(_named(name))


def _named(name: str) -> list[str]:
    return [word for word in _pieces(name) if word not in _NEUTRAL]


def _pieces(name: str) -> list[str]:
    return [word.casefold() for word in _PIECES.findall(name)]


def may_be_one(name: str, other: str) -> bool:
    """Whether folders of these names may be one, as seen from two places: ``mon/cam``, ``cam``."""
    return name == other or other.endswith(f"/{name}") or name.endswith(f"/{other}")
