"""The demo's data set: its layout, its honesty, and what it does with folders it finds."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import brick

from destseg.data import demo_parts
from destseg.data.demo_parts import make_demo_parts
from destseg.errors import DataError, MissingExtraError, SettingsError

DEFECT_TYPES = ["hole", "missing_piece", "scratch", "stain"]
SMALL = {"n_train": 3, "n_test_good": 2, "n_per_defect": 2, "size": 64}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "parts"
    make_demo_parts(folder, n_train=6, n_test_good=4, n_per_defect=6, seed=5)
    return folder


def test_layout_and_formats(made):
    expected = {f"train/good/{i:03d}.png" for i in range(6)}
    expected |= {f"test/good/{i:03d}.png" for i in range(4)}
    expected |= {f"test/{name}/{i:03d}.png" for name in DEFECT_TYPES for i in range(6)}
    masks = {f"ground_truth/{name}/{i:03d}_mask.png" for name in DEFECT_TYPES for i in range(6)}
    assert set(contents(made)) == expected | masks | {"demo-parts.json"}
    for name in expected | masks:
        with Image.open(made / name) as image:
            assert image.size == (160, 160)
            assert image.mode == ("L" if name in masks else "RGB")


def test_nothing_is_left_beside_the_folder(made):
    assert [path.name for path in made.parent.iterdir()] == ["parts"]


def test_images_all_differ(made):
    images = [raw for name, raw in contents(made).items() if name.endswith(".png")]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_masks_are_small_and_not_empty(made, defect_type):
    for path in (made / "ground_truth" / defect_type).iterdir():
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) == {0, 255}
        assert (mask > 0).mean() < 0.2


def crop_in(photograph, image):
    """Find an image in the photograph by trying all places, flips and some zooms.

    Returns the correlation and the range of columns of the best place.
    """
    image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    best = (-1.0, 0, 0)
    for side in range(116, 141, 3):
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        for flips in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            turned = np.ascontiguousarray(small[:: flips[0], :: flips[1]])
            match = cv2.matchTemplate(photograph, turned, cv2.TM_CCOEFF_NORMED)
            _, value, _, (left, _) = cv2.minMaxLoc(match)
            best = max(best, (value, left, left + side))
    return best


def test_train_and_test_come_from_disjoint_regions(made):
    photograph = brick()
    columns = {}
    for split in ("train", "test"):
        found = []
        for path in sorted((made / split / "good").iterdir())[:3]:
            value, first, last = crop_in(photograph, np.asarray(Image.open(path)))
            assert value > 0.95, "the crop was not found, so its place says nothing"
            found.append((first, last))
        columns[split] = found
    border = 0.35 * photograph.shape[1]
    # The search tries whole pixels and a few zooms only, so a found place is off by up to 2.
    assert max(last for _, last in columns["test"]) <= border + 2
    assert min(first for first, _ in columns["train"]) >= border - 2


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_mask_is_where_the_part_was_changed(tmp_path, monkeypatch, defect_type):
    """Against the same parts without their defects, which a painter that paints nothing leaves."""
    make_demo_parts(tmp_path / "defective", **SMALL)
    painter = demo_parts.PAINTERS[defect_type]

    def nothing(part, rng):
        alpha, target = painter(part, rng)
        return np.zeros_like(alpha), target

    monkeypatch.setitem(demo_parts.PAINTERS, defect_type, nothing)
    make_demo_parts(tmp_path / "clean", **SMALL)
    for name in ("000.png", "001.png"):
        defective, clean = (
            np.asarray(Image.open(tmp_path / which / "test" / defect_type / name)).astype(int)
            for which in ("defective", "clean")
        )
        changed = np.abs(defective - clean).max(axis=2)
        path = tmp_path / "defective" / "ground_truth" / defect_type / name.replace(".", "_mask.")
        mask = np.asarray(Image.open(path)) > 0
        assert changed[mask].mean() > 12
        assert changed[~mask].max() < 35
        assert changed[~mask].mean() < 3


def test_equal_calls_give_equal_bytes_and_other_seeds_do_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_demo_parts(tmp_path / name, **SMALL, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert not set(a.values()) & {raw for name, raw in c.items() if name.startswith("t")}


def test_images_do_not_depend_on_how_many_there_are(tmp_path):
    make_demo_parts(tmp_path / "few", **SMALL)
    make_demo_parts(tmp_path / "more", **{**SMALL, "n_train": 5, "n_per_defect": 3})
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    del few["demo-parts.json"]
    assert few.items() <= more.items()


def test_earlier_equal_output_is_reused(tmp_path):
    make_demo_parts(tmp_path / "parts", **SMALL)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    make_demo_parts(tmp_path / "parts", **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "parts").mkdir()
    make_demo_parts(tmp_path / "parts", **SMALL)
    assert json.loads((tmp_path / "parts/demo-parts.json").read_text())["size"] == 64


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        make_demo_parts(tmp_path, **SMALL)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "parts").write_text("keep")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        make_demo_parts(tmp_path / "parts", **SMALL)


def test_output_of_other_values_and_incomplete_output_are_refused(tmp_path):
    make_demo_parts(tmp_path / "parts", **SMALL)
    with pytest.raises(DataError, match="made with other values"):
        make_demo_parts(tmp_path / "parts", **{**SMALL, "seed": 1})
    (tmp_path / "parts/ground_truth/hole/001_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of the demo's files are gone.*001_mask\.png"):
        make_demo_parts(tmp_path / "parts", **SMALL)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(part, rng):
        raise OSError("no space left on device")

    monkeypatch.setitem(demo_parts.PAINTERS, "hole", broken)
    with pytest.raises(DataError, match="no space left on device"):
        make_demo_parts(tmp_path / "parts", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_numbers_too_small_are_named_all_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"(?s)n_train: .* at least 1, got 0.*size: .* got 8"):
        make_demo_parts(tmp_path / "parts", n_train=0, size=8)


def test_without_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"extra 'train' with: pip install"):
        make_demo_parts(tmp_path / "parts", **SMALL)


def test_needs_neither_torch_nor_skimage_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from destseg.data.demo_parts import make_demo_parts;"
        "make_demo_parts(Path(sys.argv[1]), n_train=1, n_test_good=0, n_per_defect=0);"
        "assert not {'torch', 'skimage', 'scipy'} & set(sys.modules), 'heavy import'"
    )
    target = tmp_path / "parts"
    subprocess.run([sys.executable, "-c", code, str(target)], check=True)
    assert Path(target, "train/good/000.png").is_file()
