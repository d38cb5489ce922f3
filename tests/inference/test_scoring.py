import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from destseg.inference.scoring import image_score

# --- the score


def test_the_papers_share_is_the_mean_of_the_top_100_of_256_squared():
    anomaly_map = np.random.default_rng(0).random((256, 256)).astype(np.float32)
    top_100 = np.sort(anomaly_map.ravel())[-100:]
    assert image_score(anomaly_map, 100 / 65536) == pytest.approx(
        top_100.astype(np.float64).mean(), rel=1e-12
    )
    # Exactly 100: one more or one less would give another mean.
    spots = np.zeros((256, 256), np.float32)
    spots.ravel()[np.random.default_rng(1).permutation(65536)[:100]] = 1
    assert image_score(spots, 100 / 65536) == 1
    spots.ravel()[np.flatnonzero(spots)[0]] = 0
    assert image_score(spots, 100 / 65536) == pytest.approx(0.99)


def test_a_share_means_the_same_at_any_size():
    small = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    large = np.kron(small, np.ones((4, 4), np.float32))
    for fraction in (16 / 4096, 0.1, 1.0):
        count = round(fraction * small.size) / small.size
        assert image_score(large, count) == pytest.approx(image_score(small, count), rel=1e-6)


@given(
    anomaly_map=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.floats(0, 1, width=32),
    ),
    fraction=st.floats(1e-6, 1),
)
def test_the_score_is_the_mean_of_the_highest_share(anomaly_map, fraction):
    count = max(1, round(fraction * anomaly_map.size))
    literal = sorted(anomaly_map.ravel().tolist(), reverse=True)[:count]
    score = image_score(anomaly_map, fraction)
    assert isinstance(score, float)
    assert score == pytest.approx(math.fsum(literal) / count, rel=1e-9, abs=1e-12)
    assert 0 <= score <= 1


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64)])
def test_an_even_map_scores_its_value(value, fraction, shape):
    assert image_score(np.full(shape, value, np.float32), fraction) == value


def test_a_tiny_share_is_the_highest_pixel_and_the_whole_is_the_mean():
    anomaly_map = np.array([[0.1, 0.9], [0.5, 0.3]], np.float32)
    assert image_score(anomaly_map, 1e-9) == pytest.approx(0.9)
    assert image_score(anomaly_map, 1.0) == pytest.approx(0.45)


def test_the_score_leaves_the_map_as_it_is():
    anomaly_map = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    before = anomaly_map.copy()
    image_score(anomaly_map, 0.3)
    np.testing.assert_array_equal(anomaly_map, before)
    transposed = image_score(anomaly_map.T[::2], 0.3)
    assert transposed == image_score(np.ascontiguousarray(anomaly_map.T[::2]), 0.3)


@pytest.mark.parametrize("fraction", [1e-9, 1e-4, 0.01, 0.1, 0.2, 1.0])
@pytest.mark.parametrize("levels", [3, 2**24])
def test_a_large_map_scores_exactly_as_if_it_were_taken_at_once(fraction, levels, monkeypatch):
    random = np.random.default_rng(0)
    anomaly_map = (random.integers(0, levels, (120, 90)) / levels).astype(np.float32)
    at_once = image_score(anomaly_map, fraction)
    for pixels in (1, 90, 1000, 5000):
        monkeypatch.setattr("destseg.inference.scoring._PIXELS_AT_A_TIME", pixels)
        assert image_score(anomaly_map, fraction) == at_once
    count = max(1, round(fraction * anomaly_map.size))
    literal = np.sort(anomaly_map.ravel())[::-1][:count].tolist()
    assert at_once == pytest.approx(math.fsum(literal) / count, rel=1e-12)


def test_where_the_values_lie_does_not_change_the_score():
    values = np.random.default_rng(0).random(4096).astype(np.float32)
    scores = {
        image_score(np.random.default_rng(k).permutation(values).reshape(shape), 0.1)
        for k, shape in enumerate([(64, 64), (16, 256), (1, 4096), (4096, 1)])
    }
    assert len(scores) == 1


def test_the_share_is_of_what_is_inspected():
    anomaly_map = np.zeros((40, 50), np.float32)
    inside = anomaly_map[10:20, 10:30]
    inside[:] = np.random.default_rng(0).random(inside.shape)
    for fraction in (1e-9, 0.1, 1.0):
        assert image_score(anomaly_map, fraction, inside.size) == image_score(inside, fraction)
