import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from destseg.config import DamageSettings, DataSettings
from destseg.errors import DataError
from destseg.training.loaders import Batches, GoodPictures, batch_indices, rotate

SMALL = DataSettings(image_size=64)


def pictures_of(folder):
    return sorted(folder.glob("*.png"))


# ---- which pictures a step sees


@pytest.mark.parametrize(("n", "batch"), [(7, 3), (10, 10), (3, 8), (5, 1)])
def test_every_picture_is_seen_equally_often(n, batch):
    drawn = [i for step in range(n) for i in batch_indices(n, batch, step, seed=0, phase="denoise")]
    assert Counter(drawn) == dict.fromkeys(range(n), batch)
    for epoch in range(batch):
        assert sorted(drawn[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_batches_depend_on_seed_phase_and_step_only():
    def indices(step=0, seed=0, phase="denoise"):
        return batch_indices(50, 20, step, seed=seed, phase=phase)

    assert indices() == indices()
    later = indices(7)
    assert [indices(step) for step in range(9)][7] == later
    assert (
        len({tuple(i) for i in (indices(), indices(1), indices(seed=1), indices(phase="segment"))})
        == 4
    )
    assert indices(0) != list(range(20))
    # The second epoch has another order than the first.
    first, second = ([i for s in range(k, k + 5) for i in indices(s)][:50] for k in (0, 5))
    assert first != second


# ---- how they are turned


def turns(rotation, picture, n=200):
    draw = np.random.default_rng(0)
    return [rotate(picture, rotation, draw) for _ in range(n)]


def test_no_rotation_leaves_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert all(np.array_equal(turned, picture) for turned in turns("none", picture, 5))


def angle_of(turned):
    """Return the direction of the bright spot seen from the centre, in degrees."""
    light = turned[..., 0].astype(float) - 114
    y, x = np.argwhere(light > 60).mean(0) - 50
    return np.degrees(np.arctan2(y, x))


def spot():
    """A grey picture (the corners' grey) with a bright spot at the middle of the right side."""
    picture = np.full((101, 101, 3), 114, np.uint8)
    picture[47:54, 82:89] = 255
    return picture


def test_tilt_is_up_to_five_degrees_either_way():
    angles = np.array([angle_of(turned) for turned in turns("tilt", spot())])
    assert -5.3 <= angles.min() < -4.5
    assert 4.5 < angles.max() <= 5.3
    assert abs(angles.mean()) < 0.6
    assert 2.4 < angles.std() < 3.4  # uniform: 10 / sqrt(12)


def test_turn_is_a_quarter_turn_and_a_tilt():
    angles = np.array([angle_of(turned) for turned in turns("turn", spot(), 400)])
    quarters = np.round(angles / 90)
    rest = angles - 90 * quarters
    assert np.abs(rest).max() <= 5.3
    assert rest.std() > 2.4
    counts = Counter((quarters % 4).tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 60


@pytest.mark.parametrize("rotation", ["tilt", "turn"])
def test_new_corners_are_grey_114(rotation):
    white = np.full((101, 101, 3), 255, np.uint8)
    for turned in turns(rotation, white, 20):
        assert turned.dtype == np.uint8
        assert turned.shape == white.shape
        assert (turned[40:60, 40:60] == 255).all()
        assert turned.min() >= 114
    strongest = min(turns(rotation, white), key=np.sum)
    assert (strongest[0, 0] == 114).all()


# ---- pictures in memory


def test_pictures_are_read_at_the_settings_size(parts):
    paths = pictures_of(parts)
    pictures = GoodPictures(paths, DataSettings(image_size=96))
    assert pictures.paths == paths
    assert len(pictures) == 12
    expected = Image.open(paths[3]).resize((96, 96), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pictures[3], np.array(expected))


def test_progress_is_told_for_every_picture(parts):
    told = []
    GoodPictures(pictures_of(parts), SMALL, on_progress=told.append)
    assert told == list(range(1, 13))


@pytest.fixture
def some_unreadable(parts, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(parts, folder)
    (folder / "000.png").write_bytes(b"no picture")
    half = (folder / "005.png").read_bytes()[:2000]
    (folder / "005.png").write_bytes(half)
    return folder


def test_unreadable_pictures_are_listed_together(some_unreadable):
    with pytest.raises(DataError) as caught:
        GoodPictures(pictures_of(some_unreadable), SMALL)
    message = str(caught.value)
    assert "2 of 12 pictures cannot be read" in message
    assert str(some_unreadable / "000.png") in message
    assert str(some_unreadable / "005.png") in message
    assert "--skip-unreadable" in message


def test_unreadable_pictures_can_be_skipped(some_unreadable):
    paths = pictures_of(some_unreadable)
    pictures = GoodPictures(paths, DataSettings(image_size=64, skip_unreadable=True))
    readable = [path for path in paths if path.name not in ("000.png", "005.png")]
    assert pictures.paths == readable
    assert [Path(error.path).name for error in pictures.unreadable] == ["000.png", "005.png"]
    for index, path in enumerate(readable):
        np.testing.assert_array_equal(pictures[index], np.array(Image.open(path)))


THREE_FIT = 3.5 * 64 * 64 * 3 / 2**30


def test_a_small_cache_gives_the_same_pictures(parts, caplog):
    everything = GoodPictures(pictures_of(parts), SMALL)
    assert not caplog.records
    few = GoodPictures(pictures_of(parts), DataSettings(image_size=64, cache_gib=THREE_FIT))
    assert "3 of 12 pictures fit into --cache-gib" in caplog.text
    none = GoodPictures(pictures_of(parts), DataSettings(image_size=64, cache_gib=0))
    for index in range(12):
        np.testing.assert_array_equal(few[index], everything[index])
        np.testing.assert_array_equal(none[index], everything[index])


@pytest.mark.parametrize("cache_gib", [4.0, THREE_FIT, 0.0])
def test_a_part_of_the_pictures_keeps_them_in_order(parts, cache_gib):
    paths = pictures_of(parts)
    chosen = [paths[9], paths[1], paths[2], paths[6]]
    part = GoodPictures(paths, DataSettings(image_size=64, cache_gib=cache_gib)).only(chosen)
    assert part.paths == sorted(chosen)
    for index, path in enumerate(sorted(chosen)):
        np.testing.assert_array_equal(part[index], np.array(Image.open(path)))


def test_cached_pictures_are_not_read_again(parts, tmp_path):
    folder = tmp_path / "gone"
    shutil.copytree(parts, folder)
    pictures = GoodPictures(pictures_of(folder), DataSettings(image_size=64, cache_gib=THREE_FIT))
    shutil.rmtree(folder)
    assert [pictures[index].shape for index in range(3)] == [(64, 64, 3)] * 3
    with pytest.raises(DataError, match=r"003\.png"):
        pictures[3]


# ---- batches


def batches(parts, *, cache_gib=4.0, seed=0, rotation="turn", batch_size=4):
    random = np.random.default_rng(5)
    return Batches(
        GoodPictures(pictures_of(parts), DataSettings(image_size=64, cache_gib=cache_gib)),
        torch.from_numpy(random.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)),
        rotation=rotation,
        damage_settings=DamageSettings(),
        batch_size=batch_size,
        seed=seed,
        device=torch.device("cpu"),
    )


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_is_pictures_damage_and_masks(parts):
    made = batches(parts, rotation="none")
    clean, damaged, masks = made.make("denoise", 2)
    assert (clean.dtype, damaged.dtype, masks.dtype) == (torch.uint8, torch.float32, torch.float32)
    assert clean.shape == damaged.shape == (4, 3, 64, 64)
    assert masks.shape == (4, 1, 64, 64)
    paths = pictures_of(parts)
    for picture, index in zip(clean, batch_indices(12, 4, 2, seed=0, phase="denoise"), strict=True):
        np.testing.assert_array_equal(picture.permute(1, 2, 0), np.array(Image.open(paths[index])))
    assert set(masks.unique().tolist()) == {0, 1}
    hit = masks.bool().expand_as(clean)
    assert torch.equal(damaged[~hit], clean[~hit].float())
    assert (damaged[hit] != clean[hit]).float().mean() > 0.9
    assert clean.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_is_a_function_of_seed_phase_and_step(parts):
    base = batches(parts).make("denoise", 3)
    other = batches(parts)
    other.make("segment", 0)
    assert equal(base, other.make("denoise", 3))
    for different in (
        other.make("denoise", 4),
        other.make("segment", 3),
        batches(parts, seed=1).make("denoise", 3),
    ):
        assert not torch.equal(base[0], different[0])
        assert not torch.equal(base[2], different[2])


def test_the_same_picture_is_turned_and_damaged_differently_each_time(parts):
    made = batches(parts, batch_size=12)
    first, second = made.make("denoise", 0), made.make("denoise", 1)
    order = [batch_indices(12, 12, step, seed=0, phase="denoise").index(0) for step in (0, 1)]
    for number in range(3):
        assert not torch.equal(first[number][order[0]], second[number][order[1]])


def test_batches_do_not_look_at_torchs_global_state(parts):
    torch.manual_seed(0)
    first = batches(parts).make("denoise", 0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert equal(first, batches(parts).make("denoise", 0))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("cache_gib", [THREE_FIT, 0.0])
def test_the_cache_does_not_change_batches(parts, cache_gib):
    few, everything = batches(parts, cache_gib=cache_gib), batches(parts)
    for step in range(4):
        assert equal(few.make("segment", step), everything.make("segment", step))


@pytest.mark.parametrize("steps", [range(0, 4), range(2, 5), range(3, 4), range(0), range(3, 3)])
def test_the_stream_is_the_batches_one_by_one(parts, steps):
    made = batches(parts)
    streamed = list(made.stream("segment", steps))
    assert len(streamed) == len(steps)
    for step, batch in zip(steps, streamed, strict=True):
        assert equal(batch, made.make("segment", step))


def test_a_picture_that_vanishes_while_streaming_is_an_error(parts, tmp_path):
    folder = tmp_path / "vanishing"
    shutil.copytree(parts, folder)
    stream = batches(folder, cache_gib=0.0).stream("denoise", range(5))
    next(stream)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="nothing there"):
        list(stream)
