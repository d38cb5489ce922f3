"""Whole images with an anomaly in each, as the threshold looks at them."""

from collections import Counter

import numpy as np
import pytest

from destseg.config import Settings
from destseg.data.roi import Roi
from destseg.synthesis.whole import with_anomalies


def good(number, height, width):
    """An image that no other is, and that no anomaly leaves as it is."""
    draw = np.random.default_rng(number)
    return draw.integers(60, 196, (height, width, 3), dtype=np.uint8)


def drawn(images, count=16, roi=None, seed=0, **settings):
    chosen = Settings.from_preset(**{"image_size": 64, "crop_size": 0, **settings})
    return list(with_anomalies(images, chosen, roi, count=count, seed=seed))


def original_of(image, images):
    """Return which good image an image was, and where it differs from it."""
    of_its_size = [k for k, each in enumerate(images) if each.shape == image.shape]
    changed = {k: (image != images[k]).any(2) for k in of_its_size}
    return min(changed.items(), key=lambda item: item[1].sum())


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((64, 64), {}),
        ((64, 96), {"image_size": (64, 96)}),
        ((48, 64), {"fit": "pad"}),
        ((200, 150), {"tile": True}),
        ((128, 224), {"image_size": (128, 224), "crop_size": 64}),
        ((96, 224), {"image_size": (128, 224), "crop_size": 64, "fit": "pad"}),
    ],
)
def test_each_is_a_good_image_but_for_one_region(size, settings):
    images = [good(number, *size) for number in range(3)]
    counted = Counter()
    for image in drawn(images, **settings):
        assert image.dtype == np.uint8
        k, changed = original_of(image, images)
        counted[k] += 1
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        assert changed.sum() >= 10
        if settings.get("tile") or settings.get("crop_size"):
            assert np.ptp(rows) < 64
            assert np.ptp(columns) < 64
        assert changed.mean() < 0.9
    assert set(counted) == {0, 1, 2}
    assert all(np.array_equal(image, good(k, *size)) for k, image in enumerate(images))


def test_anomalies_lie_all_over_large_images():
    images = [np.full((200, 200, 3), 128, np.uint8)]
    where = np.mean([(image != 128).any(2) for image in drawn(images, 64, tile=True)], axis=0)
    quarters = where[:100, :100], where[:100, 100:], where[100:, :100], where[100:, 100:]
    assert all(quarter.sum() > 0 for quarter in quarters)


def test_nothing_is_drawn_outside_of_what_is_inspected():
    half = np.zeros((64, 64), bool)
    half[:, :32] = True
    images = [good(0, 64, 64)]
    for image in drawn(images, roi=Roi(half)):
        assert not (image != images[0])[:, 33:].any()


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((200, 256), {"tile": True}),
        ((128, 256), {"image_size": (128, 256), "crop_size": 64}),
        ((96, 256), {"image_size": (128, 256), "crop_size": 64, "fit": "pad"}),
    ],
)
def test_of_an_anomaly_in_a_crop_something_is_inspected(size, settings):
    strip = np.zeros(size, bool)
    strip[40:50] = True
    images = [good(0, *size)]
    found = drawn(images, 32, roi=Roi(strip), **settings)
    assert found
    assert all((image != images[0]).any(2)[strip].any() for image in found)


def test_the_seed_gives_the_same_again():
    images = [good(number, 64, 64) for number in range(2)]
    first, again, other = drawn(images), drawn(images), drawn(images, seed=1)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
