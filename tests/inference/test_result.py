import dataclasses
import functools
import json
import pickle

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from destseg.data.bands import bands
from destseg.errors import ImageError
from destseg.inference.result import Failure, Region, Result, find_regions

maps = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1, width=32),
)


def literal_regions(heatmap: np.ndarray, threshold: float) -> list[Region]:
    """By scipy's labels and one loop over all pixels."""
    labels, count = scipy.ndimage.label(heatmap > threshold, structure=np.ones((3, 3)))
    found = []
    for label in range(1, count + 1):
        pixels = [(y, x) for y, x in np.ndindex(heatmap.shape) if labels[y, x] == label]
        ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
        peak = max(heatmap[pixel] for pixel in pixels)
        peak_y, peak_x = next(pixel for pixel in pixels if heatmap[pixel] == peak)
        found.append(
            Region(
                x=min(xs),
                y=min(ys),
                width=max(xs) - min(xs) + 1,
                height=max(ys) - min(ys) + 1,
                area=len(pixels),
                peak=float(peak),
                peak_x=peak_x,
                peak_y=peak_y,
            )
        )
    return found


@given(heatmap=maps, threshold=st.sampled_from([0.0, 0.25, 0.5, 0.9]) | st.floats(0, 1))
def test_regions_are_the_connected_parts_above_the_threshold(heatmap, threshold):
    regions = find_regions(heatmap, threshold)
    assert set(regions) == set(literal_regions(heatmap, threshold))
    assert len(regions) == len(set(regions))
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)
    assert sum(region.area for region in regions) == (heatmap > threshold).sum()


@pytest.mark.parametrize("seed", range(4))
def test_regions_of_a_large_map_are_those_of_scikit_image(seed):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((300, 420)).astype(np.float32), (0, 0), 2.5 + seed)
    threshold = float(np.quantile(noise, 0.8))
    regions = find_regions(noise, threshold)
    expected = skimage.measure.regionprops(
        skimage.measure.label(noise > threshold, connectivity=2), intensity_image=noise
    )
    assert len(regions) == len(expected) > 20
    assert {
        (r.y, r.x, r.y + r.height, r.x + r.width, r.area, np.float32(r.peak)) for r in regions
    } == {(*e.bbox, int(e.area), np.float32(e.intensity_max)) for e in expected}
    for region in regions:
        assert noise[region.peak_y, region.peak_x] == np.float32(region.peak)


def test_pixels_that_touch_at_a_corner_are_one_region():
    heatmap = np.eye(5, dtype=np.float32)
    (region,) = find_regions(heatmap, 0.5)
    assert region == Region(x=0, y=0, width=5, height=5, area=5, peak=1.0, peak_x=0, peak_y=0)


def test_a_hole_and_a_neighbour_inside_the_box_do_not_count():
    heatmap = np.zeros((7, 9), np.float32)
    heatmap[1:6, 2:7] = 0.6
    heatmap[2:5, 3:6] = 0.1
    heatmap[3, 4] = 0.9  # inside the ring's box, and higher than the ring
    inner, ring = find_regions(heatmap, 0.5)
    assert (inner.area, inner.x, inner.y, inner.peak) == (1, 4, 3, pytest.approx(0.9))
    assert (ring.area, ring.peak) == (25 - 9, pytest.approx(0.6))
    assert (ring.x, ring.y, ring.width, ring.height) == (2, 1, 5, 5)


def test_the_threshold_itself_is_not_above_it():
    assert find_regions(np.full((4, 4), 0.5, np.float32), 0.5) == ()
    assert len(find_regions(np.full((4, 4), 0.5, np.float32), np.nextafter(0.5, 0))) == 1
    assert find_regions(np.zeros((4, 4), np.float32), 0.0) == ()


def test_all_numbers_of_a_region_are_pythons_own():
    for region in find_regions(np.random.default_rng(0).random((9, 9)).astype(np.float32), 0.5):
        assert {type(value) for value in vars(region).values()} <= {int, float}


def test_regions_of_a_part_of_the_map_lie_where_they_are(monkeypatch):
    monkeypatch.setattr("destseg.inference.result.bands", functools.partial(bands, pixels=16))
    heatmap = np.zeros((300, 200), np.float32)
    heatmap[100:120, 50:90] = 0.6
    heatmap[119, 60] = heatmap[110, 70] = 0.9  # the first of equal peaks, row by row
    heatmap[250, 199] = 0.7
    first, second = find_regions(heatmap, 0.5)
    assert first == Region(50, 100, 40, 20, 800, pytest.approx(0.9), 70, 110)
    assert second == Region(199, 250, 1, 1, 1, pytest.approx(0.7), 199, 250)


def result_of(anomaly_map: np.ndarray, height: int, width: int) -> Result:
    result = Result(
        path="a/part.png",
        score=0.5,
        p_value=0.25,
        is_defective=True,
        threshold=0.4,
        pixel_threshold=0.6,
        anomaly_map=anomaly_map,
        height=height,
        width=width,
        regions=(),
    )
    return Result(**{**vars(result), "regions": find_regions(result.heatmap, 0.6)})


@given(
    anomaly_map=arrays.arrays(
        np.float32, (8, 8), elements=st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32)
    ),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_the_heatmap_has_the_images_size_and_keeps_the_fixed_scale(anomaly_map, height, width):
    heatmap = result_of(anomaly_map, height, width).heatmap
    assert heatmap.shape == (height, width)
    assert heatmap.dtype == np.float32
    assert heatmap.min() >= anomaly_map.min() - 1e-6
    assert heatmap.max() <= anomaly_map.max() + 1e-6


def test_the_heatmap_lies_on_the_image_with_half_pixel_centres():
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[:, 2:] = 0.5
    heatmap = result_of(anomaly_map, 8, 16).heatmap
    # Between the centres of the second and third column, at 6 and 10, it rises linearly.
    centres = np.arange(16) + 0.5
    np.testing.assert_allclose(heatmap, np.tile(np.interp(centres, [6, 10], [0, 0.5]), (8, 1)))


def test_the_heatmap_is_not_stretched_to_the_images_own_range():
    assert result_of(np.full((4, 4), 0.03, np.float32), 9, 5).heatmap.max() == np.float32(0.03)


def test_a_result_as_json_has_all_but_the_map():
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:4, 5:7] = 0.75
    result = result_of(anomaly_map, 8, 8)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == {
        "path": "a/part.png",
        "score": 0.5,
        "p_value": 0.25,
        "is_defective": True,
        "threshold": 0.4,
        "width": 8,
        "height": 8,
        "regions": [
            {
                "x": 5,
                "y": 2,
                "width": 2,
                "height": 2,
                "area": 4,
                "peak": 0.75,
                "peak_x": 5,
                "peak_y": 2,
            }
        ],
    }


def test_changing_the_json_does_not_change_the_result():
    result = result_of(np.ones((8, 8), np.float32), 8, 8)
    result.to_json()["regions"][0]["x"] = 99
    assert result.regions[0].x == 0


def test_a_failure_as_json_has_the_reason_alone():
    failure = Failure("a/part.png", ImageError("a/part.png", "expected this, got that"))
    assert failure.to_json() == {"path": "a/part.png", "error": "expected this, got that"}


def test_a_result_is_a_value():
    result, same = (result_of(np.eye(8, dtype=np.float32), 16, 24) for _ in range(2))
    assert result == same
    assert hash(result) == hash(same)
    assert {result, same} == {result}
    assert pickle.loads(pickle.dumps(result)) == result
    for changed in ({"score": 0.6}, {"path": "b.png"}, {"anomaly_map": np.zeros((8, 8))}):
        assert dataclasses.replace(result, **changed) != result
    assert result != "a/part.png"
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.score = 0.0


def test_a_result_is_shown_in_one_line():
    result = result_of(np.ones((300, 300), np.float32), 2000, 3000)
    assert repr(result) == (
        "Result(path='a/part.png', score=0.5000, p_value=0.2500, is_defective=True, regions=1, "
        "map=300x300, image=3000x2000)"
    )


def test_a_failure_is_a_value():
    failure, same, other = (
        Failure("a.png", ImageError("a.png", reason)) for reason in ("this", "this", "that")
    )
    assert failure == same == pickle.loads(pickle.dumps(failure))
    assert failure != other
    assert {failure, same} == {failure}
    assert failure != "a.png"
