"""Which images belong together, and that whole groups are kept from training."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import write_images
from destseg.config import Settings
from destseg.data.alike import CONTRAST, LEVELS, SIDE, alike
from destseg.data.groups import day_taken, group_names
from destseg.data.images import resize
from destseg.data.samples import Sample, find_images, split_calibration
from destseg.errors import DataError, ImageError, SettingsError


def write(path: Path, taken: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if taken is not None:
        exif[0x0112] = 1
        exif[0x8769] = {0x9003: taken}
    Image.new("RGB", (40, 30), (9, 99, 199)).save(path, exif=exif)
    return path


def names(source: Path, group_by: str) -> list[str] | None:
    settings = Settings.from_preset(group_by=group_by).data
    return group_names([(source, find_images(source))], settings)


# --- what a group is


def test_by_default_each_image_counts_by_itself(tmp_path):
    write(tmp_path / "a.png")
    assert names(tmp_path, "image") is None
    assert Settings().data.group_by == "image"


def test_a_folder_is_called_as_it_lies_in_the_source_and_the_source_by_its_own_name(tmp_path):
    for each in ("days/mon/1.png", "days/tue/cam/1.png", "days/2.png"):
        write(tmp_path / each)
    assert names(tmp_path / "days", "folder") == ["days", "mon", "tue/cam"]
    # So a day that is given alone later has the name that it would have had.
    assert names(tmp_path / "days/mon", "folder") == ["mon"]
    assert names(tmp_path / "days/mon/1.png", "folder") == ["mon"]


@pytest.mark.parametrize("own", ["ok", "good", "train/good"])
def test_a_folder_that_is_only_called_good_has_the_name_of_the_one_above(tmp_path, own):
    for day in ("mon", "tue"):
        write_images(tmp_path / "days" / day / own, 1)
    assert names(tmp_path / "days", "folder") == [f"mon/{own}", f"tue/{own}"]
    assert names(tmp_path / "days/mon", "folder") == [f"mon/{own}"]
    assert names(tmp_path / "days/tue" / own, "folder") == [f"tue/{own}"]


def test_a_folder_is_one_however_it_is_spelled(tmp_path, monkeypatch):
    for number in range(4):
        write(tmp_path / f"days/d{number // 2}/{number}.png")
    (tmp_path / "linked").symlink_to(tmp_path / "days")
    monkeypatch.chdir(tmp_path)
    rows = ["days/d0/0.png", f"{tmp_path}/days/d0/1.png", "days/../days/d1/2.png"]
    (tmp_path / "list.txt").write_text("\n".join([*rows, f"{tmp_path}/linked/d1/3.png"]))
    for source in (Path("list.txt"), tmp_path / "list.txt"):
        assert names(source, "folder") == ["days/d0", "days/d0", "days/d1", "days/d1"]


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    paths = [write(tmp_path / f"{each}/cam/1.png") for each in ("a", "b", "c/deep/a")]
    write(tmp_path / "lists/other/1.png")
    (tmp_path / "lists/all.txt").write_text("\n".join(map(str, [*paths, "other/1.png"])))
    called = [f"{tmp_path.name}/a/cam", "b/cam", "deep/a/cam"]
    assert names(tmp_path / "lists/all.txt", "folder") == [*called, "other"]
    settings = Settings.from_preset(group_by="folder").data
    alone = [(path.parent, [path]) for path in paths]
    assert group_names(alone, settings) == called


def test_a_pattern_gives_its_first_group_or_all_that_it_matches(tmp_path):
    for each in ("exp1_num_7.jpg", "exp2_num_7.jpg", "exp1_num_12.jpg"):
        write(tmp_path / each)
    assert [path.name for path in find_images(tmp_path)][1] == "exp1_num_12.jpg"
    assert names(tmp_path, r"name:num_(\d+)") == ["7", "12", "7"]
    assert names(tmp_path, r"name:exp\d") == ["exp1", "exp1", "exp2"]
    with pytest.raises(DataError, match=r"a name that has 'num_\(1.\)'.* 2 of 3: .*exp1_num_7"):
        names(tmp_path, "name:num_(1.)")
    with pytest.raises(DataError, match="of 3 of 3"):
        names(tmp_path, "name:num_(x?)")  # matches, but gives no name


def test_a_column_of_the_list_names_the_groups(tmp_path):
    for each in ("a.png", "b.png", "c.png"):
        write(tmp_path / "images" / each)
    table = tmp_path / "list.csv"
    table.write_text("path,Lot\nimages/b.png,L2\nimages/a.png,L1\nimages/c.png,L2\n")
    assert names(table, "column:Lot") == names(table, "column:lot") == ["L2", "L1", "L2"]
    with pytest.raises(DataError, match="expected columns named shift, got path, lot"):
        names(table, "column:shift")
    table.write_text("path,lot\nimages/b.png,\nimages/a.png,L1\n")
    with pytest.raises(DataError, match=r"a cell in the column 'lot' .*1 of 2: .*b\.png"):
        names(table, "column:lot")
    table.write_text("path,lot\nimages/b.png,L1\nimages/../images/b.png,L2\n")
    with pytest.raises(DataError, match="one 'lot' an image, got 'L1' and 'L2'"):
        names(table, "column:lot")
    with pytest.raises(DataError, match=r"expected a list with a column 'lot' \(\.csv\)"):
        names(tmp_path / "images", "column:lot")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_the_day_is_that_of_the_exposure(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}", "2026:11:27 23:59:59")
    assert day_taken(path) == "2026-11-27"
    assert names(tmp_path, "day") == ["2026-11-27"]


@pytest.mark.parametrize("taken", [None, "", "0000:00:00 00:00:00", "yesterday"])
def test_an_image_without_a_day_is_named(taken, tmp_path):
    """The file's own time is no answer: a copy has another one."""
    write(tmp_path / "a.jpg", "2026:11:27 08:00:00")
    write(tmp_path / "b.jpg", taken)
    with pytest.raises(DataError, match=r"EXIF, DateTimeOriginal.* 1 of 2: .*b\.jpg.*--group-by"):
        names(tmp_path, "day")


def test_what_is_no_image_has_no_day(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        names(tmp_path, "day")


@pytest.mark.parametrize("wrong", ["", "Folder", "name:", "name:(", "column:", "day:1", "lot", 3])
def test_other_groupings_are_refused(wrong):
    with pytest.raises(SettingsError, match="--group-by: expected image, folder, day, alike, name"):
        Settings.from_preset(group_by=wrong)


# --- the same part again


def brute_force(images: list[np.ndarray]) -> list[int]:
    """Every pair, and labels spread until nothing changes."""
    small = [resize(image, (SIDE, SIDE)).astype(float) for image in images]
    limits = [min(LEVELS, CONTRAST * one.std()) for one in small]
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(small)), 2)
        if np.abs(small[a] - small[b]).mean() <= min(limits[a], limits[b])
    ]
    label = list(range(len(small)))
    for _ in small:
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    return label


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 4), contrast=st.floats(0, 60))
def test_what_looks_alike_is_found_as_by_comparing_every_pair(seed, noise, contrast):
    random = np.random.default_rng(seed)
    parts = 120 + contrast * random.standard_normal((4, 32, 40, 3))
    images = [
        np.clip(parts[random.integers(4)] + noise * random.standard_normal((32, 40, 3)), 0, 255)
        for _ in range(12)
    ]
    images = [image.astype(np.uint8) for image in images]
    assert alike(images) == brute_force(images)


def test_the_same_part_again_is_one_group_and_plain_surfaces_are_not(tmp_path):
    random = np.random.default_rng(0)
    parts = random.integers(0, 256, (3, 16, 16, 3)).repeat(4, 1).repeat(4, 2)
    for number, part in enumerate([0, 1, 0, 2, 0]):
        again = np.clip(parts[part] + random.normal(0, 2, (64, 64, 3)), 0, 255)
        Image.fromarray(again.astype(np.uint8)).save(tmp_path / f"{number}.png")
    called = [(tmp_path / f"{number}.png").as_posix() for number in (0, 1, 0, 3, 0)]
    assert names(tmp_path, "alike") == called
    plain = [np.full((64, 64, 3), 100, np.uint8) + np.uint8(n % 2) for n in range(4)]
    assert alike(plain) == [0, 1, 0, 1]  # equal copies are, others are not
    assert alike([]) == []


# --- whole groups


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    fraction=st.floats(0, 1),
    minimum=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_group_is_divided_and_as_many_as_asked_for_calibrate(sizes, fraction, minimum, seed):
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    groups = np.random.default_rng(seed).permutation(groups).tolist()
    images = [Sample(Path(f"{index:03}.png"), "good") for index in range(len(groups))]
    of = dict(zip(images, groups, strict=True))
    training, chosen = split_calibration(
        images, fraction=fraction, minimum=minimum, seed=seed, groups=groups
    )
    assert sorted([*training, *chosen], key=lambda sample: sample.path) == images
    assert not {of[each] for each in training} & {of[each] for each in chosen}
    assert len(chosen) <= len(images) // 2
    wanted = min(max(round(fraction * len(images)), minimum), len(images) // 2)
    left = [groups.count(name) for name in {of[each] for each in training}]
    # Enough, or no other group fits.
    assert len(chosen) >= wanted or len(chosen) + min(left) > len(images) // 2
    assert bool(chosen) == (len(sizes) > 1)


def test_which_groups_calibrate_hangs_on_the_seed():
    groups = [f"day {number // 10}" for number in range(100)]
    images = [Sample(Path(f"{index}.png"), "good") for index in range(100)]

    def chosen(seed: int) -> str:
        _, found = split_calibration(images, fraction=0.1, minimum=10, seed=seed, groups=groups)
        return " ".join(sorted({groups[images.index(each)] for each in found}))

    assert chosen(0) == chosen(0)
    assert len({chosen(seed) for seed in range(10)}) > 3
