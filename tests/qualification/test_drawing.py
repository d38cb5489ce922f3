"""Drawn defects have the size, contrast and place that were asked for."""

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest

from destseg.qualification import drawing
from destseg.qualification.drawing import FAMILIES, draw_defect, place

NAMES = list(FAMILIES)


def plain(level=120, shape=(200, 240)):
    return np.full((*shape, 3), level, np.uint8)


def changed(family, size, contrast, seed=0, level=120, centre=(100.3, 120.7)):
    """What the defect changes, float [h, w]."""
    image = plain(level)
    drawn = draw_defect(image, family, size, contrast, centre, np.random.default_rng(seed))
    assert (image == level).all()
    assert drawn.dtype == np.uint8
    assert (drawn[..., 0] == drawn[..., 1]).all()
    return drawn[..., 0].astype(float) - level


def extent(mask):
    """The largest distance between two pixels' middles, by trying all pairs of the hull's."""
    hull = cv2.convexHull(np.argwhere(mask).astype(np.int32)).reshape(-1, 2).astype(float)
    return np.linalg.norm(hull[:, None] - hull[None], axis=2).max()


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("size", [12.0, 40.0, 90.0])
def test_the_extent_is_the_size(family, size):
    for seed in range(5):
        mask = np.abs(changed(family, size, 100, seed)) > 25
        # Edges are soft by 5 % of a stain, and a pixel's middle is half a pixel inside.
        assert extent(mask) == pytest.approx(size, abs=2 + 0.08 * size)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("contrast", [10.0, 40.0, 120.0])
def test_the_largest_change_is_the_contrast(family, contrast):
    for seed in range(5):
        assert np.abs(changed(family, 40.0, contrast, seed)).max() == pytest.approx(contrast, abs=1)


@pytest.mark.parametrize("family", NAMES)
def test_the_middle_of_the_defect_is_its_place(family):
    for seed in range(5):
        rows, columns = np.nonzero(np.abs(changed(family, 30.0, 100, seed)) > 25)
        assert (rows.min() + rows.max()) / 2 == pytest.approx(100.3, abs=6)
        assert (columns.min() + columns.max()) / 2 == pytest.approx(120.7, abs=6)


@pytest.mark.parametrize("family", NAMES)
def test_the_smallest_is_still_seen_and_a_seed_draws_the_same(family):
    first, again, other = (changed(family, 2.0, 80, seed) for seed in (1, 1, 2))
    assert np.abs(first).max() >= 20
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_holes_and_cracks_are_dark_and_scratches_either():
    def middle(family, level=120):
        values = [changed(family, 16.0, 60, seed, level) for seed in range(9)]
        return {int(np.sign(each.flat[np.abs(each).argmax()])) for each in values}

    assert middle("crack") == middle("pit") == middle("missing piece") == {-1}
    assert middle("scratch") == middle("stain") == middle("particle") == {-1, 1}
    # Where there is no room below or above, they go the other way, and nothing is clipped.
    assert {each for family in NAMES for each in middle(family, level=10)} == {1}
    assert {each for family in NAMES for each in middle(family, level=245)} == {-1}


def test_a_piece_hides_the_texture_and_a_stain_does_not():
    random = np.random.default_rng(3)
    image = random.integers(90, 150, (120, 120, 1), np.uint8).repeat(3, axis=2)
    inner = (slice(52, 68), slice(52, 68))
    for family, hidden in (("missing piece", True), ("particle", True), ("stain", False)):
        drawn = draw_defect(image, family, 60.0, 50.0, (60, 60), np.random.default_rng(0))
        spread = drawn[inner].astype(float).std() / image[inner].std()
        assert spread < 0.3 if hidden else spread > 0.9, family


@pytest.mark.parametrize("family", NAMES)
def test_at_the_border_what_is_outside_is_left_out(family):
    for centre in ((0, 0), (199, 239), (-60, 120), (100, 500)):
        drawn = draw_defect(plain(), family, 30.0, 60, centre, np.random.default_rng(0))
        assert drawn.shape == (200, 240, 3)
    assert (drawn == 120).all()


def test_places_are_whole_inside_the_region_and_the_box():
    random = np.random.default_rng(0)
    region = np.zeros((100, 200), bool)
    region[20:70, 30:160] = True
    for _ in range(50):
        y, x = place(20.0, (100, 200), region, random, (0.0, 0.5, 1.0, 1.0))
        assert 26 <= y <= 63
        assert 99 <= x <= 153
    assert place(120.0, (100, 200), None, random) is None
    assert place(20.0, (100, 200), np.zeros((100, 200), bool), random) is None


def test_nothing_of_the_training_is_used():
    tree = ast.parse(Path(drawing.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.startswith("destseg")}
