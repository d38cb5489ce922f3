"""Published data sets in their published layouts, as good images to train on and test samples."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from destseg.data.samples import GOOD, Sample, find_images, good_samples, test_samples
from destseg.errors import DataError


@dataclass(frozen=True)
class Images:
    """A category: its good training images and its labelled test images."""

    name: str
    training: tuple[Path, ...]
    test: tuple[Sample, ...]


def mvtec(root: Path) -> list[Images]:
    """Read MVTec AD and MPDD: CATEGORY/train/good, CATEGORY/test/TYPE, CATEGORY/ground_truth."""
    found = [folder for folder in _folders(root) if (folder / "train" / GOOD).is_dir()]
    if (root / "train" / GOOD).is_dir():
        found = [root]
    return [
        Images(
            folder.resolve().name,
            tuple(sample.path for sample in good_samples(folder)),
            tuple(test_samples(folder)),
        )
        for folder in found
    ]


def visa(root: Path) -> list[Images]:
    """Read VisA: split_csv/1cls.csv names every image's category, split, label and mask."""
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise DataError(f"{root}: expected VisA with split_csv/1cls.csv, got none. Is it unpacked?")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    categories = []
    for name in dict.fromkeys(row["object"] for row in rows):
        own = [row for row in rows if row["object"] == name]
        train = [root / row["image"] for row in own if row["split"] == "train"]
        test = [
            Sample(root / row["image"], GOOD)
            if row["label"] == "normal"
            else Sample(root / row["image"], "anomaly", root / row["mask"])
            for row in own
            if row["split"] == "test"
        ]
        categories.append(Images(name, tuple(train), tuple(test)))
    return categories


def btad(root: Path) -> list[Images]:
    """Read BTAD: CATEGORY/train/ok, CATEGORY/test/ok and ko, CATEGORY/ground_truth/ko."""
    categories = []
    for folder in _folders(root):
        if not (folder / "train" / "ok").is_dir():
            continue
        test = [Sample(path, GOOD) for path in find_images(folder / "test" / "ok")]
        masks = {path.stem: path for path in find_images(folder / "ground_truth" / "ko")}
        test += [
            Sample(path, "ko", masks.get(path.stem)) for path in find_images(folder / "test" / "ko")
        ]
        training = tuple(find_images(folder / "train" / "ok"))
        categories.append(Images(folder.name, training, tuple(test)))
    return categories


def mtd(root: Path) -> list[Images]:
    """Read the magnetic tiles: MT_KIND/Imgs with a .jpg and a mask .png of each name.

    There is no published split.  A seeded 80 % of MT_Free trains; the rest and all defects test.
    A copy that is in MVTec's layout already is read as that.
    """
    if (root / "train" / GOOD).is_dir():
        return mvtec(root)
    free = sorted((root / "MT_Free" / "Imgs").glob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(free))
    cut = round(0.8 * len(free))
    training = tuple(free[i] for i in sorted(order[:cut]))
    test = [Sample(free[i], GOOD) for i in sorted(order[cut:])]
    for folder in _folders(root):
        if folder.name.startswith("MT_") and folder.name != "MT_Free":
            test += [
                Sample(path, folder.name.removeprefix("MT_").lower(), path.with_suffix(".png"))
                for path in sorted((folder / "Imgs").glob("*.jpg"))
            ]
    return [Images("mtd", training, tuple(test))] if training else []


LAYOUTS: dict[str, Callable[[Path], list[Images]]] = {
    "mvtec": mvtec,
    "mpdd": mvtec,
    "visa": visa,
    "btad": btad,
    "mtd": mtd,
}


def read_layout(dataset: str, root: Path) -> list[Images]:
    """Return the categories of a data set, by name.

    Raises:
        DataError: if the folder does not hold the data set in its published layout.
    """
    if not root.is_dir():
        raise DataError(f"expected the folder of {dataset}, got {root}: no such folder")
    categories = LAYOUTS[dataset](root)
    if not categories:
        raise DataError(
            f"{root}: expected {dataset} in its published layout ({LAYOUTS[dataset].__doc__}), "
            f"got {', '.join(sorted(entry.name for entry in root.iterdir())[:8])}"
        )
    return sorted(categories, key=lambda category: category.name)


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir())
