import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from destseg.data.tiling import Tile, merge, plan, size_for_tiles
from reference import tiling as reference

sizes = st.tuples(st.integers(1, 24), st.integers(0, 60), st.integers(0, 60)).map(
    lambda drawn: (drawn[0] + drawn[1], drawn[0] + drawn[2], drawn[0])
)
overlaps = st.floats(0, 0.75)


@given(size=sizes, overlap=overlaps)
def test_every_pixel_is_covered_by_whole_tiles_inside_the_image(size, overlap):
    height, width, tile = size
    tiles = plan(height, width, tile, overlap)
    covered = np.zeros((height, width), int)
    for each in tiles:
        assert 0 <= each.y <= height - tile
        assert 0 <= each.x <= width - tile
        assert each.size == tile
        covered[each.window] += 1
    assert covered.min() >= 1
    assert len(set(tiles)) == len(tiles)
    rows, columns = (reference.starts(side, tile, overlap) for side in (height, width))
    assert tiles == [Tile(y, x, tile) for y in rows for x in columns]


@given(size=sizes, overlap=overlaps)
def test_neighbours_overlap_by_the_share_asked_for_at_least(size, overlap):
    height, width, tile = size
    tiles = plan(height, width, tile, overlap)
    for places in ({each.y for each in tiles}, {each.x for each in tiles}):
        steps = np.diff(sorted(places))
        assert (steps <= max(1, round(tile * (1 - overlap)))).all()


def test_a_large_image_takes_as_few_tiles_as_its_overlap_allows():
    assert len(plan(1024, 1024, 256, 0)) == 16
    assert len(plan(1000, 256, 256, 0)) == 4
    assert len(plan(1024, 1024, 256, 0.25)) == 25
    assert plan(256, 256, 256, 0.5) == [Tile(0, 0, 256)]


@pytest.mark.parametrize("size", [(31, 40, 32, 0.1), (40, 31, 32, 0.1), (9, 9, 0, 0.1)])
def test_an_image_smaller_than_a_tile_is_refused(size):
    with pytest.raises(ValueError, match="at least"):
        plan(*size)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_makes_no_sense_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        plan(64, 64, 32, overlap)


def whole(height, width, tile, overlap, say, order=None):
    """Merge maps that ``say`` gives for tiles."""
    tiles = plan(height, width, tile, overlap)
    given_order = tiles if order is None else [tiles[k] for k in order.permutation(len(tiles))]
    return merge(tiles, ((each, say(each)) for each in given_order))


@given(size=sizes, overlap=overlaps, value=st.floats(0, 1, width=32))
def test_an_even_map_stays_even(size, overlap, value):
    height, width, tile = size
    even = whole(height, width, tile, overlap, lambda _: np.full((tile, tile), value, np.float32))
    assert even.dtype == np.float32
    assert even.shape == (height, width)
    np.testing.assert_allclose(even, value, rtol=1e-6, atol=1e-7)
    assert even.max() <= 1


@how(max_examples=25)
@given(
    tile=st.integers(1, 9),
    more=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    overlap=overlaps,
    seed=st.integers(0, 99),
)
def test_it_is_the_weighted_mean_of_what_the_tiles_say(tile, more, overlap, seed):
    height, width = tile + more[0], tile + more[1]
    random = np.random.default_rng(seed)
    said = {
        (each.y, each.x): random.random((tile, tile), np.float32)
        for each in plan(height, width, tile, overlap)
    }
    merged = whole(height, width, tile, overlap, lambda each: said[each.y, each.x])
    literal = reference.merged(height, width, tile, overlap, lambda y, x: said[y, x])
    np.testing.assert_allclose(merged, literal, rtol=1e-5, atol=1e-6)


@given(size=sizes, overlap=overlaps, seed=st.integers(0, 99))
def test_a_backend_that_looks_at_single_pixels_is_given_back_exactly(size, overlap, seed):
    height, width, tile = size
    image = np.random.default_rng(seed).random((height, width), np.float32)
    merged = whole(height, width, tile, overlap, lambda each: image[each.window])
    np.testing.assert_allclose(merged, image, rtol=1e-5, atol=1e-6)


@given(size=sizes, overlap=overlaps, seed=st.integers(0, 99))
def test_the_order_of_the_tiles_does_not_matter(size, overlap, seed):
    height, width, tile = size
    image = np.random.default_rng(seed).random((height, width), np.float32)

    def say(each):
        return np.sqrt(image[each.window]) * (0.5 + 0.5 / (1 + each.y + each.x))

    shuffled = whole(height, width, tile, overlap, say, np.random.default_rng(seed))
    np.testing.assert_allclose(shuffled, whole(height, width, tile, overlap, say), atol=1e-6)


def test_where_only_one_tile_lies_its_map_is_kept_to_the_corner():
    # The corner's weight is smallest of all: 1e-9 of the middle's in a tile of 256.
    random = np.random.default_rng(0).random((256, 256), np.float32)
    merged = whole(400, 400, 256, 0.25, lambda _: random)
    np.testing.assert_allclose(merged[:100, :100], random[:100, :100], rtol=1e-6)
    np.testing.assert_allclose(merged[-100:, -100:], random[-100:, -100:], rtol=1e-6)


def test_a_tile_that_is_left_out_counts_as_zeros():
    tiles = plan(64, 96, 32, 0)
    ones = np.ones((32, 32), np.float32)
    merged = merge(tiles, ((each, ones) for each in tiles if each.x != 32))
    expected = np.ones((64, 96), np.float32)
    expected[:, 32:64] = 0
    np.testing.assert_allclose(merged, expected, atol=1e-7)


def blurred(image, reach=7):
    """A small network's stand-in: every pixel from its neighbourhood, zeros beyond the border."""
    return cv2.blur(image, (reach, reach), borderType=cv2.BORDER_CONSTANT)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_a_defect_on_a_seam_looks_as_in_the_middle_of_a_tile(overlap):
    tile, side = 64, 256
    step = round(tile * (1 - overlap))
    seams = [step, tile, 2 * step, step + tile // 2, tile // 2]
    peaks = []
    for at in seams:
        image = np.zeros((side, side), np.float32)
        image[at - 3 : at + 4, at - 3 : at + 4] = 1
        merged = whole(side, side, tile, overlap, lambda each, p=image: blurred(p[each.window]))
        peaks.append(merged.max())
        # Everywhere, not only at its peak.
        np.testing.assert_allclose(merged, blurred(image), atol=0.02)
    assert min(peaks) > 0.98
    assert max(peaks) <= 1


def test_no_seam_shows_where_tiles_disagree():
    """Tiles that say 0 and 1 by turns fade into each other without a step."""
    merged = whole(
        256, 256, 64, 0.25, lambda each: np.full((64, 64), (each.x // 48) % 2, np.float32)
    )
    steps = np.abs(np.diff(merged, axis=1)).max()
    assert 0.05 < steps < 0.25  # hard seams would be steps of 1, a linear fade 1 / 16


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((200, 70), (200, 70)),
        ((32, 64), (64, 128)),
        ((100, 48), (133, 64)),
        ((1, 3), (64, 192)),
        ((63, 64), (64, 65)),
    ],
)
def test_small_images_are_scaled_up_and_keep_their_aspect(size, expected):
    assert size_for_tiles(*size, 64) == expected


@given(height=st.integers(1, 300), width=st.integers(1, 300), tile=st.integers(1, 300))
def test_there_is_always_room_for_a_tile(height, width, tile):
    sides = size_for_tiles(height, width, tile)
    assert min(sides) >= tile
    assert min(sides) == max(tile, min(height, width))
