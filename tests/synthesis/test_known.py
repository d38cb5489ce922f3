from pathlib import Path

import numpy as np
import pytest
import torch

from destseg.config import DataSettings, SynthesisSettings
from destseg.data.decoded import GoodImages
from destseg.data.defects import Defect
from destseg.data.roi import Roi
from destseg.data.samples import Sample
from destseg.synthesis.batches import Batches
from destseg.synthesis.known import KnownDefects, cut_out, lay, pieces

SIDE = 64


def box(top, bottom, left, right, size=(SIDE, SIDE)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def flat(value, size=(SIDE, SIDE)):
    return np.full((*size, 3), value, np.uint8)


def defect(mask, name="hole", surface=100, inside=70):
    image = flat(surface, mask.shape)
    image[mask] = inside
    return Defect(Sample(Path(f"{name}.png"), name), image, mask, name)


HOLE = box(20, 30, 24, 40)


def draws(count=200, seed=0):
    return (np.random.default_rng([seed, number]) for number in range(count))


# ---- cutting out and laying


def test_pieces_are_the_separate_defects_of_a_mask():
    near, far = box(10, 14, 10, 14) | box(10, 14, 17, 20), box(40, 44, 40, 44)
    numbers = pieces(near | far)
    np.testing.assert_array_equal(numbers > 0, near | far)
    assert sorted(np.bincount(numbers.ravel())[1:].tolist()) == [16, 28]


def test_only_the_defect_and_a_soft_border_of_it_are_changed():
    one = defect(HOLE)
    random = np.random.default_rng(0)
    good = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for draw in draws():
        image, mask = lay(cut_out(one.image, HOLE, HOLE, draw), good, draw)
        y, x = np.nonzero((image != good).any(2))
        rows, columns = np.nonzero(mask)
        reach = 3 + 5  # the border, and how far its blur goes
        assert rows.min() - reach <= y.min()
        assert y.max() <= rows.max() + reach
        assert columns.min() - reach <= x.min()
        assert x.max() <= columns.max() + reach


def test_the_mask_is_where_the_defect_is():
    """Laid onto its own surface, what is darker by more than half is what is marked."""
    one = defect(HOLE)
    for draw in draws():
        image, mask = lay(cut_out(one.image, HOLE, HOLE, draw), flat(100), draw)
        dark = image[..., 0] < 85
        assert (dark != mask).sum() <= 0.06 * mask.sum()  # at edges, where two roundings differ
        assert 0.7 * HOLE.sum() < mask.sum() < 1.4 * HOLE.sum()


def test_a_defect_is_as_bright_as_the_place_where_it_is_laid():
    one = defect(HOLE)
    for draw in draws(30):
        image, mask = lay(cut_out(one.image, HOLE, HOLE, draw), flat((180, 150, 40)), draw)
        inner = image[mask].astype(float)
        assert np.median(inner, 0) == pytest.approx([150, 120, 10], abs=2)


def test_half_stay_near_their_own_place_and_the_others_lie_anywhere():
    one = defect(HOLE)
    middles = []
    for draw in draws():
        _, mask = lay(cut_out(one.image, HOLE, HOLE, draw), flat(100), draw)
        middles.append(np.argwhere(mask).mean(0))
    off = np.abs(np.array(middles) - (24.5, 31.5)).max(1)
    assert 0.4 < (off < 0.05 * SIDE + 2).mean() < 0.7
    assert np.ptp(middles, axis=0).min() > 0.6 * SIDE


def test_a_defect_lies_where_the_surface_is_like_its_own():
    part = flat(10)  # black ground
    part[:, 32:] = 100
    own = box(20, 26, 40, 46)
    source = part.copy()
    source[own] = 70
    for draw in draws():
        _, mask = lay(cut_out(source, own, own, draw), part, draw)
        assert np.argwhere(mask).mean(0)[1] > 32


def test_its_middle_lies_where_images_are_inspected():
    one, inspected = defect(box(2, 6, 2, 6)), box(40, 60, 5, 60)
    far = 0
    for draw in draws():
        cut = cut_out(one.image, one.mask, one.mask, draw)
        _, mask = lay(cut, flat(100), draw, inspected)
        y, x = np.argwhere(mask).mean(0).round().astype(int)
        stayed = max(y, x) < 12
        far += not stayed
        assert stayed or inspected[y - 1 : y + 2, x - 1 : x + 2].any()
    assert far > 50


@pytest.mark.parametrize("mask", [box(0, 64, 0, 64), box(0, 3, 0, 3), box(63, 64, 63, 64)])
def test_defects_at_the_border_and_of_the_whole_image_are_laid_too(mask):
    one = defect(mask)
    for draw in draws(30):
        cut = cut_out(one.image, mask, mask, draw)
        laid = lay(cut, flat(180, (48, 80)), draw)
        assert laid is None or laid[1].any()
        assert laid is None or laid[0].shape == (48, 80, 3)


def test_other_defects_of_the_image_are_no_part_of_the_surface_around():
    other = HOLE | box(20, 30, 46, 60)
    one = defect(other)
    cut = cut_out(one.image, other, HOLE, np.random.default_rng(0))
    assert cut.ring.any()
    assert cut.pixels[cut.ring].min() >= 95


def test_types_are_drawn_equally_often():
    known = [defect(HOLE)] * 9 + [defect(HOLE, "dent")]
    samples = KnownDefects(known, [flat(100)])
    drawn = [samples.draw(draw).source.defect_type for draw in draws(400)]
    assert 0.4 < drawn.count("dent") / len(drawn) < 0.6


def test_some_samples_are_the_image_itself():
    one = defect(HOLE)
    samples = [KnownDefects([one], [flat(150)]).draw(draw) for draw in draws(300)]
    own = [sample for sample in samples if sample.image is one.image]
    assert 0.25 < len(own) / len(samples) < 0.42
    assert all(sample.mask is one.mask and sample.clean is one.image for sample in own)


# ---- in batches

TEXTURES = torch.from_numpy(
    np.random.default_rng(5).integers(0, 256, (3, 3, SIDE, SIDE), dtype=np.uint8)
)


def batches(parts, defects=(), *, size=SIDE, batch_size=8, **options):
    fraction = options.pop("fraction", 0.3)
    settings = options.pop("data", DataSettings(image_size=size))
    return Batches(
        GoodImages(sorted(parts.glob("*.png")), settings),
        TEXTURES,
        rotation=5.0,
        quarter_turns=True,
        synthesis=SynthesisSettings(cutpaste_probability=0.5, defect_fraction=fraction),
        batch_size=batch_size,
        seed=3,
        device=torch.device("cpu"),
        defects=defects,
        **options,
    )


def equal(one, other, rows=slice(None)):
    return all(torch.equal(a[rows], b[rows]) for a, b in zip(one, other, strict=True))


def test_without_defects_a_batch_is_what_it_was(parts):
    """Also with such of which it is not known where they are, and in phase 1."""
    unmarked = Defect(Sample(Path("a.png"), "a"), flat(9), None, "a")
    without = batches(parts, fraction=0.0)
    assert equal(batches(parts).make("segment", 4), without.make("segment", 4))
    assert equal(batches(parts, [unmarked]).make("segment", 4), without.make("segment", 4))
    known = batches(parts, [defect(HOLE)], fraction=1.0)
    assert equal(known.make("denoise", 4), without.make("denoise", 4))


def test_the_other_samples_of_a_batch_are_what_they_are_without_defects(parts):
    known, without = batches(parts, [defect(HOLE)]), batches(parts)
    for step in range(5):
        places = [each.place for each in known.known_defects(step)]
        rest = sorted(set(range(8)) - set(places))
        one, other = known.make("segment", step), without.make("segment", step)
        assert equal(one, other, rest)
        assert not one.broad[places].any()
        for each in known.known_defects(step):
            row = one.anomalous[each.place].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(row, each.anomalous)
            np.testing.assert_array_equal(one.masks[each.place, 0].numpy(), each.mask)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_the_fraction_of_a_batch_is_kept(parts, fraction):
    known = batches(parts, [defect(HOLE)], fraction=fraction)
    counts = [len(known.known_defects(step)) for step in range(60)]
    assert np.mean(counts) == pytest.approx(8 * fraction, abs=0.2)
    assert max(counts) - min(counts) <= 1


def test_a_batch_is_a_function_of_the_step(parts):
    known = batches(parts, [defect(HOLE), defect(HOLE, "dent")])
    later = known.make("segment", 7)
    for step in range(7):
        known.make("segment", step)
    assert equal(known.make("segment", 7), later)
    assert not equal(known.make("segment", 6), later)


def test_the_parts_of_several_processes_are_the_whole(parts):
    whole = batches(parts, [defect(HOLE)], fraction=0.6).make("segment", 2)
    for start in (0, 4):
        own = slice(start, start + 4)
        share = batches(parts, [defect(HOLE)], fraction=0.6, share=own).make("segment", 2)
        assert equal(share, type(whole)(*(each[own] for each in whole)))


def test_a_crop_shows_the_defect(parts):
    """Also of images many times as large as what training sees."""
    mask = box(300, 306, 410, 416, (500, 600))
    known = batches(parts, [defect(mask)], data=DataSettings(image_size=SIDE, tile=True))
    drawn = [each for step in range(20) for each in known.known_defects(step)]
    assert len(drawn) > 40
    assert {each.anomalous.shape for each in drawn} == {(SIDE, SIDE, 3)}
    assert all(each.mask.any() for each in drawn)


def test_padding_is_no_defect(parts):
    narrow = defect(box(10, 20, 5, 15, (64, 32)))
    settings = DataSettings(image_size=SIDE, fit="pad")
    known = batches(parts, [narrow], data=settings, pad_to=(SIDE, SIDE), fraction=1.0)
    for each in known.known_defects(0):
        assert each.anomalous.shape == (SIDE, SIDE, 3)
        assert each.mask.shape == (SIDE, SIDE)


def test_a_region_of_interest_is_asked_for_each_image(parts):
    roi = Roi(box(32, 64, 0, 64))
    known = batches(parts, [defect(box(2, 6, 2, 6))], roi=roi, fraction=1.0)
    assert all(len(known.known_defects(step)) == 8 for step in range(3))
