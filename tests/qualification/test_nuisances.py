"""Changes that are no defect have the strength that is said."""

import numpy as np
import pytest

from destseg.qualification.blind_spots import at_most
from destseg.qualification.nuisances import NUISANCES, moved, noise
from destseg.qualification.repeatability import NOISE, repeated

GREY = np.full((60, 80, 3), 100, np.uint8)


def changed(name, strength, image=GREY):
    (nuisance,) = [each for each in NUISANCES if each.name == name]
    return nuisance.at(strength)(image, np.random.default_rng(0)).astype(float)


def test_light_white_and_noise():
    assert (changed("less light", 20) == 80).all()
    assert (changed("more light", 20) == 120).all()
    assert changed("warmer white", 10)[0, 0].tolist() == [110, 100, 90]
    assert changed("colder white", 10)[0, 0].tolist() == [90, 100, 110]
    assert changed("noise", 8).std() == pytest.approx(8, rel=0.05)


def test_defocus_shift_and_rotation():
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[40, 40] = 255
    blurred = changed("defocus", 2, dot)[..., 0]
    assert blurred[40, 40] == pytest.approx(255 / (2 * np.pi * 4), abs=1.5)
    y, x = np.argwhere(changed("shift", 10, dot)[..., 0] > 60).mean(axis=0)
    assert np.hypot(y - 40, x - 40) == pytest.approx(8.1, abs=1)
    line = np.zeros((81, 81, 3), np.uint8)
    line[40] = 255
    rows = changed("rotation", 8, line)[..., 0].argmax(axis=0)
    slope = np.polyfit(np.arange(10, 70), rows[10:70], 1)[0]
    assert abs(np.degrees(np.arctan(slope))) == pytest.approx(8, abs=0.5)


def test_a_whole_shift_moves_pixels():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (30, 40, 3), np.uint8)
    assert np.array_equal(moved(image, random, x=3, y=2)[2:, 3:], image[:-2, :-3])


def test_a_repeated_shot_is_noisy_and_hardly_moved():
    shot = repeated(GREY, np.random.default_rng(0)).astype(float)
    assert shot.std() == pytest.approx(NOISE, rel=0.1)
    assert noise(GREY, np.random.default_rng(1), sigma=0.0).tolist() == GREY.tolist()


def test_strengths_rise_and_nothing_changes_the_size():
    for nuisance in NUISANCES:
        assert list(nuisance.strengths) == sorted(nuisance.strengths)
        assert changed(nuisance.name, nuisance.strengths[0]).shape == GREY.shape


@pytest.mark.parametrize(("count", "total", "rate"), [(0, 12, 0.9), (5, 12, 0.9), (12, 12, 0.5)])
def test_the_probability_of_few_is_the_binomial_one(count, total, rate):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert at_most(count, total, rate) == pytest.approx(stats.binom.cdf(count, total, rate))
