import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destseg.data import folders, samples
from destseg.data.images import read_image
from destseg.data.samples import Sample, find_images, good_samples, split_calibration
from destseg.errors import DataError, ImageError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def below(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_a_sample_knows_whether_it_is_defective():
    kinds = ["good", "scratch", None]
    assert [Sample(Path("a.png"), kind).is_defective for kind in kinds] == [False, True, None]


def test_a_folder_is_searched_to_any_depth_in_natural_order(tmp_path):
    touch(tmp_path, "10.png", "2.PNG", "b/c/1.tiff", "a/1.jpg", "a.webp", "notes.txt", "x.json")
    touch(tmp_path, ".hidden.png", ".git/1.png", "a/.thumbs/1.png")
    expected = ["2.PNG", "10.png", "a/1.jpg", "a.webp", "b/c/1.tiff"]
    assert below(tmp_path, find_images(tmp_path)) == expected
    assert below(tmp_path, find_images(str(tmp_path))) == expected


def test_a_hidden_folder_that_is_named_is_searched(tmp_path):
    touch(tmp_path, ".cache/1.png")
    assert below(tmp_path, find_images(tmp_path / ".cache")) == [".cache/1.png"]


def test_links_are_followed_but_never_in_circles_nor_twice(tmp_path):
    touch(tmp_path, "real/1.png", "elsewhere/2.png")
    root = tmp_path / "real"
    (root / "up").symlink_to(root)
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    assert below(root, find_images(root)) == ["1.png", "again/2.png"]


def test_the_region_in_a_models_folder_is_no_image_and_one_of_that_name_elsewhere_is(tmp_path):
    touch(tmp_path, "1.png", "roi.png", "run/roi.png", "begun/roi.png", "model/roi.png")
    touch(tmp_path, "model/manifest.json", "model/weights.safetensors", "model/2.png")
    touch(tmp_path, "begun/checkpoint.safetensors", "run/manifest.json")  # the last is not ours
    expected = ["1.png", "model/2.png", "roi.png", "run/roi.png"]
    assert below(tmp_path, find_images(tmp_path)) == expected
    assert below(tmp_path, [each.path for each in good_samples(tmp_path)]) == expected


def test_a_single_image_is_a_source(tmp_path):
    touch(tmp_path, "one.BMP")
    assert find_images(tmp_path / "one.BMP") == [tmp_path / "one.BMP"]


def test_a_text_list_keeps_its_order_and_starts_at_its_own_folder(tmp_path):
    touch(tmp_path, "lists/near.png", "far.png", "abs.png")
    listing = tmp_path / "lists" / "all.txt"
    lines = ["\ufeff../far.png", "", "# a comment", "  near.png  ", str(tmp_path / "abs.png")]
    listing.write_text("\n".join(lines), encoding="utf-8")
    expected = [tmp_path / "far.png", tmp_path / "lists/near.png", tmp_path / "abs.png"]
    assert [path.resolve() for path in find_images(listing)] == expected


@pytest.mark.parametrize("suffix", ["txt", "csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_a_list_ends_where_a_line_of_a_file_does(suffix, end, tmp_path):
    names = [f"a{cut}b.png" for cut in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"] + ["c.png"]
    touch(tmp_path, *names)
    listing = tmp_path / f"list.{suffix}"
    listing.write_bytes("".join(name + end for name in names).encode())
    assert below(tmp_path, find_images(listing)) == names


def test_a_file_that_begins_like_a_comment_is_no_comment(tmp_path):
    touch(tmp_path, "#1.png", "2.png")
    lines = ["#1.png", "#2.png", "# 1.png", "#" + 300 * "-", "2.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    assert below(tmp_path, find_images(tmp_path / "list.txt")) == ["#1.png", "2.png"]


@pytest.mark.parametrize(
    "text",
    [
        "path\nb.png\na.png\n",
        "b.png\na.png\n",
        "id,Path\n1,b.png\n\n2,a.png\n",
        "id;path\n1;b.png\n2;a.png",
    ],
)
def test_a_csv_list_has_a_path_column_or_one_column(tmp_path, text):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text(text)
    assert below(tmp_path, find_images(tmp_path / "list.csv")) == ["b.png", "a.png"]


def test_missing_files_of_a_list_are_named_up_to_ten(tmp_path):
    touch(tmp_path, "here.png")
    names = ["here.png", *(f"gone{number:02}.png" for number in range(12))]
    (tmp_path / "list.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match="12 of 13") as caught:
        find_images(tmp_path / "list.txt")
    message = str(caught.value)
    assert [name in message for name in names] == [False] + [True] * 10 + [False] * 2
    assert "and 2 more" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"# nothing\n\n", "empty list"),
        ("empty.csv", b"", "empty list"),
        ("only_header.csv", b"path,label\n", "empty list"),
        ("columns.csv", b"file,kind\na.png,good\n", "column named path, got file, kind"),
        ("short.csv", b"label,path\ngood\n", "filled cells"),
        ("latin.txt", b"\xff\xfe\x00", "UTF-8"),
        ("model.onnx", b"x", r"ending in '\.onnx'"),
    ],
)
def test_sources_that_are_no_list_of_images_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_images(tmp_path / name)


def test_folders_without_images_say_what_they_hold(tmp_path):
    with pytest.raises(DataError, match="nothing there"):
        find_images(tmp_path / "missing")
    with pytest.raises(DataError, match=r"\.bmp, .*\.webp.*no files"):
        find_images(tmp_path)
    touch(tmp_path, "a.db", "deep/b.txt", "README")
    with pytest.raises(DataError, match=r"other files only: README, a\.db, deep/b\.txt"):
        find_images(tmp_path)


def test_train_good_is_what_a_folder_in_mvtec_layout_trains_on(tmp_path):
    touch(tmp_path, "train/good/2.png", "train/good/10.png", "test/scratch/1.png", "other.png")
    expected = [Sample(tmp_path / "train/good" / name, "good") for name in ("2.png", "10.png")]
    assert good_samples(tmp_path) == expected


def test_a_plain_folder_and_a_list_and_an_image_are_good(tmp_path):
    touch(tmp_path / "parts", "a.png", "more/b.png")
    (tmp_path / "list.txt").write_text("parts/more/b.png\n")
    expected = [Sample(tmp_path / "parts" / name, "good") for name in ("a.png", "more/b.png")]
    assert good_samples(tmp_path / "parts") == expected
    assert good_samples(tmp_path / "list.txt") == expected[1:]
    assert good_samples(tmp_path / "parts/a.png") == expected[:1]


def test_a_label_column_picks_the_good_rows(tmp_path):
    labels = ["good", "Normal", "OK", "0", "0.0", "False", "scratch", "1", ""]
    touch(tmp_path, *(f"{index}.png" for index in range(6)))
    rows = [f"{index}.png,{label}" for index, label in enumerate(labels)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    found = [sample.path for sample in good_samples(tmp_path / "list.csv")]
    assert below(tmp_path, found) == [f"{index}.png" for index in range(6)]


def test_a_list_without_good_rows_is_refused(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png,dent\n")
    with pytest.raises(DataError, match="'dent'"):
        good_samples(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/good/1.png", "train/dent/1.png"], r"only good images.*dent/ \(1\)"),
        (["train/dent/1.png"], "only good images.*dent"),
        (["train/1.png"], r"only good images.*no folder \(1\).*/train itself"),
        (["train/cam1/1.png"], r"only good images.*cam1/ \(1\).*/train itself"),
        (["1.png", "test/dent/1.png"], "expected train/good beside test/"),
        (["1.png", "Test/OK/1.png"], "expected train/good beside Test/"),
        (["1.png", "ground_truth/dent/1.png"], r"got no folder \(1\), ground_truth/ \(1\)"),
        (["1.png", "mask/1.png"], r"only good images.*mask/ \(1\)"),
        (["good/1.png", "dent/1.png"], "only good images.*dent"),
        (["scratch/1.png", "dent/1.png"], "only good images.*dent"),
        (["good/1.png", "monday/1.png", "monday/2.png"], r"good/ \(1\), monday/ \(2\)"),
        (["good/1.png", "2.png"], r"got no folder \(1\), good/ \(1\)"),
        (["bad/1.png", "2.png"], "only good images"),
        (["NG/1.png"], r"only good images.*NG/ \(1\)"),
        (["mask/1.png", "masks/1.png"], "only good images"),
        (["2024-01/OK/1.png", "2024-01/NG/1.png", "2024-02/1.png"], "only good images"),
        # Several data sets: the good folders of their tests would be trained on.
        (["bolt/train/good/1.png", "bolt/test/good/1.png"], "only good images"),
        (["1.png", "1_mask.png"], "called like masks of others: 1_mask.png"),
        (["10301.png", "10301_GT.png"], "called like masks of others: 10301_GT.png"),
        (["Part0.jpg", "Part0_label.bmp"], "called like masks of others: Part0_label.bmp"),
        (["good/1.png", "good/1 mask.tif"], "called like masks of others: 1 mask.tif"),
        (["1_OK.png", "2_OK.png", "3_NG.png"], "1_OK.png, 3_NG.png"),
        (["1_ok.png", "2_not_ok.png"], "1_ok.png, 2_not_ok.png"),
        # A word among others speaks against a folder, too.
        (["bad_crops/1.png", "2.png"], r"only good images.*bad_crops/ \(1\)"),
        (["bad_crops/1.png", "bad_crops/2.png"], "only good images.*bad_crops"),
        (["ng_cam1/1.png", "cam1/1.png"], "only good images.*ng_cam1"),
        (["crops/1.png", "not_ok_crops/1.png"], "only good images.*not_ok_crops"),
        (["crops/1.png", "crop_masks/1.png"], "only good images.*crop_masks"),
        (["scratch_crops/1.png", "crops/1.png"], "only good images.*scratch_crops"),
        (["good_crops/1.png", "scratch_crops/1.png"], "only good images.*scratch_crops"),
        # Which are good is not clear: what else the names say is not the same.
        (["good_crops/1.png", "bad/1.png"], "only good images.*good_crops"),
        (["ok_cam1/1.png", "ng_cam1/1.png", "more/1.png"], "only good images.*more"),
        (["good/1.png", "normal_wear/1.png"], "only good images.*normal_wear"),
    ],
)
def test_defective_images_never_get_into_training_unseen(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        good_samples(tmp_path)


GOOD_SPELLINGS = [
    *("good", "Good", "GOOD", "ok", "OK", "Ok", "normal", "Normal", "NORMAL", "pass", "i.O."),
    *("good_parts", "GoodParts", "01_OK", "OK images", "defect-free", "no_defect", "良品", "正常"),
]
DEFECTIVE_SPELLINGS = [
    *("bad", "Bad", "ng", "NG", "nok", "NOK", "n.i.O.", "ko", "abnormal", "Abnormal", "anomaly"),
    *("defect", "defects", "Defective", "not_good", "Not OK", "notOK", "fail", "reject", "缺陷"),
]
MASK_SPELLINGS = ["mask", "Mask", "masks", "MASKS", "ground_truth", "groundtruth", "Ground Truth"]


def paired(good: list[str], other: list[str]) -> list[tuple[str, str]]:
    return [(one, other[index % len(other)]) for index, one in enumerate(good)]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        *paired(GOOD_SPELLINGS, DEFECTIVE_SPELLINGS),
        *[(good, bad) for bad, good in paired(DEFECTIVE_SPELLINGS, GOOD_SPELLINGS)],
    ],
)
@pytest.mark.parametrize("root", ["", "train/", "Train/", "line 1/2026-03-01/"])
def test_folders_of_other_tools_are_understood(good, bad, root, tmp_path):
    touch(tmp_path, f"{root}{good}/2.png", f"{root}{good}/10.png", f"{root}{good}/a/1.png")
    touch(tmp_path, f"{root}{bad}/1.png", f"{root}{bad}/2.png")
    touch(tmp_path, f"{root}mask/1.png", f"{root}mask/2.png")
    told = []
    found = [sample.path for sample in good_samples(tmp_path, told.append)]
    here = tmp_path / root / good
    assert below(here, found) == ["2.png", "10.png", "a/1.png"]
    assert len(told) == 1
    assert "left out" in told[0]
    if root != "line 1/2026-03-01/":
        assert f"{good}/ (3); left out: " in told[0]
        assert f"{bad}/ (2)" in told[0]
        assert "mask/ (2)" in told[0]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("good_crops", "bad_crops"),
        ("ok_cam1", "ng_cam1"),
        ("good_pics", "bad_pics"),
        ("crops-not-defective", "defective crops"),
        ("defect_free_march", "not_ok_march"),
        ("OK pictures", "NG pictures"),
        ("good_picture", "bad"),  # says no more than good
        ("cam1/good crops/top", "cam1/bad crops/top"),
    ],
)
@pytest.mark.parametrize("root", ["", "train/"])
def test_one_word_among_others_is_understood_where_all_else_is_the_same(root, good, bad, tmp_path):
    touch(tmp_path, f"{root}{good}/1.png", f"{root}{bad}/2.png", f"{root}{bad}/3.png")
    told = []
    found = [sample.path for sample in good_samples(tmp_path, told.append)]
    assert below(tmp_path, found) == [f"{root}{good}/1.png"]
    assert len(told) == 1
    assert "left out: " in told[0]


@pytest.mark.parametrize("masks", MASK_SPELLINGS)
def test_masks_are_never_taken_for_images(masks, tmp_path):
    touch(tmp_path, "ok/1.png", f"{masks}/ok/1.png", f"{masks}/9.png")
    assert good_samples(tmp_path, [].append) == [Sample(tmp_path / "ok/1.png", "good")]


@pytest.mark.parametrize(
    "names",
    [
        ["2026-03-01/1.png", "2026-03-02/1.png", "1.png"],
        ["camera 1/1.png", "camera 2/top/1.png"],
        ["0/1.png", "1/1.png", "2/1.png"],
        ["left/1.png", "right/1_flash.png", "label/1.png", "data/part_7/1.png"],
        ["OK/1.png", "OK/2.png"],
        ["gas_mask.png", "n95_mask.png"],  # a category, without what they would be masks of
        ["1_OK.png", "2_OK.png"],
        ["1_OK.png", "2_defect_free.png"],
        ["ok_cam1/1.png", "ok_cam2/1.png"],
        ["normal_light/1.png", "dim_light/1.png"],  # nothing speaks against any
        ["stainless/1.png", "okapi/1.png"],
    ],
)
def test_trees_of_good_images_are_taken_whole_without_a_word(names, tmp_path):
    touch(tmp_path, *names)
    told = []
    found = [sample.path for sample in good_samples(tmp_path, told.append)]
    assert sorted(below(tmp_path, found)) == sorted(names)
    assert told == []


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["train/good/1.png", "test/good/1.png", "test/poke/1.png"], "test/poke"),
        (["train/good/1.png", "test/scratch/1.png"], "test/scratch"),
        (["ground_truth/poke/1.png", "test/poke/1.png"], "test/poke"),
        (["OK/1.png", "NG/1.png"], "NG"),
        (["normal/1.png", "abnormal/1.png", "mask/1.png"], "mask"),
        (["good/1.png", "scratch/1.png"], "scratch"),
        (["test/good/1.png", "ground_truth/good/1.png"], "ground_truth/good"),
        (["test/poke/1.png", "ground_truth/poke/1.png"], "ground_truth"),
        (["train/good/1.png", "masks/1.png"], "masks"),
        (["good_crops/1.png", "bad_crops/1.png"], "bad_crops"),
        (["good/1.png", "scratch_crops/1.png"], "scratch_crops"),
    ],
)
def test_a_folder_is_judged_by_those_beside_it_too(names, source, tmp_path, monkeypatch):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="expected a folder of good images, got"):
        good_samples(tmp_path / source)
    monkeypatch.chdir(tmp_path / source)
    with pytest.raises(DataError, match="expected a folder of good images, got"):
        good_samples(".")


@pytest.mark.parametrize("beside", ["train/good/1.png", "ground_truth/poke/1.png", "masks/1.png"])
def test_a_test_folder_with_none_but_types_of_defects_is_refused(beside, tmp_path):
    touch(tmp_path, beside, "test/poke/1.png", "test/squeeze/1.png")
    with pytest.raises(DataError, match=r"only good images.*poke/ \(1\), squeeze/ \(1\)"):
        good_samples(tmp_path / "test")


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["train/good/1.png", "test/OK/1.png", "test/poke/1.png"], "test/OK"),
        (["test/parts/1.png", "other/1.png"], "test"),
        (["test/parts/1.png"], "test/parts"),  # a folder that happens to be in one called test
        (["good/1.png", "monday/1.png"], "monday"),
        (["mask/1.png"], "mask"),
        (["NG/1.png"], "NG"),
    ],
)
def test_a_folder_that_nothing_speaks_against_is_taken(names, source, tmp_path):
    touch(tmp_path, *names)
    assert [sample.path.name for sample in good_samples(tmp_path / source)] == ["1.png"]


@pytest.mark.parametrize("column", ["label", "Label", "class", "kind", "defect_type"])
def test_rows_of_defects_are_left_out_and_counted(column, tmp_path):
    labels = ["Good", "dent", "OK", "dent", "", "i.O.", "1", "0"]
    touch(tmp_path, *(f"{index}.png" for index in range(len(labels))))
    rows = [f"{index}.png,{label}" for index, label in enumerate(labels)]
    (tmp_path / "list.csv").write_text("\n".join([f"path,{column}", *rows]), encoding="utf-8")
    told = []
    found = [sample.path for sample in good_samples(tmp_path / "list.csv", told.append)]
    assert below(tmp_path, found) == ["0.png", "2.png", "5.png", "7.png"]
    assert len(told) == 1
    assert "4 rows labelled good; left out: 4 labelled 'dent' (2), '' (1), '1' (1)" in told[0]


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a/OK/1.png", "a/NG/1.png"], True),
        (["a/normal/1.png", "a/mask/1.png"], True),
        (["NG/1.png", "NG/2.png"], False),  # all in one folder: nothing tells them apart
        (["a/1.png", "b/1.png"], False),
        (["train/good/1.png", "test/good/1.png"], False),
        (["good_crops/1.png", "bad_crops/1.png"], True),
        # As where they are given as folders: beside a good one no other is taken unseen.
        (["good/1.png", "scratch/1.png"], True),
        (["good/1.png", "poke/1.png"], True),
        (["train/good/1.png", "test/poke/1.png"], True),
        (["train/good/1.png", "test/scratch/1.png"], True),
        (["good/1.png", "2.png"], True),
        (["ok_cam1/1.png", "cam1/1.png"], False),
    ],
)
def test_a_list_without_labels_must_not_name_files_of_defects(names, refused, tmp_path):
    touch(tmp_path, *names)
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    if not refused:
        assert len(good_samples(tmp_path / "list.txt")) == 2
        return
    with pytest.raises(DataError, match="got 1 that may be none") as caught:
        good_samples(tmp_path / "list.txt")
    assert names[1] in str(caught.value)


@pytest.mark.parametrize("test", ["test", "Test"])
@pytest.mark.parametrize("masks", ["ground_truth", "mask", "Masks", "gt"])
@pytest.mark.parametrize("good", ["good", "OK", "normal"])
def test_test_folders_of_other_tools_are_understood(test, masks, good, tmp_path):
    touch(tmp_path, f"{test}/{good}/1.png", f"{test}/abnormal/1.png", f"{test}/NG/1.png")
    touch(tmp_path, f"{masks}/abnormal/1.png", f"{masks}/NG/1_mask.png", f"{masks}/{good}/1.png")
    found = samples.test_samples(tmp_path)
    assert sorted(found, key=lambda sample: sample.defect_type) == [
        Sample(tmp_path / test / "NG/1.png", "NG", tmp_path / masks / "NG/1_mask.png"),
        Sample(tmp_path / test / "abnormal/1.png", "abnormal", tmp_path / masks / "abnormal/1.png"),
        Sample(tmp_path / test / good / "1.png", "good"),
    ]


@pytest.mark.parametrize(("good", "bad"), [("good_crops", "bad_crops"), ("ok_cam1", "ng_cam1")])
def test_one_word_among_others_is_understood_in_a_test_folder_too(good, bad, tmp_path):
    touch(tmp_path, f"test/{good}/1.png", f"test/{bad}/1.png")
    assert samples.test_samples(tmp_path) == [
        Sample(tmp_path / "test" / bad / "1.png", bad),
        Sample(tmp_path / "test" / good / "1.png", "good"),
    ]


def test_a_defect_type_with_a_good_word_stays_one(tmp_path):
    touch(tmp_path, "test/good/1.png", "test/normal_wear/1.png")
    found = {sample.defect_type for sample in samples.test_samples(tmp_path)}
    assert found == {"good", "normal_wear"}


def test_masks_may_lie_beside_the_types_and_straight_in_their_folder_if_there_is_one_type(tmp_path):
    touch(tmp_path, "test/normal/1.png", "test/abnormal/1.png", "test/mask/1.png")
    test = tmp_path / "test"
    defective = Sample(test / "abnormal/1.png", "abnormal", test / "mask/1.png")
    assert samples.test_samples(tmp_path) == [defective, Sample(test / "normal/1.png", "good")]
    # Of two types either could be meant.
    touch(tmp_path, "test/dent/1.png")
    with pytest.raises(DataError, match=r"mask/TYPE/NAME.*none of the test images: 1\.png"):
        samples.test_samples(tmp_path)


def test_a_mask_beside_its_image_is_no_image(tmp_path):
    touch(tmp_path, "test/good/1.png", "test/good/1_mask.png", "test/dent/1.jpg", "test/cut/2.png")
    touch(tmp_path, "test/dent/1_mask.png", "test/dent/deep/2.png", "test/dent/deep/2-gt.bmp")
    touch(tmp_path, "test/dent/3_mask.png", "ground_truth/cut/2.png")
    test = tmp_path / "test"
    assert samples.test_samples(tmp_path) == [
        Sample(test / "cut/2.png", "cut", tmp_path / "ground_truth/cut/2.png"),
        Sample(test / "dent/1.jpg", "dent", test / "dent/1_mask.png"),
        Sample(test / "dent/3_mask.png", "dent"),  # nothing says that it is one
        Sample(test / "dent/deep/2.png", "dent", test / "dent/deep/2-gt.bmp"),
        Sample(test / "good/1.png", "good"),
    ]
    touch(tmp_path, "ground_truth/dent/1.png")
    with pytest.raises(DataError, match=r"one mask, got .*dent/1\.png and .*dent/1_mask\.png"):
        samples.test_samples(tmp_path)


@pytest.mark.parametrize("called", ["none", "No", "0", "negative"])
def test_a_folder_that_may_be_of_good_parts_or_of_defects_is_refused(called, tmp_path):
    touch(tmp_path, f"test/{called}/1.png", f"test/{called}/2.png", "test/dent/1.png")
    with pytest.raises(DataError, match=rf"test: expected good .*got '{called}' \(2\)"):
        samples.test_samples(tmp_path)


@pytest.mark.parametrize("called", ["labels", "annotations", "gt"])
@pytest.mark.parametrize("other", [(), ("test/dent/000.png", "ground_truth/dent/000_mask.png")])
def test_a_defect_type_that_is_called_like_masks_is_refused(called, other, tmp_path):
    touch(tmp_path, "test/good/000.png", f"test/{called}/000.png", f"test/{called}/001.png")
    touch(tmp_path, f"ground_truth/{called}/000_mask.png", *other)
    wanted = f"got files that belong to none.*: 000.png, 001.png.*such as {called}_defect"
    with pytest.raises(DataError, match=wanted):
        samples.test_samples(tmp_path)
    (tmp_path / "test" / called).rename(tmp_path / "test" / f"{called}_defect")
    found = {sample.defect_type for sample in samples.test_samples(tmp_path)}
    assert found == {"good", f"{called}_defect", *(["dent"] if other else [])}


def test_a_data_set_without_a_split_is_not_evaluated_on_what_it_trains(tmp_path):
    touch(tmp_path, "normal/1.png", "abnormal/1.png", "mask/1.png")
    with pytest.raises(DataError, match=r"abnormal/, mask/, normal/.*has not seen into test/"):
        samples.test_samples(tmp_path)


def test_test_images_come_with_their_kind_and_mask(tmp_path):
    touch(tmp_path, "test/good/1.png", "test/dent/10.jpg", "test/dent/2.png", "test/cut/1.png")
    touch(tmp_path, "test/cut/3.png", "test/cut/set/1.png", "ground_truth/cut/set/1_mask.png")
    touch(tmp_path, "ground_truth/good/1_mask.png", "ground_truth/dent/10_mask.png")
    touch(tmp_path, "ground_truth/dent/2.BMP", "ground_truth/cut/1.png")
    touch(tmp_path, "ground_truth/cut/1_mask.tif")
    test, truth = tmp_path / "test", tmp_path / "ground_truth"
    assert samples.test_samples(tmp_path) == [
        Sample(test / "cut/1.png", "cut", truth / "cut/1_mask.tif"),
        Sample(test / "cut/3.png", "cut", None),
        Sample(test / "cut/set/1.png", "cut", truth / "cut/set/1_mask.png"),
        Sample(test / "dent/2.png", "dent", truth / "dent/2.BMP"),
        Sample(test / "dent/10.jpg", "dent", truth / "dent/10_mask.png"),
        Sample(test / "good/1.png", "good", None),
    ]


def test_test_folders_that_cannot_be_used_are_refused(tmp_path):
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"expected a folder test/.*a\.png"):
        samples.test_samples(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        samples.test_samples(tmp_path / "missing")
    touch(tmp_path, "test/1.png")
    with pytest.raises(DataError, match="straight in test/"):
        samples.test_samples(tmp_path)


@given(
    count=st.integers(0, 60),
    fraction=st.floats(0, 1),
    minimum=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_split_keeps_every_sample_once_in_order(count, fraction, minimum, seed):
    images = [Sample(Path(f"{index:03}.png"), "good") for index in range(count)]
    training, held = split_calibration(images, fraction=fraction, minimum=minimum, seed=seed)
    expected = max(int(count * fraction + 0.5), minimum)
    assert abs(len(held) - min(expected, count // 2)) <= (count * fraction % 1 == 0.5)
    assert sorted([*training, *held], key=lambda sample: sample.path) == images
    for part in (training, held):
        assert part == sorted(part, key=lambda sample: sample.path)


def test_the_split_depends_on_the_seed_and_not_on_the_folder():
    def names(root: str, seed: int) -> list[str]:
        images = [Sample(Path(root, f"{index}.png"), "good") for index in range(100)]
        _, held = split_calibration(images, fraction=0.1, minimum=10, seed=seed)
        return [sample.path.name for sample in held]

    assert names("/a", 0) == names("/somewhere/else", 0)
    assert len({tuple(names("/a", seed)) for seed in range(5)}) == 5


def test_a_folder_that_may_not_be_read_is_an_error_not_a_gap(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png")
    listed = os.scandir

    def denied(folder):  # said here, since root may read everything
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="closed: expected a readable folder"):
        find_images(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
@pytest.mark.parametrize("name", ["mvtec/bottle", "mvtec/grid", "mtd"])
def test_the_real_folders_are_understood(name):
    root = DATA / name
    on_disk = {path.name for path in (root / "train/good").iterdir()}
    assert {sample.path.name for sample in good_samples(root)} == on_disk
    found = samples.test_samples(root)
    kinds = [folder for folder in (root / "test").iterdir() if folder.is_dir()]
    assert len(found) == sum(len(list(kind.iterdir())) for kind in kinds)
    assert all((sample.mask is not None) == sample.is_defective for sample in found)
    masks = {sample.mask for sample in found if sample.mask is not None}
    assert masks == set((root / "ground_truth").glob("*/*"))


# --- which files of a folder are images

JPEG_HEAD = b"\xff\xd8\xff\xe0" + bytes(20)
HEIC_HEAD = b"\0\0\0\x18ftypheic" + bytes(20)


def test_an_image_is_what_its_name_or_else_its_content_says_is_one(tmp_path, caplog):
    contents = {
        **dict.fromkeys(["1.jfif", "2.JPE", "3.Tif", "4", "cam.0005", "6.dat"], JPEG_HEAD),
        **dict.fromkeys(["7.heic", "8.GIF", "9.avif", "10.CR2", "11.dng"], b"x"),
        **dict.fromkeys(["12", "13.bin"], HEIC_HEAD),
        **dict.fromkeys(["a.txt", "b.json", "Thumbs.db", "c.png.tmp", "d.png~"], JPEG_HEAD),
        **dict.fromkeys(["Makefile", "BMW", "empty"], b"BMW is no bitmap"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "14.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "15").symlink_to(tmp_path / "gone folder")
    (tmp_path / "e.txt").symlink_to(tmp_path / "gone.txt")
    found = below(tmp_path, find_images(tmp_path))
    images = [*list(contents)[:13], "14.png", "15"]
    assert sorted(found) == sorted(images)
    # What no name explains is told, in one line.
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out what is no image: BMW, Makefile, empty"
    ]
    # By its name each is what it is in the folder.
    for name in images[:13]:
        assert find_images(tmp_path / name) == [tmp_path / name]


def test_what_cannot_be_read_in_a_folder_says_what_it_is(tmp_path):
    (tmp_path / "1.heic").write_bytes(HEIC_HEAD)
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    reasons = []
    for path in find_images(tmp_path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        reasons.append(caught.value.reason)
    assert "got HEIC, which is not read; convert it" in reasons[0]
    assert "got a link to nothing" in reasons[1]


def test_files_whose_suffix_is_known_are_not_opened(tmp_path, monkeypatch):
    touch(tmp_path, "1.png", "2.jfif", "3.heic", "4.txt", "5.json")

    def refuse(path):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(folders, "head_of", refuse)
    assert below(tmp_path, find_images(tmp_path)) == ["1.png", "2.jfif", "3.heic"]
