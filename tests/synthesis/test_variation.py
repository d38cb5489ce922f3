import dataclasses

import cv2
import numpy as np
import pytest

from destseg.config import UNCHANGED, Settings, VariationSettings
from destseg.synthesis.variation import (
    Variation,
    beyond_their_own,
    draw_variation,
    lit,
    photographed,
    taken_off,
)

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8)
GREY = np.full((256, 256, 3), 128, np.uint8)
SAME = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
ALL = VariationSettings(ramp=0.1, noise=3.0, defocus=1.0, jpeg_quality=60, shift=0.02)
NOTHING = Variation(SAME, down=0, right=0, blur=0, noise=0, colours=True, start=0, quality=100)


def only(**changes):
    return dataclasses.replace(UNCHANGED, **changes)


def drawn(n=600, **changes):
    draw = np.random.default_rng(0)
    return [draw_variation(draw, only(**changes)) for _ in range(n)]


def vary(image, variation):
    return photographed(lit(image, variation), variation)


def varied(image, **changes):
    return vary(image, dataclasses.replace(NOTHING, **changes))


# ---- what is drawn


def test_where_nothing_may_change_nothing_is_drawn():
    draw, fresh = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_variation(draw, UNCHANGED) is None
    assert draw_variation(draw, Settings.from_preset("paper").variation) is None
    assert draw.random() == fresh.random()
    assert lit(IMAGE, None) is IMAGE


def test_the_same_generator_gives_the_same_images():
    one, other = (
        [vary(IMAGE, draw_variation(np.random.default_rng(k), ALL)) for k in range(9)]
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({image.tobytes() for image in one}) == 9


def test_light_is_one_factor_and_one_gamma_for_all_colours():
    tables = [each.table for each in drawn(light=0.2)]
    for table in tables:
        assert (table == table[:, :1]).all()
        assert (np.diff(table[:, 0].astype(int)) >= 0).all()  # no order of grey levels is turned
    # At mid-grey a factor f and a gamma g give 128 -> 255 f (128 / 255) ** g.
    middle = np.array([table[128, 0] for table in tables]) / 255
    low = np.exp(-0.2) * (128 / 255) ** np.exp(0.2)
    high = np.exp(0.2) * (128 / 255) ** np.exp(-0.2)
    assert low - 0.01 < middle.min() < 1.1 * low
    assert 0.95 * high < middle.max() < high + 0.01


def test_white_balance_changes_colours_apart():
    ratios = np.array([each.table[200].astype(float) / 200 for each in drawn(white_balance=0.05)])
    assert 0.94 < ratios.min() < 0.97
    assert 1.03 < ratios.max() < 1.06
    assert np.abs(np.corrcoef(ratios.T)[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("changes", "field", "most"),
    [({"noise": 6.0}, "noise", 6.0), ({"defocus": 2.0}, "blur", 2.0)],
)
def test_the_cameras_changes_come_to_a_third_of_the_images_up_to_the_limit(changes, field, most):
    values = np.array([getattr(each, field) for each in drawn(**changes)])
    assert 0.27 < (values > 0).mean() < 0.4
    assert 0.95 * most < values.max() <= most


def test_a_ramp_is_up_to_so_much_either_way_down_and_across():
    for field in ("down", "right"):
        values = [getattr(each, field) for each in drawn(ramp=0.15)]
        assert -0.15 <= min(values) < -0.14
        assert 0.14 < max(values) <= 0.15
        assert all(getattr(each, field) == 0 for each in drawn(5, light=0.2))


def test_files_are_stored_down_to_the_lowest_quality():
    values = np.array([each.quality for each in drawn(jpeg_quality=60)])
    assert 0.27 < (values < 100).mean() < 0.4
    assert (values.min(), values.max()) == (60, 100)


# ---- what it does


def test_each_colour_has_its_own_column():
    table = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)], -1).astype(np.uint8)
    expected = np.stack([table[IMAGE[..., c], c] for c in range(3)], -1)
    np.testing.assert_array_equal(varied(IMAGE, table=table), expected)
    np.testing.assert_array_equal(varied(IMAGE), IMAGE)


def test_a_ramp_goes_from_border_to_border_and_leaves_the_middle():
    shown = varied(GREY, down=0.1, right=-0.2)[..., 0].astype(float)
    assert shown[127:129, 127:129].mean() == pytest.approx(128, abs=0.6)
    assert shown[128, 0] / shown[128, -1] == pytest.approx(1.1 / 0.9, rel=0.01)
    assert shown[-1, 128] / shown[0, 128] == pytest.approx(1.05 / 0.95, rel=0.01)


@pytest.mark.parametrize("colours", [True, False])
def test_noise_has_its_strength_everywhere_and_its_own_place(colours):
    grain = varied(GREY, noise=4.0, colours=colours, start=5).astype(float) - 128
    assert grain.mean() == pytest.approx(0, abs=0.1)
    assert grain.std() == pytest.approx(4, rel=0.03)
    assert (grain[..., 0] == grain[..., 1]).all() == (not colours)
    neighbours = np.corrcoef(grain[:, 1:, 0].ravel(), grain[:, :-1, 0].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert not np.array_equal(grain, varied(GREY, noise=4.0, colours=colours, start=99_999))


def test_noise_reaches_every_pixel_of_an_image_larger_than_what_is_held_of_it():
    large = np.full((1200, 1400, 3), 128, np.uint8)
    shown = varied(large, noise=3.0, start=2**20 - 1)
    assert shown[-100:].std() == pytest.approx(3, rel=0.05)


def test_blur_is_a_gaussians():
    expected = cv2.GaussianBlur(IMAGE, (0, 0), 1.5)
    np.testing.assert_array_equal(varied(IMAGE, blur=1.5), expected)


def test_a_jpeg_keeps_colours_and_loses_more_at_less_quality():
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 2] = np.arange(64) * 3, 200
    lost = [np.abs(varied(ramp, quality=q).astype(int) - ramp).mean() for q in (95, 60, 20)]
    assert lost[0] < lost[1] < lost[2] < 12


# ---- what good images vary by already


def images(light=0.0, colour=0.0, n=40):
    factors = np.exp(np.linspace(-1, 1, n))
    made = []
    for factor in factors:
        tint = np.array([factor**colour, 1.0, factor**-colour])
        made.append(np.rint(100 * factor**light * tint * np.ones((8, 8, 3))).astype(np.uint8))
    return made


STILL = images()


def test_the_whole_change_is_added_to_images_that_are_all_alike():
    coloured = [image + np.array([0, 20, 40], np.uint8) for image in STILL]
    assert beyond_their_own(VariationSettings(), coloured) == VariationSettings()


def test_two_standard_deviations_of_their_own_light_are_taken_off():
    found = beyond_their_own(only(light=0.2), images(light=0.1))
    deviation = np.std(np.linspace(-0.1, 0.1, 40))
    assert found.light == pytest.approx(0.2 - 2 * deviation, abs=0.005)
    assert beyond_their_own(only(light=0.2), images(light=0.5)).light == 0


def test_two_standard_deviations_of_their_own_colour_are_taken_off():
    found = beyond_their_own(only(white_balance=0.1), images(colour=0.05))
    deviation = np.std(np.linspace(-0.05, 0.05, 40))
    assert found.white_balance == pytest.approx(0.1 - 2 * deviation, abs=0.01)


def test_a_grey_cameras_images_are_given_no_colour():
    random = np.random.default_rng(3)
    for count in range(1, 30):
        levels = random.integers(0, 40, (count, 1, 1, 1))  # dark: a mean of three is inexact there
        grey = (levels + random.integers(0, 9, (count, 31, 37, 1))).astype(np.uint8)
        assert beyond_their_own(VariationSettings(), list(grey.repeat(3, 3))).white_balance == 0
    assert beyond_their_own(VariationSettings(), STILL).white_balance == 0
    assert beyond_their_own(VariationSettings(), STILL).light == VariationSettings().light


def sharp(*sigmas):
    """Return images whose sharpness is as different as these blurs make it."""
    return [cv2.GaussianBlur(IMAGE, (0, 0), sigma) for sigma in sigmas]


CAMERA = {"noise": 3.0, "defocus": 1.0, "jpeg_quality": 60, "shift": 0.02}


def test_where_some_images_are_sharp_and_some_are_not_camera_and_place_are_varied_less():
    assert beyond_their_own(only(**CAMERA), [IMAGE] * 9) == only(**CAMERA)
    assert beyond_their_own(only(**CAMERA), sharp(0.1, 2, 0.1, 2)) == UNCHANGED
    half = beyond_their_own(only(**CAMERA), sharp(0.6, 0.7) * 5)
    # OpenCV's Laplacian is the sum of the four neighbours, less four times the middle.
    detail = []
    for image in sharp(0.6, 0.7):
        grey = np.pad(image.mean(2), 1, "reflect")
        around = grey[2:, 1:-1] + grey[:-2, 1:-1] + grey[1:-1, 2:] + grey[1:-1, :-2]
        detail.append(np.log(1 + (around - 4 * grey[1:-1, 1:-1]).std()))
    left = 1 - 2 * np.std(detail) / 0.5
    assert 0.1 < left < 0.9
    assert (half.noise, half.defocus, half.shift) == pytest.approx((3 * left, left, 0.02 * left))
    assert half.jpeg_quality == 100 - round(40 * left)


def test_two_standard_deviations_of_their_own_ramp_are_taken_off():
    steep = np.linspace(-0.08, 0.08, 40)
    right = [varied(GREY, right=by) for by in steep]
    found = beyond_their_own(only(ramp=0.15), right)
    assert found.ramp == pytest.approx(0.15 - 2 * np.std(steep), abs=0.003)
    down = beyond_their_own(only(ramp=0.15), [image.transpose(1, 0, 2) for image in right])
    assert down.ramp == pytest.approx(found.ramp)
    assert beyond_their_own(only(ramp=0.15), [GREY] * 9).ramp == 0.15
    assert beyond_their_own(only(ramp=0.05), [varied(GREY, right=by) for by in 2 * steep]).ramp == 0


def test_images_of_one_pixel_have_a_light():
    pixels = [np.full((1, 1, 3), value, np.uint8) for value in (10, 90)]
    assert beyond_their_own(ALL, pixels).light == 0


def test_what_is_taken_off_is_told():
    asked = only(light=0.2, white_balance=0.05, ramp=0.1)
    coloured = [image + np.array([0, 20, 40], np.uint8) for image in STILL]
    assert taken_off(asked, asked, coloured) is None
    told = taken_off(asked, dataclasses.replace(asked, light=0.123, white_balance=0.0), coloured)
    assert "--light 0.123 instead of 0.2, --white-balance 0 instead of 0.05" in told
    assert "ramp" not in told
    less = beyond_their_own(only(**CAMERA), sharp(0.1, 2, 0.1, 2))
    told = taken_off(only(**CAMERA), less, coloured)
    assert told.endswith(
        "--noise 0 instead of 3, --defocus 0 instead of 1, --jpeg-quality 100 instead of 60, "
        "--shift 0 instead of 0.02"
    )


@pytest.mark.parametrize("count", range(1, 30))
def test_of_images_that_are_grey_or_all_alike_nothing_is_taken_off(count):
    random = np.random.default_rng(count)
    for colours in ((1,), (3,)):
        alike = random.integers(0, 256, (8, 8, *colours), np.uint8)
        images = [np.broadcast_to(alike, (8, 8, 3))] * count
        asked = VariationSettings()
        assert taken_off(asked, beyond_their_own(asked, images), images) is None


def test_what_is_taken_off_of_a_grey_cameras_light_is_told():
    grey, asked = images(light=0.1), VariationSettings()
    told = taken_off(asked, beyond_their_own(asked, grey), grey)
    assert "--light" in told
    assert "white-balance" not in told


def test_black_images_have_a_light():
    black = [np.zeros((8, 8, 3), np.uint8)] * 5
    assert beyond_their_own(VariationSettings(), black).light == VariationSettings().light
