"""Noise is measured and filtered on images whose noise is known, as it was added here."""

import numpy as np
import pytest

from destseg.data.noise import noise_of, surplus_noise, without_noise

LEVELS = (2, 4, 8)


def part(height: int = 256, width: int = 256) -> np.ndarray:
    """Soft shades with a bright disc and a thin dark line: edges, and no noise."""
    y, x = np.mgrid[:height, :width]
    grey = 90 + 40 * np.sin(x / 40) * np.cos(y / 50)
    grey += 60 * ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2)
    grey -= 50 * (np.abs(x - y - 20) < 1)
    return np.rint(grey[..., None] + (10, 0, -10)).astype(np.uint8)


def noisy(image: np.ndarray, level: float, *, one_colour: bool = False) -> np.ndarray:
    shape = (*image.shape[:2], 1) if one_colour else image.shape
    added = np.random.default_rng(0).normal(0, level, shape)
    return np.rint(image + added).clip(0, 255).astype(np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("one_colour", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_the_noise_that_was_added_is_found(level, one_colour):
    assert noise_of(noisy(part(), level, one_colour=one_colour)) == pytest.approx(level, rel=0.1)


def test_an_image_without_noise_has_next_to_none():
    assert noise_of(part()) < 0.5
    assert noise_of(np.full((64, 64, 3), 99, np.uint8)) == 0


def test_a_rough_defect_is_not_taken_for_noise():
    image = part()
    image[:, :140] = noisy(image[:, :140], 40)
    assert noise_of(image) < 1
    assert surplus_noise(image, noise_of(part())) == 0


def test_noise_that_black_and_white_cut_off_is_measured_where_it_is_whole():
    image = part()
    image[:90], image[90:160] = 255, 0
    assert noise_of(noisy(image, 4)) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (15, 400), (16, 40)])
def test_what_is_too_small_to_tell_has_none(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert noise_of(image) == 0
    assert without_noise(image, 3.0).shape == image.shape


def test_a_large_image_is_measured_as_a_small_one():
    assert noise_of(noisy(part(2048, 2600), 5)) == pytest.approx(5, rel=0.1)


def test_what_there_is_too_much_of_is_told_as_a_deviation():
    image = noisy(part(), 5)
    assert surplus_noise(image, 3.0) == pytest.approx(4, rel=0.15)  # 3, 4, 5: variances add up
    assert surplus_noise(image, 6.0) == 0
    assert surplus_noise(noisy(part(), 2), 1.8) == 0  # hardly more


@pytest.mark.parametrize("one_colour", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_most_of_the_noise_goes_and_the_part_stays(level, one_colour):
    image = part()
    given = noisy(image, level, one_colour=one_colour)
    filtered = without_noise(given, level)
    assert distance(filtered, image) < 0.5 * distance(given, image)
    # A line that is far above the noise keeps most of its contrast.
    on_line = np.abs(np.subtract(*np.mgrid[:256, :256]) + 20) < 1
    lost = (filtered.mean(2) - image.mean(2))[on_line].mean()
    assert lost < 20
    assert filtered.dtype == np.uint8


def test_a_filter_is_that_of_an_image_filtered_pixel_by_pixel():
    """Against the definition, pixel by pixel, away from the borders."""
    given = noisy(part(40, 48), 6)
    values = given.astype(float)
    level = 6.0
    for side in (3, 5, 7):
        reach, filtered = side // 2, values.copy()
        for y in range(reach, 40 - reach):
            for x in range(reach, 48 - reach):
                around = values[y - reach : y + reach + 1, x - reach : x + reach + 1]
                mean, variance = around.mean((0, 1)), around.var((0, 1)).mean()
                kept = max(variance - level**2, 0) / max(variance, level**2)
                filtered[y, x] = mean + kept * (values[y, x] - mean)
        values, level = filtered, 0.4 * level
    found = without_noise(given, 6.0)[6:-6, 6:-6]
    assert np.abs(found - values[6:-6, 6:-6]).max() <= 0.5 + 1e-3


def test_bands_of_a_large_image_do_not_show():
    given = noisy(part(600, 1000), 6)
    whole = without_noise(given, 6.0)
    for rows in (slice(0, 200), slice(240, 300), slice(500, 600)):
        around = slice(max(0, rows.start - 6), rows.stop + 6)
        alone = without_noise(given[around], 6.0)[rows.start - around.start :]
        assert np.array_equal(alone[: rows.stop - rows.start], whole[rows])
