import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from destseg.data.roi import POLYGON_SIDE, Roi, read_roi
from destseg.errors import DataError, ImageError


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


masks = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


# ---- from files


@pytest.mark.parametrize("value", [1, 255])
def test_an_images_pixels_that_are_not_0_are_inspected(value, tmp_path):
    mask = np.random.default_rng(0).random((30, 50)) > 0.5
    Image.fromarray((mask * value).astype(np.uint8)).save(tmp_path / "roi.png")
    np.testing.assert_array_equal(read_roi(tmp_path / "roi.png").mask, mask)


def inside(points, y, x):
    """Whether a point lies in a polygon: it crosses an odd number of edges on its right."""
    crossed = False
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
            crossed = not crossed
    return crossed


POLYGONS = [
    [[0.1, 0.2], [0.45, 0.1], [0.4, 0.7], [0.25, 0.4]],
    [[0.3, 0.3], [0.95, 0.5], [0.6, 0.97]],
]


def test_polygons_are_shares_of_width_and_height(tmp_path):
    mask = read_roi(write(tmp_path / "roi.JSON", {"polygons": POLYGONS})).mask
    assert mask.shape == (POLYGON_SIDE, POLYGON_SIDE)
    coarse = 64
    step = POLYGON_SIDE // coarse
    literal = np.array(
        [
            [
                any(
                    inside(each, (row + 0.5) / coarse, (column + 0.5) / coarse) for each in POLYGONS
                )
                for column in range(coarse)
            ]
            for row in range(coarse)
        ]
    )
    drawn = mask[step // 2 :: step, step // 2 :: step]
    assert (drawn != literal).mean() < 0.002
    assert mask.mean() == pytest.approx(literal.mean(), abs=0.01)


def test_the_whole_square_is_the_whole_image_and_halves_are_halves(tmp_path):
    square = [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert read_roi(write(tmp_path / "a.json", {"polygons": [square]})).mask.all()
    left = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    mask = read_roi(write(tmp_path / "b.json", {"polygons": [left]})).mask
    assert mask[:, : POLYGON_SIDE // 2].all()
    assert not mask[:, POLYGON_SIDE // 2 + 1 :].any()
    # Where polygons overlap there is no hole.
    both = read_roi(write(tmp_path / "c.json", {"polygons": [square, left]})).mask
    assert both.all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "got no JSON"),
        ("[]", r"got \[\]"),
        ({"polygon": []}, "got"),
        ({"polygons": []}, "got"),
        ({"polygons": 3}, "got"),
        ({"polygons": [[[0, 0], [1, 1]]]}, "polygon 1: .* at least three"),
        ({"polygons": [[[0, 0], [1, 1], [0, 1]], [[0, 0, 0]] * 3]}, "polygon 2"),
        ({"polygons": [[[0, 0], [1, "1"], [0, 1]]]}, "polygon 1"),
        ({"polygons": [[[0, 0], [1, True], [0, 1]]]}, "polygon 1"),
        ({"polygons": [[[0, 0], [1.01, 1], [0, 1]]]}, r"in \[0, 1\], got \[1.01, 1\]"),
        ({"polygons": [[[0, 0], [640, 480], [0, 480]]]}, "divide pixels"),
        ('{"polygons": [[[0, 0], [NaN, 1], [0, 1]]]}', r"in \[0, 1\]"),
    ],
)
def test_polygons_that_are_none_are_refused(content, message, tmp_path):
    path = write(tmp_path / "roi.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_roi(path)
    assert str(path) in str(caught.value)


def test_missing_and_empty_regions_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.json.*No such file"):
        read_roi(tmp_path / "missing.json")
    with pytest.raises(ImageError, match="nothing there"):
        read_roi(tmp_path / "missing.png")
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ImageError):
        read_roi(tmp_path / "words.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(DataError, match=r"black\.png: expected .* pixels to inspect"):
        read_roi(tmp_path / "black.png")


# ---- at other sizes


@given(masks, st.integers(1, 5), st.integers(1, 5))
def test_enlarged_by_whole_numbers_it_is_repeated(mask, down, right):
    height, width = mask.shape
    enlarged = Roi(mask).at((height * down, width * right))
    np.testing.assert_array_equal(enlarged, np.kron(mask, np.ones((down, right), bool)))


@given(masks, st.integers(0, 20), st.integers(0, 20))
def test_enlarged_a_pixel_is_the_one_at_its_middle(mask, down, right):
    height, width = mask.shape[0] + down, mask.shape[1] + right
    enlarged = Roi(mask).at((height, width))
    for row in range(height):
        for column in range(width):
            y = int((row + 0.5) * mask.shape[0] / height + 1e-9)
            x = int((column + 0.5) * mask.shape[1] / width + 1e-9)
            assert enlarged[row, column] == mask[y, x]


@given(masks, st.integers(1, 3), st.integers(1, 3))
def test_made_smaller_by_whole_numbers_a_part_that_is_inspected_counts(mask, down, right):
    large = np.kron(mask, np.ones((down, right), bool))
    np.testing.assert_array_equal(Roi(large).at(mask.shape), mask)


@given(masks, st.integers(1, 30), st.integers(1, 30))
def test_a_region_never_vanishes(mask, height, width):
    assert Roi(mask).at((height, width)).any()
    assert Roi(mask).at((height, width)).shape == (height, width)


@given(masks)
def test_the_file_in_a_bundle_gives_it_back(mask):
    content = Roi(mask).to_png()
    assert content == Roi(mask).to_png()
    np.testing.assert_array_equal(Roi.from_png(content).mask, mask)


def test_pils_limit_does_not_hold_for_a_bundles_own_region(monkeypatch):
    mask = np.arange(60).reshape(6, 10) % 3 == 0
    content = Roi(mask).to_png()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    np.testing.assert_array_equal(Roi.from_png(content).mask, mask)
