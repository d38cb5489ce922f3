import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from destseg.config import UNCHANGED, DataSettings, SynthesisSettings
from destseg.data.decoded import GoodImages
from destseg.data.noise import UsualNoise, noise_of
from destseg.data.noise_filter import without_noise
from destseg.data.roi import Roi
from destseg.errors import DataError
from destseg.synthesis.batches import Batches, batch_indices

SMALL = DataSettings(image_size=64)


def images_of(folder):
    return sorted(folder.glob("*.png"))


# ---- which images a step sees


@pytest.mark.parametrize(("n", "batch"), [(7, 3), (10, 10), (3, 8), (5, 1)])
def test_every_image_is_seen_equally_often(n, batch):
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


# ---- images in memory


def test_images_are_read_at_the_settings_size(parts):
    paths = images_of(parts)
    images = GoodImages(paths, DataSettings(image_size=96))
    assert images.paths == paths
    assert len(images) == 12
    expected = Image.open(paths[3]).resize((96, 96), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[3], np.array(expected))


def test_progress_is_told_for_every_image(parts):
    told = []
    GoodImages(images_of(parts), SMALL, on_progress=told.append)
    assert told == list(range(1, 13))


@pytest.fixture
def some_unreadable(parts, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(parts, folder)
    (folder / "000.png").write_bytes(b"no image")
    half = (folder / "005.png").read_bytes()[:2000]
    (folder / "005.png").write_bytes(half)
    return folder


def test_unreadable_images_are_listed_together(some_unreadable):
    with pytest.raises(DataError) as caught:
        GoodImages(images_of(some_unreadable), SMALL)
    message = str(caught.value)
    assert "2 of 12 images cannot be read" in message
    assert str(some_unreadable / "000.png") in message
    assert str(some_unreadable / "005.png") in message
    assert "--skip-unreadable" in message


def test_unreadable_images_can_be_skipped(some_unreadable):
    paths = images_of(some_unreadable)
    images = GoodImages(paths, DataSettings(image_size=64, skip_unreadable=True))
    readable = [path for path in paths if path.name not in ("000.png", "005.png")]
    assert images.paths == readable
    assert [Path(error.path).name for error in images.unreadable] == ["000.png", "005.png"]
    for index, path in enumerate(readable):
        np.testing.assert_array_equal(images[index], np.array(Image.open(path)))


THREE_FIT = 3.5 * 64 * 64 * 3 / 2**30


def test_a_small_cache_gives_the_same_images(parts, caplog):
    everything = GoodImages(images_of(parts), SMALL)
    assert not caplog.records
    few = GoodImages(images_of(parts), DataSettings(image_size=64, cache_gib=THREE_FIT))
    assert "3 of 12 images fit into --cache-gib" in caplog.text
    none = GoodImages(images_of(parts), DataSettings(image_size=64, cache_gib=0))
    for index in range(12):
        np.testing.assert_array_equal(few[index], everything[index])
        np.testing.assert_array_equal(none[index], everything[index])


@pytest.mark.parametrize("cache_gib", [4.0, THREE_FIT, 0.0])
def test_a_part_of_the_images_keeps_them_in_order(parts, cache_gib):
    paths = images_of(parts)
    chosen = [paths[9], paths[1], paths[2], paths[6]]
    part = GoodImages(paths, DataSettings(image_size=64, cache_gib=cache_gib)).only(chosen)
    assert part.paths == sorted(chosen)
    for index, path in enumerate(sorted(chosen)):
        np.testing.assert_array_equal(part[index], np.array(Image.open(path)))


def test_cached_images_are_not_read_again(parts, tmp_path):
    folder = tmp_path / "gone"
    shutil.copytree(parts, folder)
    images = GoodImages(images_of(folder), DataSettings(image_size=64, cache_gib=THREE_FIT))
    shutil.rmtree(folder)
    assert [images[index].shape for index in range(3)] == [(64, 64, 3)] * 3
    with pytest.raises(DataError, match=r"003\.png"):
        images[3]


# ---- batches


STRAIGHT = {"rotation": 0.0, "quarter_turns": False}
ASKEW = {"rotation": 5.0, "quarter_turns": False}
ANY_WAY = {"rotation": 5.0, "quarter_turns": True}


RED = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 64, 64)


def textures():
    random = np.random.default_rng(5)
    return torch.from_numpy(random.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))


def batches(parts, *, cache_gib=4.0, rotation=ANY_WAY, shown=None, synthesis=None, **options):
    """Return batches of small parts; of ``options`` those that ``Batches`` has."""
    return Batches(
        GoodImages(images_of(parts), DataSettings(image_size=64, cache_gib=cache_gib)),
        textures() if shown is None else shown,
        **rotation,
        synthesis=SynthesisSettings(**{"line_probability": 0.0, **(synthesis or {})}),
        device=torch.device("cpu"),
        **{"batch_size": 4, "seed": 0, **options},
    )


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_is_images_anomalies_and_masks(parts):
    made = batches(parts, rotation=STRAIGHT)
    clean, anomalous, masks, _ = made.make("denoise", 2)
    assert (clean.dtype, anomalous.dtype, masks.dtype) == (
        torch.uint8,
        torch.float32,
        torch.float32,
    )
    assert clean.shape == anomalous.shape == (4, 3, 64, 64)
    assert masks.shape == (4, 1, 64, 64)
    paths = images_of(parts)
    for image, index in zip(clean, batch_indices(12, 4, 2, seed=0, phase="denoise"), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.array(Image.open(paths[index])))
    assert set(masks.unique().tolist()) == {0, 1}
    hit = masks.bool().expand_as(clean)
    assert torch.equal(anomalous[~hit], clean[~hit].float())
    assert (anomalous[hit] != clean[hit]).float().mean() > 0.9
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


@pytest.mark.parametrize(
    ("phase", "perlin_units"), [("denoise", "cells"), ("denoise", "pixels"), ("segment", "cells")]
)
@pytest.mark.parametrize("processes", [2, 3, 6])
def test_shares_of_a_batch_are_its_parts(parts, phase, perlin_units, processes):
    options = {"batch_size": 6, "synthesis": {"perlin_units": perlin_units}}
    whole = batches(parts, **options).make(phase, 5)
    size = 6 // processes
    shares = [
        batches(parts, share=slice(k * size, (k + 1) * size), **options) for k in range(processes)
    ]
    made = [each.make(phase, 5) for each in shares]
    assert equal(whole, [torch.cat(some) for some in zip(*made, strict=True)])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_phase_2_gives_some_images_regions_of_other_good_ones(parts, probability):
    """The textures are red, the parts are not: what has no red in it comes from a part."""
    wanted = {"cutpaste_probability": probability, "opacity": (1.0, 1.0)}
    made = batches(parts, batch_size=12, shown=RED, synthesis=wanted)
    found = []
    for step in range(8):
        clean, anomalous, masks, broad = made.make("segment", step)
        hit = masks.bool().expand_as(clean)
        assert torch.equal(anomalous[~hit], clean[~hit].float())
        assert anomalous.is_contiguous(memory_format=torch.channels_last)
        red = (anomalous[:, 0] == 255) & (anomalous[:, 1] == 0) & masks[:, 0].bool()
        seen = masks.flatten(1).any(1)
        assert torch.equal(broad[seen], ~red.flatten(1).any(1)[seen])
        found += broad[seen].tolist()
    assert len(found) > 80
    assert sum(found) / len(found) == pytest.approx(probability, abs=0.12)


@pytest.mark.parametrize("phase", ["denoise", "segment"])
def test_some_anomalies_are_lines_and_all_others_what_they_are_without(parts, phase):
    make = {"batch_size": 12, "shown": RED}
    without, some, every = (
        batches(parts, synthesis={"line_probability": p, "cutpaste_probability": 0.3}, **make)
        for p in (0.0, 0.4, 1.0)
    )
    lines = []
    for step in range(8):
        plain, mixed, whole = (each.make(phase, step) for each in (without, some, every))
        assert torch.equal(plain.clean, mixed.clean)
        assert torch.equal(plain.broad, mixed.broad)
        for k in range(12):
            kept = torch.equal(plain.anomalous[k], mixed.anomalous[k])
            assert kept or torch.equal(mixed.anomalous[k], whole.anomalous[k])
            assert torch.equal((plain if kept else whole).masks[k], mixed.masks[k])
            if not mixed.broad[k]:
                lines.append(not kept)
    assert np.mean(lines) == pytest.approx(0.4, abs=0.12)


def test_lines_of_a_share_are_those_of_the_whole(parts):
    wanted = {"batch_size": 6, "synthesis": {"line_probability": 0.6}}
    whole = batches(parts, **wanted).make("denoise", 3)
    shares = [batches(parts, share=slice(3 * k, 3 * k + 3), **wanted) for k in (0, 1)]
    made = [each.make("denoise", 3) for each in shares]
    assert equal(whole, [torch.cat(some) for some in zip(*made, strict=True)])


@pytest.mark.parametrize("phase", ["denoise", "segment"])
@pytest.mark.parametrize("instead", ["line_probability", "cutpaste_probability"])
def test_what_is_shown_without_an_anomaly_stays_good(parts, phase, instead):
    wanted = {"anomaly_probability": 0.5, "line_probability": 0.0, "cutpaste_probability": 0.0}
    made = batches(parts, batch_size=12, synthesis=wanted)
    other = batches(parts, batch_size=12, synthesis={**wanted, instead: 1.0})
    for step in range(6):
        good = ~made.make(phase, step).masks.flatten(1).any(1)
        clean, anomalous, masks, broad = other.make(phase, step)
        assert 1 < good.sum() < 11
        assert torch.equal(anomalous[good], clean[good].float())
        assert not masks[good].any()
        assert not broad[good].any()
        assert masks[~good].flatten(1).any(1).float().mean() > 0.6


def camera(**changes):
    return dataclasses.replace(UNCHANGED, **changes)


@pytest.mark.parametrize("phase", ["denoise", "segment"])
def test_the_cameras_noise_lies_on_anomalies_as_on_the_part(parts, phase):
    """Over a red texture, which has none of its own."""
    wanted = {"opacity": (1.0, 1.0), "cutpaste_probability": 0.3}
    make = {"batch_size": 12, "shown": RED // 2, "synthesis": wanted, "rotation": STRAIGHT}
    noisy = batches(parts, variation=camera(noise=6.0), **make)
    noise = []
    for step in range(8):
        clean, anomalous, masks, broad = noisy.make(phase, step)
        for k in torch.nonzero(~broad)[:, 0].tolist():
            hit = masks[k].bool().expand_as(clean[k])
            assert torch.equal(anomalous[k][~hit], clean[k][~hit].float())  # the same noise
            if hit.any():
                noise.append(float((anomalous[k, 0][masks[k, 0].bool()] - 127).abs().mean()))
    assert 0.2 < np.mean(np.array(noise) > 0) < 0.45  # a third of the images has noise
    assert 2.5 < max(noise) < 6


def test_a_blurred_image_has_blurred_anomalies(parts):
    wanted = {"opacity": (1.0, 1.0)}
    make = {"batch_size": 12, "shown": RED, "synthesis": wanted, "rotation": STRAIGHT}
    sharp = batches(parts, variation=camera(noise=1e-9), **make).make("denoise", 0)
    soft = batches(parts, variation=camera(defocus=3.0), **make).make("denoise", 0)
    assert torch.equal(sharp.masks, soft.masks)
    edges = [(each.anomalous[:, :, 1:] - each.anomalous[:, :, :-1]).abs() for each in (sharp, soft)]
    steepest = [each.amax((1, 2, 3)) for each in edges]
    assert (steepest[1] < 0.8 * steepest[0]).any()


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_a_batch_have_the_cameras_changes_of_the_whole(parts, processes):
    options = {"batch_size": 6, "variation": camera(noise=3.0, jpeg_quality=60)}
    whole = batches(parts, **options).make("segment", 5)
    size = 6 // processes
    made = [
        batches(parts, share=slice(k * size, (k + 1) * size), **options).make("segment", 5)
        for k in range(processes)
    ]
    assert equal(whole, [torch.cat(some) for some in zip(*made, strict=True)])


def test_the_same_image_is_turned_and_changed_differently_each_time(parts):
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


# ---- crops of large images


TILES = DataSettings(image_size=64, tile=True)


@pytest.fixture
def large(tmp_path):
    """Good images of several sizes, one of them narrower than a tile."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (100, 90), (200, 70), (40, 80), (96, 160)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_with_tiles_images_keep_their_size(large):
    images = GoodImages(images_of(large), TILES)
    shapes = [images[k].shape[:2] for k in range(5)]
    assert shapes == [(64, 64), (100, 90), (200, 70), (64, 128), (96, 160)]
    np.testing.assert_array_equal(images[1], np.array(Image.open(large / "1.png")))
    enlarged = Image.open(large / "3.png").resize((128, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[3], np.array(enlarged))


def test_the_cache_counts_what_images_really_take(large, caplog):
    room = (64 * 64 + 100 * 90 + 200 * 70) * 3
    for spare, held in ((-1, 2), (0, 3), (64 * 128 * 3 - 1, 3), (64 * 128 * 3, 4)):
        caplog.clear()
        settings = DataSettings(image_size=64, tile=True, cache_gib=(room + spare) / 2**30)
        few = GoodImages(images_of(large), settings)
        assert f"{held} of 5 images fit" in caplog.text
        for index in range(5):
            np.testing.assert_array_equal(few[index], GoodImages(images_of(large), TILES)[index])


def test_an_image_too_narrow_for_tiles_is_listed(large):
    pixels = np.zeros((3, 300, 3), np.uint8)
    Image.fromarray(pixels).save(large / "narrow.png")
    settings = DataSettings(image_size=64, tile=True, max_pixels=100_000)
    with pytest.raises(DataError, match=r"1 of 6 .*\n.*narrow\.png: .*scaled up"):
        GoodImages(images_of(large), settings)


def crops(folder, *, rotation=STRAIGHT, roi=None, **options):
    made = DataSettings(image_size=64, tile=True, **options)
    return Batches(
        GoodImages(images_of(folder), made),
        textures(),
        **rotation,
        synthesis=SynthesisSettings(),
        batch_size=5,
        seed=0,
        device=torch.device("cpu"),
        roi=roi,
    )


def padded_batches(folder, *, roi=None, **options):
    made = DataSettings(image_size=(64, 96), fit="pad", **options)
    return Batches(
        GoodImages(images_of(folder), made),
        torch.randint(0, 256, (3, 3, 64, 96), generator=torch.Generator().manual_seed(0)).byte(),
        **STRAIGHT,
        synthesis=SynthesisSettings(cutpaste_probability=0.5),
        batch_size=5,
        seed=0,
        device=torch.device("cpu"),
        pad_to=(64, 96),
        roi=roi,
    )


@pytest.mark.parametrize("phase", ["denoise", "segment"])
@pytest.mark.parametrize("roi", [None, Roi(np.ones((4, 4), bool))])
def test_what_is_added_to_an_image_is_never_damaged(large, phase, roi):
    """Their shapes within 64 x 96, worked out by hand: the one that fits is among them."""
    inside = {0: (64, 64), 1: (64, 58), 2: (64, 22), 3: (48, 96), 4: (58, 96)}
    made, hit = padded_batches(large, roi=roi), 0
    for step in range(6):
        clean, anomalous, masks, _ = made.make(phase, step)
        assert clean.shape == (5, 3, 64, 96)
        for place, index in enumerate(batch_indices(5, 5, step, seed=0, phase=phase)):
            height, width = inside[index]
            outside = torch.ones(64, 96, dtype=torch.bool)
            outside[:height, :width] = False
            assert not masks[place, 0][outside].any()
            assert (anomalous[place] == clean[place])[:, outside].all()
            hit += int(masks[place].sum())
    assert hit > 5000


def test_of_images_larger_than_the_textures_a_sample_is_a_crop(parts):
    """At 128 x 192 each is a window of 64 x 96 of the image, and not always the same."""
    images = GoodImages(images_of(parts), DataSettings(image_size=(128, 192)))
    made = Batches(
        images,
        torch.zeros(1, 3, 64, 96, dtype=torch.uint8),
        **STRAIGHT,
        synthesis=SynthesisSettings(),
        batch_size=5,
        seed=0,
        device=torch.device("cpu"),
        pad_to=(128, 192),
    )
    places = set()
    for step in range(3):
        clean = made.make("denoise", step).clean
        assert clean.shape == (5, 3, 64, 96)
        order = batch_indices(12, 5, step, seed=0, phase="denoise")
        for crop, index in zip(clean, order, strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(images[index][..., 0], (64, 96))
            places |= {tuple(x) for x in np.argwhere((windows == crop[0].numpy()).all((2, 3)))}
    assert len(places) > 10


def found_in(crop, image):
    """Whether a crop is a window of an image."""
    windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (64, 64))
    return bool((windows == crop[..., 0]).all(axis=(2, 3)).any())


def test_a_batch_is_crops_of_images_of_mixed_sizes(large):
    made, images = crops(large), GoodImages(images_of(large), TILES)
    for step in range(2):
        clean, anomalous, masks, _ = made.make("denoise", step)
        assert clean.shape == anomalous.shape == (5, 3, 64, 64)
        assert masks.shape == (5, 1, 64, 64)
        order = batch_indices(5, 5, step, seed=0, phase="denoise")
        for crop, index in zip(clean, order, strict=True):
            assert found_in(crop.permute(1, 2, 0).numpy(), images[index])
    assert not torch.equal(made.make("denoise", 0)[0], made.make("denoise", 1)[0])


@pytest.mark.parametrize("rotation", [STRAIGHT, ASKEW, ANY_WAY])
def test_crops_are_a_function_of_seed_phase_and_step(large, rotation):
    base = crops(large, rotation=rotation).make("segment", 3)
    other = crops(large, rotation=rotation, cache_gib=0.0)
    other.make("denoise", 1)
    assert equal(base, other.make("segment", 3))


# ---- region of interest


def left_half(side=16):
    mask = np.zeros((side, side), bool)
    mask[:, : side // 2] = True
    return Roi(mask)


def test_no_anomaly_lies_outside_of_the_region(parts):
    everywhere = batches(parts, rotation=STRAIGHT)
    inside = batches(parts, rotation=STRAIGHT, roi=left_half())
    clean, anomalous, masks, _ = inside.make("denoise", 0)
    whole = everywhere.make("denoise", 0)
    assert torch.equal(clean, whole[0])
    assert not masks[..., 32:].any()
    pasted = {"cutpaste_probability": 1.0}
    changed = batches(parts, rotation=STRAIGHT, roi=left_half(), synthesis=pasted)
    _, moved, regions, _ = changed.make("segment", 0)
    assert regions[..., :32].any()
    assert not regions[..., 32:].any()
    assert not torch.equal(moved[..., :32], anomalous[..., :32])
    assert torch.equal(masks[..., :32], whole[2][..., :32])
    assert torch.equal(anomalous[..., 32:], clean[..., 32:].float())
    assert torch.equal(anomalous[..., :32], whole[1][..., :32])
    assert masks.any()
    assert whole[2][..., 32:].any()


@pytest.mark.parametrize("rotation", [ASKEW, ANY_WAY])
def test_the_region_turns_with_the_image(tmp_path, rotation):
    """The inspected part is white and the rest black: anomalies lie on white alone."""
    image = np.zeros((160, 120, 3), np.uint8)
    image[:, :60] = 255
    for number in range(5):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    made = crops(tmp_path, rotation=rotation, roi=left_half())
    hit = 0
    for step in range(6):
        clean, _, masks, _ = made.make("segment", step)
        light = clean[:, :1].float() / 255
        assert light[masks.bool()].min() >= 0.3  # nearest against bilinear: the border's pixels
        hit += int(masks.sum())
    assert hit > 1000


def test_training_sees_what_the_filter_leaves_of_noise():
    shade = np.linspace(60, 180, 64)[:, None, None].repeat(64, 1).repeat(3, 2)
    images = [(shade + k).astype(np.uint8) for k in range(4)]
    usual = UsualNoise.of([noise_of(image).most for image in images])

    def shown(usual):
        made = Batches(
            images,
            textures(),
            **STRAIGHT,
            variation=dataclasses.replace(UNCHANGED, noise=12.0),
            usual=usual,
            synthesis=SynthesisSettings(line_probability=0.0),
            batch_size=4,
            seed=0,
            device=torch.device("cpu"),
        )
        batches = [made.make("segment", step) for step in range(6)]
        return [
            each.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            for batch in batches
            for each in (*batch.clean, *batch.anomalous)
        ]

    filtered = 0
    for noisy, seen in zip(shown(None), shown(usual), strict=True):
        surplus = noise_of(noisy).beyond(usual)
        expected = noisy if surplus is None else without_noise(noisy, surplus)
        assert np.array_equal(seen, expected)
        filtered += surplus is not None
    assert 0 < filtered < 48
