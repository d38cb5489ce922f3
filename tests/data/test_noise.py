"""Noise is measured and filtered on images whose noise is known, as it was added here."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.fft import dctn, idctn

from destseg.config import Settings
from destseg.data.bands import bands
from destseg.data.images import resize
from destseg.data.noise import Noise, UsualNoise, noise_of
from destseg.data.noise_filter import variances_of_waves, without_noise
from destseg.synthesis.whole import with_anomalies

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


def in_grains(image: np.ndarray, level: float) -> np.ndarray:
    """With a sensor's noise, whose variance is in proportion to the light: ``level`` at 128."""
    scale = level * np.sqrt(image / 128)
    added = np.random.default_rng(0).normal(0, 1, image.shape) * scale
    return np.rint(image + added).clip(0, 255).astype(np.uint8)


def even(level: float) -> Noise:
    """The same noise in all shades."""
    return Noise(np.linspace(0, 255, 4), np.full(4, float(level)), level)


@pytest.mark.parametrize("one_colour", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_the_noise_that_was_added_is_found(level, one_colour):
    found = noise_of(noisy(part(), level, one_colour=one_colour))
    assert found.deviations == pytest.approx([level] * 4, rel=0.12)
    assert found.most == max(found.deviations)


def test_noise_is_found_for_each_shade():
    image = np.repeat(np.repeat([[40, 80], [120, 200]], 128, 0), 128, 1)[..., None]
    image = image.repeat(3, 2).astype(np.uint8)
    found = noise_of(in_grains(image, 6))
    assert found.shades == pytest.approx([40, 80, 120, 200], abs=3)
    assert found.deviations == pytest.approx(6 * np.sqrt(found.shades / 128), rel=0.15)


def test_an_image_without_noise_has_next_to_none():
    assert noise_of(part()).most < 0.6
    assert noise_of(np.full((64, 64, 3), 99, np.uint8)).most == 0


@pytest.mark.parametrize("place", [np.s_[:, :176], np.s_[78:178, 78:178], np.s_[:176]])
def test_a_rough_defect_is_not_taken_for_noise(place):
    image = part()
    usual = UsualNoise.of([noise_of(image).most])
    image[place] = noisy(image[place], 40)
    assert noise_of(image).beyond(usual) is None


def test_noise_that_black_and_white_cut_off_is_measured_where_it_is_whole():
    image = part()
    image[:90], image[90:160] = 255, 0
    assert noise_of(noisy(image, 4)).deviations == pytest.approx([4] * 4, rel=0.15)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (15, 400), (16, 40), (48, 64)])
def test_what_is_too_small_to_tell_has_none(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert noise_of(image).most == 0
    assert without_noise(image, even(3)).shape == image.shape


@pytest.mark.parametrize("shape", [(2048, 2600), (50, 17000), (16, 300000)])
def test_a_large_image_is_measured_as_a_small_one(shape):
    found = noise_of(noisy(part(*shape), 5))
    assert found.deviations == pytest.approx([5] * 4, rel=0.12)


def test_what_is_beyond_the_usual_makes_it_noisier_than_is_typical():
    noise = even(5)
    assert noise.beyond(UsualNoise(typical=3, most=4)).deviations == pytest.approx([4] * 4)
    assert noise.beyond(UsualNoise(typical=3, most=4.9)) is None  # hardly more
    assert noise.beyond(UsualNoise(typical=3, most=6)) is None
    one_shade = replace(noise, deviations=np.array([1.0, 1.0, 1.0, 9.0]))
    assert one_shade.beyond(UsualNoise(typical=1, most=1)) is None
    not_everywhere = replace(noise, everywhere=1.0)
    assert not_everywhere.beyond(UsualNoise(typical=1, most=1)) is None


def test_usual_noise_is_the_median_and_the_most():
    assert UsualNoise.of([1, 9, 2]) == UsualNoise(typical=2, most=9)


@pytest.mark.parametrize("how", ["in each colour", "in all colours alike", "in grains"])
@pytest.mark.parametrize("level", LEVELS)
def test_most_of_the_noise_goes_and_the_part_stays(level, how):
    image = part()
    given = noisy(image, level, one_colour=how == "in all colours alike")
    if how == "in grains":
        given = in_grains(image, level)
    filtered = without_noise(given, noise_of(given))
    assert distance(filtered, image) < 0.6 * distance(given, image)
    # A line that is far above the noise keeps most of its contrast.
    on_line = np.abs(np.subtract(*np.mgrid[:256, :256]) + 20) < 1
    assert (filtered.mean(2) - image.mean(2))[on_line].mean() < 20
    assert filtered.dtype == np.uint8


def test_a_filter_is_that_of_an_image_filtered_pixel_by_pixel_and_patch_by_patch():
    """Against the definition, away from the borders."""
    given = in_grains(part(70, 72), 6)
    noise = Noise(np.array([50.0, 90.0, 130.0, 170.0]), np.array([3.0, 4.0, 6.0, 8.0]), 3.0)
    values = given.astype(float)
    green = values[..., 1]

    def around(plane: np.ndarray, y: int, x: int, side: int) -> np.ndarray:
        reach = side // 2
        return plane[y - reach : y + reach + 1, x - reach : x + reach + 1]

    inner = [(y, x) for y in range(3, 67) for x in range(3, 69)]
    own = np.zeros(green.shape)
    for y, x in inner:
        shade = around(green, y, x, 7).mean()
        own[y, x] = np.interp(shade, noise.shades, noise.deviations**2)
    guess, level = values, own
    for side in (3, 5, 7):
        filtered = guess.copy()
        for y, x in inner:
            near = around(guess, y, x, side)
            mean, variance = near.mean((0, 1)), near.var((0, 1)).mean()
            kept = max(variance - level[y, x], 0) / max(variance, level[y, x])
            filtered[y, x] = mean + kept * (guess[y, x] - mean)
        guess, level = filtered, 0.16 * level

    grey = np.rint(values.mean(2)).astype(np.uint8)[..., None].repeat(3, 2)
    brightness = 3 * (noise_of(grey).everywhere / noise_of(given).everywhere) ** 2
    relative = [brightness, (3 - brightness) / 2, (3 - brightness) / 2]
    axes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    weights = np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2
    expected = np.zeros(values.shape)
    for y, x in itertools.product(range(12, 52, 4), repeat=2):
        patch = np.s_[y : y + 8, x : x + 8]
        for axis, times in zip(axes, relative, strict=True):
            power = dctn(guess[patch] @ axis, norm="ortho") ** 2
            kept = power / (power + 1.15 * times * own[patch].mean())
            wave = idctn(kept * dctn(values[patch] @ axis, norm="ortho"), norm="ortho")
            expected[patch] += (np.outer(weights, weights) * wave)[..., None] * axis
    found = without_noise(given, noise)[16:52, 16:52]
    assert np.abs(found - expected[16:52, 16:52]).max() <= 0.5 + 0.01


@pytest.mark.parametrize("large", [(1024, 1024), (370, 900)])
def test_noise_that_a_resize_has_smeared_is_told_wave_by_wave(large):
    given = resize(noisy(np.full((*large, 3), 128, np.uint8), 30), (256, 256))
    level = noise_of(given).everywhere
    patches = (given[..., 0] - given[..., 0].mean()).reshape(32, 8, 32, 8).swapaxes(1, 2)
    found = (dctn(patches, axes=(2, 3), norm="ortho") ** 2).mean((0, 1))
    told = level**2 * variances_of_waves(large, (256, 256))
    assert np.abs(np.log(found / told / 1.15)).max() < 0.25
    assert 1.4 * level < given.std() == pytest.approx(np.sqrt(told.mean()), rel=0.2)
    much = variances_of_waves((4000, 10**7), (256, 256))
    assert much == pytest.approx(variances_of_waves((20_000, 3000), (256, 256)), rel=0.01)
    # What is not made smaller is not smeared, and an enlarged image is filtered as it is.
    assert np.array_equal(variances_of_waves((100, 300), (200, 300)), np.ones((8, 8)))


@pytest.mark.parametrize("large", [(1024, 1024), (370, 500)])
@pytest.mark.parametrize("one_colour", [False, True])
def test_noise_of_an_image_that_was_made_smaller_goes_too(large, one_colour):
    image = part(*large)
    small, given = resize(image, (256, 256)), noisy(image, 24, one_colour=one_colour)
    given = resize(given, (256, 256))
    noise = noise_of(given)
    left = distance(without_noise(given, noise, large), small)
    assert left < 0.65 * distance(given, small)
    assert left < 0.85 * distance(without_noise(given, noise), small)


def test_bands_of_a_large_image_do_not_show(monkeypatch):
    given = noisy(part(150, 1000), 6)  # in one band
    noise = noise_of(given)
    whole = without_noise(given, noise)
    for rows in (1, 7, 50):

        def in_rows(shape: tuple[int, ...], _: int, rows: int = rows) -> Iterator[slice]:
            return bands(shape, rows * shape[1])

        monkeypatch.setattr("destseg.data.noise_filter.bands", in_rows)
        apart = np.abs(without_noise(given, noise).astype(int) - whole)
        # Sums are added in another order.
        assert apart.max() <= 1
        assert apart.mean() < 1e-4


@pytest.mark.parametrize("side", [64, 128])
def test_no_anomaly_is_taken_for_noise(side):
    """At sizes at which the finest of them are as fine as noise."""
    images = [noisy(part(side, side), 0.5)]
    usual = UsualNoise.of([noise_of(images[0]).most])
    settings = Settings.from_preset(image_size=side)
    anomalous = list(with_anomalies(images, settings, None, count=96, seed=1))
    assert len(anomalous) > 80
    assert [noise_of(each).beyond(usual) for each in anomalous] == [None] * len(anomalous)
