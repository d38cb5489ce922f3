import dataclasses
from collections import Counter

import numpy as np
import pytest

from destseg.synthesis.augment import View, draw_view, show, show_mask


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- turning whole images


STRAIGHT = {"rotation": 0.0, "quarter_turns": False}
ASKEW = {"rotation": 5.0, "quarter_turns": False}
ANY_WAY = {"rotation": 5.0, "quarter_turns": True}


def turns(rotation, image, n=200):
    draw = np.random.default_rng(0)
    return [show(image, draw_view(image.shape[:2], draw, **rotation)) for _ in range(n)]


def test_no_rotation_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert all(np.array_equal(turned, image) for turned in turns(STRAIGHT, image, 5))


def angle_of(turned):
    """Return the direction of the bright spot seen from the centre, in degrees."""
    light = turned[..., 0].astype(float) - 114
    y, x = np.argwhere(light > 60).mean(0) - 50
    return np.degrees(np.arctan2(y, x))


def spot():
    """A grey image (the corners' grey) with a bright spot at the middle of the right side."""
    image = np.full((101, 101, 3), 114, np.uint8)
    image[47:54, 82:89] = 255
    return image


@pytest.mark.parametrize("most", [5.0, 10.0, 30.0])
def test_rotation_is_up_to_so_many_degrees_either_way(most):
    rotation = {"rotation": most, "quarter_turns": False}
    angles = np.array([angle_of(turned) for turned in turns(rotation, spot())]) / most
    assert -1.06 <= angles.min() < -0.9
    assert 0.9 < angles.max() <= 1.06
    assert abs(angles.mean()) < 0.12
    assert 0.48 < angles.std() < 0.68  # uniform: 2 / sqrt(12)


def test_quarter_turns_alone_are_exact():
    image = noise(64, 64)
    quarters = [np.rot90(image, k) for k in range(4)]
    seen = Counter()
    for turned in turns({"quarter_turns": True}, image, 40):
        errors = [np.abs(turned.astype(int) - each).max() for each in quarters]
        assert min(errors) <= 1
        seen[int(np.argmin(errors))] += 1
    assert set(seen) == {0, 1, 2, 3}


def test_quarter_turns_come_on_top_of_the_rotation():
    angles = np.array([angle_of(turned) for turned in turns(ANY_WAY, spot(), 400)])
    quarters = np.round(angles / 90)
    rest = angles - 90 * quarters
    assert np.abs(rest).max() <= 5.3
    assert rest.std() > 2.4
    counts = Counter((quarters % 4).tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 60


@pytest.mark.parametrize(("size", "crop"), [((24, 40), None), ((60, 90), (40, 24))])
def test_what_is_no_square_is_turned_by_180_degrees_alone(size, crop):
    image = noise(*size)
    seen = Counter()
    for view in views(size, 40, quarter_turns=True, crop=crop):
        straight = image[view.y : view.y + view.height, view.x : view.x + view.width]
        errors = [
            np.abs(show(image, view).astype(int) - each).max()
            for each in (straight, straight[::-1, ::-1])
        ]
        assert min(errors) <= 1  # nothing is pushed out, nothing is grey
        seen[int(np.argmin(errors))] += 1
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("rotation", [ASKEW, ANY_WAY])
def test_new_corners_are_grey_114(rotation):
    white = np.full((101, 101, 3), 255, np.uint8)
    for turned in turns(rotation, white, 20):
        assert turned.dtype == np.uint8
        assert turned.shape == white.shape
        assert (turned[40:60, 40:60] == 255).all()
        assert turned.min() >= 114
    strongest = min(turns(rotation, white), key=np.sum)
    assert (strongest[0, 0] == 114).all()


@pytest.mark.parametrize("crop", [None, (64, 64)])
@pytest.mark.parametrize("rotation", [ASKEW, ANY_WAY])
def test_where_a_turned_part_may_be_out_of_place_half_of_the_borders_go_on(rotation, crop):
    drawn = views((101, 101), 400, **rotation, shift=0.1, crop=crop)
    assert 0.43 < np.mean([view.goes_on for view in drawn]) < 0.57
    image = noise(101, 101)
    for view in [view for view in drawn if view.goes_on][:20]:
        known = show(np.pad(image, ((60, 60), (60, 60), (0, 0)), "edge"), around(view, 60))
        np.testing.assert_allclose(show(image, view), known, atol=1)


def test_where_a_straight_part_may_be_out_of_place_all_borders_go_on():
    assert all(view.goes_on for view in views((101, 101), 50, shift=0.1))
    assert not any(view.goes_on for view in views((101, 101), 50, **ASKEW))


def around(view, more):
    """Return the same view of an image with so many more pixels at each border."""
    return dataclasses.replace(view, y=view.y + more, x=view.x + more)


# ---- crops


def views(size, n=300, **options):
    draw = np.random.default_rng(0)
    return [draw_view(size, draw, **options) for _ in range(n)]


def test_a_crop_is_any_square_of_the_image():
    image = noise(20, 33)
    drawn = views((20, 33), 2000, crop=(16, 16))
    assert Counter({view.y for view in drawn}) == Counter(range(5))
    assert Counter({view.x for view in drawn}) == Counter(range(18))
    per_row = Counter(view.y for view in drawn)
    assert max(per_row.values()) < 1.3 * min(per_row.values())  # uniform
    for view in drawn[:20]:
        shown = show(image, view)
        expected = image[view.y : view.y + 16, view.x : view.x + 16]
        np.testing.assert_array_equal(shown, expected)
        assert np.shares_memory(shown, image)  # nothing is interpolated


def test_an_image_of_the_crops_size_is_shown_whole():
    assert set(views((16, 16), 5, crop=(16, 16))) == {View(0, 0, 16, 16)}


def literal(image, view, outside):
    """Turn by looking up each pixel's place in the image, bilinear, exactly."""
    angle = np.radians(view.degrees)
    height, width = image.shape[:2]
    middle = view.y + (view.height - 1) / 2, view.x + (view.width - 1) / 2
    shown = np.empty((view.height, view.width), float)
    for row in range(view.height):
        for column in range(view.width):
            down, right = row - (view.height - 1) / 2, column - (view.width - 1) / 2
            # Counterclockwise on the screen, where rows go down.
            y = middle[0] + np.cos(angle) * down + np.sin(angle) * right
            x = middle[1] - np.sin(angle) * down + np.cos(angle) * right
            value = 0.0
            for py in (int(np.floor(y)), int(np.floor(y)) + 1):
                for px in (int(np.floor(x)), int(np.floor(x)) + 1):
                    weight = (1 - abs(y - py)) * (1 - abs(x - px))
                    inside = 0 <= py < height and 0 <= px < width
                    value += weight * (image[py, px] if inside else outside)
            shown[row, column] = value
    return shown


@pytest.mark.parametrize("degrees", [4.0, -5.0, 90.0, 183.0, 268.5])
@pytest.mark.parametrize("place", [(0, 0), (7, 40), (30, 44), (3, 9)])
def test_a_turned_crop_shows_the_image_around_it(degrees, place):
    smooth = np.add.outer(np.arange(46) * 2, np.arange(60) * 2).astype(np.uint8)
    image = np.repeat(smooth[..., None], 3, axis=2)
    view = View(*place, 16, 16, degrees)
    # OpenCV rounds places to 1/32 of a pixel.
    shown = show(image, view)
    assert shown.shape == (16, 16, 3)
    difference = np.abs(shown[..., 0] - literal(smooth, view, 114))
    assert difference.max() <= 5
    assert np.median(difference) <= 0.6


def test_only_beyond_the_image_is_grey():
    white = np.full((60, 60, 3), 255, np.uint8)
    assert (show(white, View(20, 20, 16, 16, 4.5)) == 255).all()
    corner = show(white, View(0, 0, 50, 50, 4.5))
    assert (corner[0, 0] == 114).all() or (corner[0, -1] == 114).all()


def test_a_line_scan_longer_than_opencvs_limit_can_be_turned():
    long = noise(40_000, 32)
    view = View(39_000, 0, 32, 32, 90.0)
    expected = np.rot90(long[39_000:39_032])
    np.testing.assert_allclose(show(long, view), expected, atol=1)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0, 3.0])
def test_a_mask_is_shown_as_its_image(degrees):
    mask = np.zeros((50, 50), bool)
    mask[10:30, 12:20] = True
    view = View(5, 3, 32, 32, degrees)
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    shown = show_mask(mask, view)
    assert shown.dtype == bool
    light = show(image, view)[..., 0]
    assert shown[light > 200].all()
    assert not shown[light < 50].any()


def test_a_mask_is_false_beyond_the_image():
    whole = np.ones((32, 32), bool)
    turned = show_mask(whole, View(0, 0, 32, 32, 5.0))
    assert not turned[0, 0] or not turned[0, -1]
    assert turned[8:24, 8:24].all()


def test_crops_lie_where_something_is_inspected():
    inspected = np.zeros((100, 200), bool)
    inspected[40:60, 150:200] = True
    drawn = views((100, 200), crop=(32, 32), inspected=inspected)
    assert all(inspected[v.y : v.y + 32, v.x : v.x + 32].any() for v in drawn)
    assert {v.x for v in drawn} == set(range(134, 169))  # the middle from 150 to the border
    assert {v.y for v in drawn} == set(range(24, 45))


def test_the_same_generator_gives_the_same_views():
    one, other = (views((90, 70), 5, crop=(32, 32), **ANY_WAY) for _ in range(2))
    assert one == other
    assert len(set(one)) == 5


# ---- moved and enlarged


def test_what_is_moved_is_seen_elsewhere_and_the_border_goes_on():
    image = noise(40, 50)
    view = View(0, 0, 40, 50, down=3.0, right=-5.0, goes_on=True)
    shown = show(image, view)
    np.testing.assert_array_equal(shown[3:, :45], image[:37, 5:])
    np.testing.assert_array_equal(shown[:3, :45], np.repeat(image[:1, 5:], 3, axis=0))
    np.testing.assert_array_equal(shown[3:, 45:], np.repeat(image[:37, -1:], 5, axis=1))
    mask = image[..., 0] > 100
    moved = show_mask(mask, view)
    np.testing.assert_array_equal(moved[3:, :45], mask[:37, 5:])
    assert not moved[:3].any()
    assert not moved[:, 45:].any()


@pytest.mark.parametrize("zoom", [0.8, 1.25])
def test_what_is_enlarged_lies_further_from_the_middle(zoom):
    image = np.full((101, 101, 3), 50, np.uint8)
    image[47:54, 72:79] = 255  # 25 to the right of the middle
    shown = show(image, View(0, 0, 101, 101, zoom=zoom))
    y, x = np.argwhere(shown[..., 0] > 150).mean(0)
    assert (y - 50, x - 50) == pytest.approx((0, 25 * zoom), abs=0.6)


def test_parts_are_moved_and_enlarged_by_at_most_a_fraction_of_their_sides():
    drawn = views((100, 200), 400, shift=0.02)
    for values, most in (
        ([v.down for v in drawn], 2.0),
        ([v.right for v in drawn], 4.0),
        ([np.log(v.zoom) for v in drawn], 0.02),
    ):
        assert -most <= min(values) < -0.95 * most
        assert 0.95 * most < max(values) <= most
    assert all((v.down, v.right, v.zoom) == (0, 0, 1) for v in views((100, 200), 5))
    cropped = views((100, 200), 5, shift=0.02, crop=(32, 32))
    assert [dataclasses.replace(view, goes_on=False) for view in cropped] == views(
        (100, 200), 5, crop=(32, 32)
    )
