import json
import shutil

import numpy as np
import pytest
from PIL import Image

from destseg.config import DataSettings
from destseg.data.defects import (
    counts_by_type,
    defect_samples,
    fingerprint_of,
    mask_for_model,
    read_defects,
    require_not_good,
)
from destseg.data.labelme import read_labelme
from destseg.data.roi import Roi
from destseg.errors import DataError

SMALL = DataSettings(image_size=64)


def image(path, size=(64, 64), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *path.name.encode()])
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def mask(path, box=(20, 30, 24, 40), size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    marked = np.zeros(size, np.uint8)
    top, bottom, left, right = box
    marked[top:bottom, left:right] = 255
    Image.fromarray(marked).save(path)
    return path


def labelme(path, shapes, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]}
    path.write_text(json.dumps(content))
    return path


def polygon(points, label="scratch", kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind}


SQUARE = polygon([[24, 20], [40, 20], [40, 30], [24, 30]])


@pytest.fixture
def box(tmp_path):
    """Two types in MVTec's layout, one with its masks beside the images, one with polygons."""
    folder = tmp_path / "bad"
    for number in range(3):
        image(folder / f"hole/{number}.png")
        mask(folder / f"ground_truth/hole/{number}_mask.png")
    image(folder / "dent/a.png")
    mask(folder / "dent/a_mask.png")
    image(folder / "crack/b.png")
    labelme(folder / "crack/b.json", [SQUARE])
    image(folder / "stain/c.png")
    return folder


# ---- which images and masks there are


def test_masks_are_found_in_all_three_places(box):
    found = {
        sample.path.relative_to(box).as_posix(): (
            sample.defect_type,
            sample.mask and sample.mask.relative_to(box).as_posix(),
        )
        for sample in defect_samples(box)
    }
    assert found == {
        **{f"hole/{n}.png": ("hole", f"ground_truth/hole/{n}_mask.png") for n in range(3)},
        "dent/a.png": ("dent", "dent/a_mask.png"),
        "crack/b.png": ("crack", "crack/b.json"),
        "stain/c.png": ("stain", None),
    }


def test_the_test_folder_of_a_data_set_has_its_masks_beside_it(tmp_path):
    image(tmp_path / "test/hole/0.png")
    path = mask(tmp_path / "ground_truth/hole/0_mask.png")
    assert [sample.mask for sample in defect_samples(tmp_path / "test")] == [path]
    with pytest.raises(DataError, match="can measure nothing any more"):
        defect_samples(tmp_path)


@pytest.mark.parametrize(
    ("source", "bad", "marked"),
    [
        ("parts/bad", "scratch/1.png", "parts/ground_truth/scratch/1_mask.png"),
        ("parts/bad", "1.png", "parts/ground_truth/bad/1_mask.png"),
        ("parts/NG", "1.png", "parts/mask/1.png"),
        ("bottle/test/hole", "1.png", "bottle/ground_truth/hole/1_mask.png"),
    ],
)
@pytest.mark.parametrize("way", ["whole", ".", ".."])
def test_masks_beside_the_folder_are_found_however_it_is_given(
    tmp_path, monkeypatch, source, bad, marked, way
):
    folder = tmp_path / source
    image(folder / bad)
    path = mask(tmp_path / marked)
    (folder / "empty").mkdir()
    if way != "whole":
        monkeypatch.chdir(folder / ("" if way == "." else "empty"))
    [found] = defect_samples(folder if way == "whole" else way)
    assert found.mask == path
    assert found.defect_type == ("scratch" if "/" in bad else folder.name)


def test_a_folder_called_like_masks_has_no_masks_of_its_own(tmp_path):
    image(tmp_path / "annotated/labels/1.png")
    assert [each.mask for each in defect_samples(tmp_path / "annotated/labels")] == [None]


def test_a_flat_folder_takes_the_types_that_were_drawn_or_its_own_name(tmp_path):
    folder = tmp_path / "scrap"
    for name in "abc":
        image(folder / f"{name}.png")
    labelme(folder / "a.json", [SQUARE, {**SQUARE, "label": "dent"}, {**SQUARE, "label": "dent"}])
    labelme(folder / "b.json", [SQUARE])
    mask(folder / "c_mask.png")
    types = {sample.path.stem: sample.defect_type for sample in defect_samples(folder)}
    assert types == {"a": "dent", "b": "scratch", "c": "scrap"}


def test_what_is_left_out_is_told(box):
    image(box / "good/1.png")
    mask(box / "ground_truth/hole/9_mask.png")
    labelme(box / "crack/none.json", [SQUARE])
    told = []
    assert "good" not in {sample.defect_type for sample in defect_samples(box, told.append)}
    assert "left out 1 image in folders called good: no defects" in told[0]
    assert "crack/none.json, ground_truth/hole/9_mask.png" in told[1]


def test_two_masks_of_an_image_are_refused_with_both_names(box):
    mask(box / "crack/b_mask.png")
    with pytest.raises(DataError, match=r"b\.png: expected one mask, got .*b_mask.* and .*b\.json"):
        defect_samples(box)


def test_what_is_no_folder_of_defects_says_what_is_expected(tmp_path, box):
    for source in (tmp_path / "missing", box / "hole/0.png", box / "ground_truth/.."):
        if source.exists() and source.is_dir():
            continue
        with pytest.raises(DataError, match="expected a folder of bad parts"):
            defect_samples(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images"):
        defect_samples(tmp_path / "empty")
    mask(tmp_path / "only/ground_truth/hole/0_mask.png")
    with pytest.raises(DataError, match="expected a folder of bad parts"):
        defect_samples(tmp_path / "only")


# ---- polygons


def test_polygons_cover_the_pixels_whose_centres_lie_in_them(tmp_path):
    corners = [[5.0, 7.0], [50.3, 12.8], [38.1, 55.2], [20.0, 30.0]]
    drawn = read_labelme(labelme(tmp_path / "a.json", [polygon(corners)])).mask((64, 64))
    expected = np.zeros((64, 64), bool)
    for y in range(64):
        for x in range(64):
            for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
                if (y1 > y + 0.5) != (y2 > y + 0.5):
                    at = x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1)
                    expected[y, x] ^= x + 0.5 < at
    # OpenCV draws the border too: at most the pixels that a line of the polygon goes through.
    assert not (expected & ~drawn).any()
    assert (drawn & ~expected).sum() < 0.75 * sum(
        max(abs(a - c), abs(b - d))
        for (a, b), (c, d) in zip(corners, corners[1:] + corners[:1], strict=True)
    )


def test_rectangles_and_circles_are_areas_too(tmp_path):
    shapes = [polygon([[40, 30], [24, 20]], kind="rectangle")]
    box = read_labelme(labelme(tmp_path / "a.json", shapes)).mask((64, 64))
    assert box[20:30, 24:40].all()
    assert box.sum() <= 12 * 18
    shapes = [polygon([[32, 32], [32, 42]], kind="circle")]
    circle = read_labelme(labelme(tmp_path / "b.json", shapes)).mask((64, 64))
    assert circle.sum() == pytest.approx(np.pi * 100, rel=0.15)


def test_polygons_that_overlap_have_no_hole(tmp_path):
    drawn = read_labelme(labelme(tmp_path / "a.json", [SQUARE, SQUARE])).mask((64, 64))
    assert drawn[20:30, 24:40].all()


@pytest.mark.parametrize("far", [9e6, 1e12, -1e300])
def test_a_shape_far_away_is_refused_and_one_that_is_only_large_is_not(tmp_path, far):
    drawn = read_labelme(labelme(tmp_path / "a.json", [polygon([(0, 0), (far, 0), (0, 40)])]))
    with pytest.raises(DataError, match=r"a\.json: expected points in pixels of an image of 64"):
        drawn.mask((64, 64))
    wide = [(-1e6, 20), (1e6, 20), (1e6, 40), (-1e6, 40)]
    mask = read_labelme(labelme(tmp_path / "b.json", [polygon(wide)])).mask((64, 64))
    assert mask[20:40].all()
    assert 20 * 64 <= mask.sum() <= 21 * 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected a file of labelme"),
        ("[]", "got other JSON"),
        ('{"shapes": []}', "expected at least one polygon"),
        ('{"shapes": [{"points": [[1, 2]], "shape_type": "line"}]}', "got 'line'"),
        ('{"shapes": [{"points": [[1, 2], [3, 4]]}]}', "at least 3 points of a polygon, got 2"),
        ('{"shapes": [{"points": "all"}]}', "expected points"),
        ('{"shapes": [{}]}', "expected points"),
    ],
)
def test_files_that_are_not_labelme_s_say_why(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_labelme(path)
    assert str(path) in str(caught.value)


# ---- as the model sees them


def test_images_and_masks_are_made_as_large_as_the_model_sees_them(box):
    defects = read_defects(defect_samples(box), DataSettings(image_size=(64, 128)))
    assert counts_by_type(defects) == {"crack": 1, "dent": 1, "hole": 3, "stain": 1}
    for each in defects:
        assert each.image.shape == (64, 128, 3)
        if each.defect_type == "stain":
            assert each.mask is None
        else:
            assert each.mask.shape == (64, 128)
            assert each.mask[20:30, 48:80].all()
            assert each.mask.sum() <= 12 * 36
    tiles = read_defects(defect_samples(box), DataSettings(image_size=64, tile=True))
    assert {each.image.shape for each in tiles} == {(64, 64, 3)}


def test_a_mask_made_smaller_is_marked_where_half_of_it_is():
    marked = np.zeros((40, 60), bool)
    marked[8:23, 10:31] = True
    whole = marked.reshape(10, 4, 15, 4).mean((1, 3))
    np.testing.assert_array_equal(mask_for_model(marked, (10, 15)), whole >= 0.5)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((500, 1250), (160, 416)), ((40, 2000), (256, 256)), ((2000, 40), (256, 256))],
)
def test_of_several_defects_on_one_image_none_loses_its_mask(shape, size):
    """What is not marked is learned as good surface, however large the defect beside it is."""
    random = np.random.default_rng(0)
    for _ in range(20):
        marked = np.zeros(shape, bool)
        boxes = [
            (*(int(random.integers(n - side + 1)) for n in shape), side) for side in (1, 2, 12)
        ]
        for y, x, side in boxes:
            marked[y : y + side, x : x + side] = True
        seen = mask_for_model(marked, size)
        for y, x, side in boxes:
            first = y * size[0] // shape[0], x * size[1] // shape[1]
            last = -(-(y + side) * size[0] // shape[0]), -(-(x + side) * size[1] // shape[1])
            assert seen[first[0] : last[0], first[1] : last[1]].any()
        scale = size[0] * size[1] / marked.size
        assert seen.sum() == pytest.approx(marked.sum() * scale, rel=0.5, abs=6)


def test_a_defect_that_shrinks_to_less_than_half_a_pixel_stays():
    marked = np.zeros((400, 400), bool)
    marked[201, 203] = True
    small = mask_for_model(marked, (64, 64))
    assert small.any()
    assert np.argwhere(small).mean(0) == pytest.approx([32, 32], abs=1)


def test_what_is_wrong_is_said_of_all_at_once(box):
    mask(box / "ground_truth/hole/0_mask.png", size=(32, 64))
    mask(box / "ground_truth/hole/1_mask.png", box=(0, 0, 0, 0))
    (box / "hole/2.png").write_bytes(b"none")
    labelme(box / "crack/b.json", [SQUARE], size=(100, 100))
    with pytest.raises(DataError) as caught:
        read_defects(defect_samples(box), SMALL)
    said = str(caught.value)
    assert said.startswith("4 of the defects cannot be used:")
    assert "0_mask.png: expected a mask of its image's size, 64 x 64 pixels" in said
    assert "got 64 x 32" in said
    assert "1_mask.png: expected a mask that marks the defect" in said
    assert str(box / "hole/2.png") in said
    assert "got ones drawn on 100 x 100" in said


def test_a_mask_that_marks_all_is_refused_and_one_that_marks_most_is_told(box):
    """Inverted, masks are of the good surface; but some defects are as large."""
    told = []
    read_defects(defect_samples(box), SMALL, told.append)
    assert told == []
    for number in (1, 2):
        mask(box / f"ground_truth/hole/{number}_mask.png", box=(0, 64, 0, 40))
    read_defects(defect_samples(box), SMALL, told.append)
    (note,) = told
    where = (box / "ground_truth/hole/1_mask.png").as_posix()
    assert note.startswith(f"2 of 5 masks mark more than half of what is inspected: {where}, ")
    mask(box / "ground_truth/hole/1_mask.png", box=(0, 64, 0, 64))
    with pytest.raises(DataError, match=r"1_mask\.png: expected a mask that outlines the defect"):
        read_defects(defect_samples(box), SMALL)


def test_most_is_asked_of_the_region_of_interest_as_evaluation_asks(box):
    left = np.zeros((64, 64), bool)
    left[:, :20] = True
    told = []
    mask(box / "ground_truth/hole/1_mask.png", box=(0, 64, 0, 16))  # most of it, a quarter of all
    mask(box / "ground_truth/hole/2_mask.png", box=(0, 64, 18, 64))  # most of all, not of it
    read_defects(defect_samples(box), SMALL, told.append, Roi(left))
    (note,) = told
    assert note.startswith("1 of 5 masks mark more than half of what is inspected: ")
    assert "1_mask.png" in note


def test_two_masks_of_an_image_that_is_there_twice_are_refused(box):
    shutil.copy(box / "hole/0.png", box / "hole/copy.png")
    mask(box / "ground_truth/hole/copy_mask.png", box=(2, 9, 3, 9))
    with pytest.raises(DataError, match=r"copy\.png: expected one mask an image, .*hole/0\.png"):
        read_defects(defect_samples(box), SMALL)
    (box / "ground_truth/hole/0_mask.png").unlink()
    told = []
    assert len(read_defects(defect_samples(box), SMALL, told.append)) == 6


def test_polygons_that_reach_out_of_the_image_are_cut_off_and_told(box):
    labelme(box / "crack/b.json", [polygon([[50, 50], [90, 50], [90, 90], [50, 90]])])
    told = []
    (crack,) = (
        each
        for each in read_defects(defect_samples(box), SMALL, told.append)
        if each.defect_type == "crack"
    )
    assert crack.mask[50:, 50:].all()
    assert told == [f"{box / 'crack/b.json'}: 1 of 1 shapes reach out of the image: cut off"]
    labelme(box / "crack/b.json", [polygon([[70, 70], [90, 70], [90, 90]])])
    with pytest.raises(DataError, match="marks nothing"):
        read_defects(defect_samples(box), SMALL)


def test_an_image_that_is_there_twice_is_used_once(box):
    shutil.copy(box / "hole/0.png", box / "hole/copy.png")
    mask(box / "ground_truth/hole/copy_mask.png")
    told = []
    assert len(read_defects(defect_samples(box), SMALL, told.append)) == 6
    assert "copy.png: the same image as" in told[0]
    shutil.copy(box / "hole/0.png", box / "dent/other.png")
    with pytest.raises(DataError, match="expected one defect type an image"):
        read_defects(defect_samples(box), SMALL)


def test_an_image_that_is_also_good_is_refused_by_its_content(box, parts, tmp_path):
    defects = read_defects(defect_samples(box), SMALL)
    good = sorted(parts.glob("*.png"))
    require_not_good(defects, good)
    same = tmp_path / "another name.png"
    shutil.copy(box / "hole/1.png", same)
    with pytest.raises(DataError, match=r"hole/1\.png is .*another name\.png"):
        require_not_good(defects, [*good, same, tmp_path / "missing.png"])


def test_the_fingerprint_is_that_of_the_contents(box, tmp_path):
    def print_of(folder):
        return fingerprint_of(defect_samples(folder))

    first = print_of(box)
    moved = tmp_path / "moved"
    shutil.copytree(box, moved)
    assert print_of(moved) == first
    mask(moved / "dent/a_mask.png", box=(1, 9, 1, 9))
    changed = print_of(moved)
    image(moved / "dent/a.png", seed=3)
    assert len({first, changed, print_of(moved)}) == 3
