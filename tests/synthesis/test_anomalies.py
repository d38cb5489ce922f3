import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg.config import SynthesisSettings
from destseg.errors import DataError
from destseg.synthesis.anomalies import (
    add_anomalies,
    add_lines,
    blend,
    cutpaste,
)
from destseg.synthesis.masks import draw_lines, draw_masks
from destseg.synthesis.perlin import perlin_from_gradients, perlin_noise
from reference.perlin import perlin

CELLS = SynthesisSettings()
PIXELS = SynthesisSettings(perlin_units="pixels")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unit_gradients(seed, n, rows, columns):
    direction = np.random.default_rng(seed).uniform(0, 2 * math.pi, (n, rows, columns))
    return np.stack((np.sin(direction), np.cos(direction)), -1)


def images_and_textures(size, seed=0):
    random = np.random.default_rng(seed)
    draw = [random.integers(0, 256, (k, 3, *size), dtype=np.uint8) for k in (6, 5)]
    return torch.from_numpy(draw[0]), torch.from_numpy(draw[1])


# ---- the noise


def assert_like_reference(gradients, cells, angles, size, centres=None):
    # Both are told the float32 numbers, for rounding moves every pixel.
    cells, angles = np.float32(cells), np.float32(angles)
    centres = None if centres is None else np.float32(centres)
    fast = perlin_from_gradients(
        torch.from_numpy(gradients).float(),
        torch.from_numpy(cells),
        torch.from_numpy(angles),
        size,
        None if centres is None else torch.from_numpy(centres),
    )
    assert fast.dtype == torch.float32
    slow = [
        perlin(
            gradients[k],
            cells[k].astype(float),
            float(angles[k]),
            size,
            None if centres is None else centres[k].astype(float),
        )
        for k in range(len(cells))
    ]
    np.testing.assert_allclose(fast.numpy(), np.stack(slow), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (7, 64), (1, 5)])
def test_noise_is_the_literal_one(size):
    cells = [(1.0, 1.0), (4.0, 2.0), (8.0, 16.0), (3.7, 5.2), (0.4, 9.0)]
    angles = [0.0, 0.3, -1.1, math.pi / 2, -math.pi / 4]
    assert_like_reference(unit_gradients(1, 5, 10, 17), cells, angles, size)


def test_endless_noise_is_the_literal_one():
    cells = [(3.3, 3.3), (6.0, 2.5), (0.2, 4.0)]
    centres = [(5.25, 4.5), (7.1, 6.9), (4.0, 5.3)]
    gradients = unit_gradients(2, 3, 13, 12)
    assert_like_reference(gradients, cells, [0.9, 0.0, -1.5], (20, 31), centres)


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    cells=st.tuples(st.floats(0.01, 40), st.floats(0.01, 40)),
    angle=st.floats(-1.58, 1.58),
    endless=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_noise_never_leaves_its_lattice(size, cells, angle, endless, seed):
    # The CPU's gather raises for a corner that was not drawn.
    noise = perlin_noise(
        seeded(seed), torch.tensor([cells]), torch.tensor([angle]), size, endless=endless
    )
    assert noise.shape == (1, *size)
    assert noise.abs().max() <= 1 + 1e-5


def test_endless_noise_is_the_same_in_every_place():
    # Cells far larger than the image: a lattice held in one place would show.
    n = 3000
    noise = perlin_noise(seeded(), torch.full((n, 2), 0.4), torch.zeros(n), (8, 8), endless=True)
    spread = noise.square().mean(0)
    assert float(spread.min() / spread.max()) > 0.85


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    cells=st.tuples(st.floats(0.25, 12), st.floats(0.25, 12)),
    angle=st.floats(-1.5, 1.5),
    seed=st.integers(0, 9),
)
def test_noise_is_the_literal_one_anywhere(size, cells, angle, seed):
    assert_like_reference(unit_gradients(seed, 1, 13, 13), [cells], [angle], size)


def test_noise_is_zero_on_the_lattice_and_gradient_times_step_beside_it():
    gradients = torch.from_numpy(unit_gradients(3, 1, 5, 9)).float()
    noise = perlin_from_gradients(gradients, torch.tensor([[4.0, 8.0]]), torch.zeros(1), (64, 64))
    assert torch.all(noise[0, ::16, ::8] == 0)
    # One pixel on from a lattice point the other corners hardly count: d noise = sqrt(2) g dx.
    finer = perlin_from_gradients(
        gradients, torch.tensor([[4.0, 8.0]]), torch.zeros(1), (4 * 100, 8 * 100)
    )
    step = finer[0, :400:100, 1:800:100] - finer[0, :400:100, 0:800:100]
    assert torch.allclose(step, math.sqrt(2) * 0.01 * gradients[0, :4, :8, 1], atol=5e-5)


def test_noise_turned_by_a_right_angle_is_the_turned_image():
    gradients = torch.from_numpy(unit_gradients(4, 1, 6, 6)).float()
    cells = torch.tensor([[5.0, 3.0]])
    straight = perlin_from_gradients(gradients, cells, torch.zeros(1), (45, 45))
    turned = perlin_from_gradients(gradients, cells, torch.tensor([math.pi / 2]), (45, 45))
    assert torch.allclose(turned, torch.rot90(straight, 1, (1, 2)), atol=1e-5)


def test_noise_is_zero_outside_the_turned_square_and_nowhere_else():
    noise = perlin_noise(seeded(), torch.tensor([[6.3, 6.3]]), torch.tensor([0.5]), (101, 101))[0]
    distance = torch.arange(101.0) - 50
    down, right = distance[:, None], distance[None, :]
    across = (math.cos(0.5) * right - math.sin(0.5) * down).abs()
    along = (math.cos(0.5) * down + math.sin(0.5) * right).abs()
    outside = (across > 50) | (along > 50)
    assert 0.05 < outside.float().mean() < 0.4
    assert torch.equal(noise == 0, outside)


def test_noise_of_an_image_does_not_depend_on_its_batch():
    gradients = torch.from_numpy(unit_gradients(5, 3, 17, 17)).float()
    cells = torch.tensor([[16.0, 1.0], [2.0, 4.0], [1.5, 13.0]])
    angle = torch.tensor([0.1, 0.2, 0.3])
    batch = perlin_from_gradients(gradients, cells, angle, (20, 20))
    for k in range(3):
        alone = perlin_from_gradients(
            gradients[k : k + 1], cells[k : k + 1], angle[k : k + 1], (20, 20)
        )
        assert torch.equal(batch[k], alone[0])


def test_random_noise_is_centred_and_as_wide_as_theory_says():
    cells = torch.full((64, 2), 8.0)
    noise = perlin_noise(seeded(), cells, torch.zeros(64), (64, 64))
    assert noise.abs().max() <= 1
    assert abs(noise.mean()) < 0.01
    # Random unit gradients are uncorrelated with variance 1/2 an axis, so the variance is
    # 2 E[sum over corners of weight^2 (dy^2 + dx^2) / 2] = 8 E[f(t)^2 (1-t)^2] E[f(t)^2].
    t = (np.arange(10_000) + 0.5) / 10_000
    near = 1 - (6 * t**5 - 15 * t**4 + 10 * t**3)
    expected = 8 * np.mean(near**2 * t**2) * np.mean(near**2)
    assert float(noise.var()) == pytest.approx(expected, rel=0.05)


# ---- the masks


@pytest.mark.parametrize("wanted", [CELLS, PIXELS], ids=["cells", "pixels"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (70, 70)])
def test_masks_are_zeros_and_ones_of_the_size_asked_for(wanted, size):
    masks = draw_masks(wanted, 5, size, seeded(), "cpu")
    assert masks.shape == (5, 1, *size)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}


@settings(max_examples=40)
@given(
    area=st.floats(0.001, 1),
    scale=st.floats(2, 200),
    size=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    seed=st.integers(0, 99),
)
def test_pixels_masks_hit_exactly_the_area(area, scale, size, seed):
    wanted = SynthesisSettings(
        perlin_units="pixels", anomaly_area=(area, area), perlin_scale=(scale, scale)
    )
    masks = draw_masks(wanted, 3, size, seeded(seed), "cpu")
    hit = masks.sum((1, 2, 3))
    exact = min(max(round(area * size[0] * size[1]), 1), size[0] * size[1])
    # One for the area's rounding to float32, two for pixels whose noise is the same number.
    assert torch.all((hit - exact).abs() <= 3)


def test_pixels_masks_cover_the_range_of_areas():
    share = draw_masks(PIXELS, 200, (64, 64), seeded(), "cpu").mean((1, 2, 3))
    assert 0.15 - 1e-3 <= share.min() < 0.16
    assert 0.29 < share.max() <= 0.30 + 1e-3
    assert float(share.mean()) == pytest.approx(0.225, abs=0.01)


def boundaries(masks):
    return (masks.diff(dim=3) != 0).float().mean() + (masks.diff(dim=2) != 0).float().mean()


def test_larger_scale_gives_coarser_masks():
    # Boundary length per image falls as one over the cells' side.
    lengths = [
        boundaries(
            draw_masks(
                SynthesisSettings(
                    perlin_units="pixels", perlin_scale=(side, side), anomaly_area=(0.2, 0.2)
                ),
                40,
                (128, 128),
                seeded(),
                "cpu",
            )
        )
        for side in (8.0, 16.0, 32.0)
    ]
    assert float(lengths[0] / lengths[1]) == pytest.approx(2, rel=0.1)
    assert float(lengths[1] / lengths[2]) == pytest.approx(2, rel=0.2)


def test_pixels_masks_lie_everywhere_alike():
    # Filled corners, or a lattice held in one place, would show in the mean mask.
    wanted = SynthesisSettings(perlin_units="pixels", perlin_scale=(12.5, 37.5))
    mean = draw_masks(wanted, 2000, (64, 64), seeded(), "cpu").mean(0, keepdim=True)
    blocks = torch.nn.functional.adaptive_avg_pool2d(mean, 4)
    assert torch.allclose(blocks, torch.tensor(0.225), atol=0.03)


def test_cells_masks_are_the_thresholded_noise_of_the_same_draws():
    # Both axes fixed at 2^3 cells, so that the noise can be drawn again by hand.
    wanted = SynthesisSettings(perlin_octaves=(3, 3), perlin_threshold=0.3)
    masks = draw_masks(wanted, 4, (50, 60), seeded(7), "cpu")
    again = seeded(7)
    angle = (torch.rand(4, generator=again) - 0.5) * math.pi
    torch.randint(3, 4, (4, 2), generator=again)
    noise = perlin_noise(again, torch.full((4, 2), 8.0), angle, (50, 60))
    assert torch.equal(masks[:, 0] == 1, noise > 0.3)


def test_cells_masks_hit_a_sane_share_and_each_axis_has_its_own_cells():
    masks = draw_masks(CELLS, 400, (64, 64), seeded(), "cpu")
    # The same recipe drawn with tests/reference/perlin.py: 5.1 +- 0.3 % of the pixels.
    assert float(masks.mean()) == pytest.approx(0.05, abs=0.01)
    assert masks.mean((1, 2, 3)).max() < 0.5
    down = (masks.diff(dim=2) != 0).float().sum((1, 2, 3))
    right = (masks.diff(dim=3) != 0).float().sum((1, 2, 3))
    ratio = (down + 1) / (right + 1)
    assert ratio.max() > 4
    assert ratio.min() < 1 / 4


def test_threshold_above_the_noise_leaves_everything():
    assert (
        draw_masks(SynthesisSettings(perlin_threshold=1.0), 20, (32, 32), seeded(), "cpu").sum()
        == 0
    )


@pytest.mark.parametrize("kind", ["cells", "pixels"])
def test_share_of_images_left_good(kind):
    always = SynthesisSettings(perlin_units=kind, perlin_threshold=0.05)
    half = SynthesisSettings(perlin_units=kind, perlin_threshold=0.05, anomaly_probability=0.5)
    drawn = [draw_masks(wanted, 600, (16, 16), seeded(), "cpu") for wanted in (always, half)]
    anomalous = [masks.sum((1, 2, 3)) > 0 for masks in drawn]
    assert anomalous[0].float().mean() > 0.9
    # Binomial(600, 1/2) has a standard deviation of 0.02.
    assert float(anomalous[1].sum() / anomalous[0].sum()) == pytest.approx(0.5, abs=0.08)
    # The same draws otherwise: what is left anomalous is anomalous in the same places.
    assert torch.equal(drawn[1][anomalous[1]], drawn[0][anomalous[1]])


# ---- the blending


def test_blend_is_the_papers_equation():
    random = np.random.default_rng(0)
    image, texture = random.uniform(0, 255, (2, 4, 3, 9, 11)).astype(np.float32)
    mask = random.integers(0, 2, (4, 1, 9, 11)).astype(np.float32)
    opacity = np.array([0.0, 0.3, 0.77, 1.0], np.float32).reshape(4, 1, 1, 1)
    result = blend(*map(torch.from_numpy, (image, texture, mask, opacity))).numpy()
    expected = (1 - mask) * image + mask * (opacity * texture + (1 - opacity) * image)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
    outside = np.broadcast_to(mask, image.shape) == 0
    assert np.array_equal(result[outside], image[outside])
    assert np.array_equal(result[0], image[0])


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (70, 70)])
@pytest.mark.parametrize("wanted", [CELLS, PIXELS], ids=["cells", "pixels"])
def test_an_anomaly_touches_only_the_mask_and_mixes_with_a_texture(wanted, size):
    images, textures = images_and_textures(size)
    anomalous, masks = add_anomalies(images, textures, wanted, seeded())
    assert (anomalous.dtype, anomalous.shape) == (torch.float32, images.shape)
    assert anomalous.min() >= 0
    assert anomalous.max() <= 255
    inside = masks.expand_as(anomalous) == 1
    assert torch.equal(anomalous[~inside], images.float()[~inside])
    for k in range(len(images)):
        if not inside[k].any():
            continue
        # anomalous - I = o (X - I): for the right X one opacity explains every pixel.
        rises = anomalous[k] - images[k]
        mixes = []
        for texture in textures.float():
            full = (texture - images[k])[inside[k]]
            opacity = (full @ rises[inside[k]]) / (full @ full)
            mixes.append(((opacity * full - rises[inside[k]]).abs().max(), opacity))
        error, opacity = min(mixes)
        assert error < 1e-2
        assert 0.2 - 1e-3 <= opacity <= 1 + 1e-3


def test_anomalies_draw_opacities_and_textures_over_their_whole_range():
    images = torch.zeros(600, 3, 8, 8)
    # Texture k has red 255 and green k: together they tell opacity and texture apart.
    textures = torch.zeros(7, 3, 8, 8, dtype=torch.uint8)
    textures[:, 0] = 255
    textures[:, 1] = torch.arange(7, dtype=torch.uint8)[:, None, None] * 40
    wanted = SynthesisSettings(perlin_units="pixels", opacity=(0.3, 0.9))
    anomalous, _ = add_anomalies(images, textures, wanted, seeded())
    opacity = anomalous[:, 0].amax((1, 2)) / 255
    drawn = (anomalous[:, 1].amax((1, 2)) / opacity / 40).round()
    assert 0.3 - 1e-4 <= opacity.min() < 0.31
    assert 0.89 < opacity.max() <= 0.9 + 1e-4
    assert torch.bincount(drawn.long(), minlength=7).min() > 40


@pytest.mark.parametrize("wanted", [CELLS, PIXELS], ids=["cells", "pixels"])
def test_the_seed_decides_everything(wanted):
    images, textures = images_and_textures((48, 48))
    torch.manual_seed(1)
    first = add_anomalies(images, textures, wanted, seeded(3))
    torch.manual_seed(2)
    second = add_anomalies(images, textures, wanted, seeded(3))
    other = add_anomalies(images, textures, wanted, seeded(4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_adding_anomalies_leaves_its_input_alone_and_needs_no_gradient():
    images, textures = images_and_textures((32, 32))
    images = images.float()
    before = images.clone()
    anomalous, masks = add_anomalies(images, textures, CELLS, seeded())
    assert torch.equal(images, before)
    assert not anomalous.requires_grad
    assert not masks.requires_grad


def test_memory_format_is_kept_and_changes_nothing_else():
    images, textures = images_and_textures((32, 32))
    plain = add_anomalies(images, textures, PIXELS, seeded())
    last = add_anomalies(images.to(memory_format=torch.channels_last), textures, PIXELS, seeded())
    assert plain[0].is_contiguous()
    assert last[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain[0], last[0])


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (4, 3, 16, 32), (4, 1, 32, 32)])
def test_textures_that_do_not_fit_are_refused(shape):
    images, _ = images_and_textures((32, 32))
    with pytest.raises(DataError, match="textures: expected"):
        add_anomalies(images, torch.zeros(shape, dtype=torch.uint8), CELLS, seeded())


# ---- regions of other good images


def parts_of(level, n=6, size=(64, 96), seed=0):
    random = np.random.default_rng(seed)
    noise = random.integers(-20, 21, (n, 3, *size))
    return torch.from_numpy((level + noise).astype(np.uint8))


def test_a_cutpaste_region_is_broad_and_outside_of_it_nothing_changes():
    images, others = parts_of(60, 40), parts_of(180, 40, seed=1)
    moved, masks = cutpaste(images, others, seeded())
    assert (moved.dtype, masks.dtype) == (torch.float32, torch.float32)
    assert set(masks.unique().tolist()) == {0, 1}
    hit = masks.bool().expand_as(images)
    assert torch.equal(moved[~hit], images[~hit].float())
    assert moved[hit].mean() > 100
    areas = masks.mean((1, 2, 3))
    assert areas.min() >= 0.03
    assert areas.max() <= 0.5 + 1e-3
    assert areas.max() - areas.min() > 0.25
    # Broad: few border pixels for what it covers, unlike the textures' masks.
    border = (masks[..., 1:] != masks[..., :-1]).float().mean((1, 2, 3)) / areas
    assert border.mean() < 0.15


def test_what_cannot_be_seen_is_no_anomaly():
    white = torch.full((8, 3, 64, 64), 255, dtype=torch.uint8)
    black = torch.zeros_like(white)
    moved, masks = cutpaste(black, black, seeded())
    assert not masks.any()
    assert torch.equal(moved, black.float())
    assert cutpaste(white, black, seeded())[1].any((1, 2, 3)).all()


def test_the_seed_of_cutpaste_decides_everything():
    images, others = parts_of(90), parts_of(120, seed=2)
    first, second, other = (cutpaste(images, others, seeded(k)) for k in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_cutpaste_regions_of_a_part_of_a_batch_are_those_of_the_whole():
    images, others = parts_of(90), parts_of(150, seed=2)
    whole = cutpaste(images, others, seeded(7))
    mine = [1, 4, 5]
    some = cutpaste(images[mine], others[mine], seeded(7), share=(6, mine))
    assert torch.equal(some[0], whole[0][mine])
    assert torch.equal(some[1], whole[1][mine])


def test_cutpaste_regions_stay_where_anomalies_may_lie():
    images, others = parts_of(60), parts_of(180, seed=1)
    where = torch.zeros((6, 1, 64, 96), dtype=torch.bool)
    where[..., :40] = True
    moved, masks = cutpaste(images, others, seeded(), where)
    assert masks[..., :40].any()
    assert not masks[..., 40:].any()
    assert torch.equal(moved[..., 40:], images[..., 40:].float())


# ---- lines


def test_lines_are_thin_and_long():
    masks = draw_lines(40, (192, 256), seeded(), "cpu")
    assert (masks.dtype, masks.shape) == (torch.float32, (40, 1, 192, 256))
    assert set(masks.unique().tolist()) == {0, 1}
    widest, longest = [], []
    for mask in masks[:, 0].numpy().astype(np.uint8):
        if mask.any():
            widest.append(2 * cv2.distanceTransform(mask, cv2.DIST_L2, 5).max())
            _, _, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            longest.append(boxes[1:, 2:4].max())
    assert len(widest) > 35
    assert np.quantile(widest, 0.9) < 8  # of up to 5 pixels, a little more where two meet
    assert np.median(widest) < 5
    assert np.median(longest) > 30
    assert torch.equal(draw_lines(40, (192, 256), seeded(), "cpu", [3, 7]), masks[[3, 7]])


def test_a_line_is_darker_or_brighter_and_outside_of_it_nothing_changes():
    images = parts_of(100, size=(128, 128))
    levels = torch.tensor([-40.0, -40.0, -40.0, 30.0, 30.0, 30.0])
    changed, masks = add_lines(images, levels, seeded(2))
    assert (changed.dtype, masks.dtype) == (torch.float32, torch.float32)
    hit = masks.bool().expand_as(images)
    assert torch.equal(changed[~hit], images[~hit].float())
    change = changed - images
    for k, level in enumerate(levels.tolist()):
        inside = change[k][hit[k]]
        assert inside.numel()
        assert (inside * level > 0).all()  # all of what is marked, and the way that was asked for
        assert 0.6 * abs(level) < inside.abs().max() <= abs(level) + 1e-3  # the thinner, the less


def test_lines_stay_where_anomalies_may_lie():
    images = parts_of(60)
    where = torch.zeros((6, 1, 64, 96), dtype=torch.bool)
    where[..., :40] = True
    changed, masks = add_lines(images, torch.full((6,), 50.0), seeded(), where)
    assert masks[..., :40].any()
    assert not masks[..., 40:].any()
    assert torch.equal(changed[..., 40:], images[..., 40:].float())


@pytest.mark.gpu
def test_anomalies_on_the_gpu_are_those_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, textures = images_and_textures((64, 64))
    here = add_anomalies(images, textures, PIXELS, seeded())
    there = add_anomalies(images.cuda(), textures.cuda(), PIXELS, seeded())
    assert (here[1] != there[1].cpu()).float().mean() < 1e-3
    alike = (here[1] == there[1].cpu()).expand_as(here[0])
    assert torch.allclose(here[0][alike], there[0].cpu()[alike], atol=1e-2)
    own = add_anomalies(
        images.cuda(), textures.cuda(), CELLS, torch.Generator("cuda").manual_seed(0)
    )
    assert own[0].is_cuda
