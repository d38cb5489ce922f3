import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from destseg.data.drawing import colour_map, contact_sheet, outline, overlay


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_colours_depend_on_the_value_and_never_on_its_neighbours():
    scale = np.linspace(0, 1, 256, dtype=np.float32)[None]
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_TURBO)
    np.testing.assert_array_equal(colour_map(scale), table[..., ::-1])
    for index in (0, 100, 255):
        alone = colour_map(scale[:, index : index + 1])
        np.testing.assert_array_equal(alone, table[:, index : index + 1, ::-1])


def test_the_scale_goes_from_dark_blue_to_red_and_clips():
    low, low_too, high, high_too = colour_map(np.array([[-3.0, 0.0, 1.0, 7.0]]))[0].astype(int)
    assert (low == low_too).all()
    assert (high == high_too).all()
    assert low[2] > low[0]
    assert high[0] > 2 * high[2]


@given(
    heat=arrays.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    opacity=st.floats(0, 1),
)
def test_an_overlay_mixes_by_the_maps_value(heat, opacity):
    image = noise(3, 4, 3)
    weight = opacity * heat[..., None].astype(np.float64)
    expected = (1 - weight) * image + weight * colour_map(heat)
    drawn = overlay(image, heat, opacity=opacity)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn - expected).max() <= 0.51


def test_an_overlay_leaves_the_image_where_the_map_is_zero_and_does_not_change_its_input():
    image, heat = noise(6, 8, 3), np.zeros((6, 8), np.float32)
    heat[2, 3] = 1
    before = image.copy()
    changed = (overlay(image, heat) != image).any(axis=-1)
    assert np.argwhere(changed).tolist() == [[2, 3]]
    np.testing.assert_array_equal(image, before)


def test_an_outline_is_the_border_of_the_region_and_of_its_hole():
    mask = np.zeros((12, 12), bool)
    mask[2:10, 2:10] = True
    mask[5:7, 5:7] = False
    image = np.zeros((12, 12, 3), np.uint8)
    drawn = outline(image, mask, (10, 20, 30), 1)
    # By definition: pixels of the mask with a neighbour outside of it.
    inner = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    border = mask & (inner == 0)
    painted = (drawn == (10, 20, 30)).all(axis=-1)
    np.testing.assert_array_equal(painted, border)
    assert not drawn[~painted].any()
    assert not image.any()
    thick = (outline(image, mask, (10, 20, 30), 3) == (10, 20, 30)).all(axis=-1)
    assert thick.sum() > painted.sum()


def test_an_empty_mask_draws_nothing():
    image = noise(5, 5, 3)
    np.testing.assert_array_equal(outline(image, np.zeros((5, 5), bool)), image)


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"map of \[4, 5\], got \[5, 4\]"):
        overlay(noise(4, 5, 3), np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"map of \[4, 5\], got \[5, 4\]"):
        outline(noise(4, 5, 3), np.zeros((5, 4), bool))


def test_a_contact_sheet_puts_every_image_into_its_cell():
    first, second, grey = noise(32, 32, 3), 255 - noise(32, 32, 3), noise(32, 32)
    sheet = contact_sheet([[first, second], [grey]], cell=(32, 32), gap=4)
    assert sheet.shape == (4 + 2 * 36, 4 + 2 * 36, 3)
    np.testing.assert_array_equal(sheet[4:36, 4:36], first)
    np.testing.assert_array_equal(sheet[4:36, 40:72], second)
    np.testing.assert_array_equal(sheet[40:72, 4:36], np.stack([grey] * 3, axis=-1))
    sheet[4:36, 4:36] = sheet[4:36, 40:72] = sheet[40:72, 4:36] = 255
    assert (sheet == 255).all()


def test_images_keep_their_aspect_and_are_centred():
    sheet = contact_sheet(
        [[np.zeros((20, 40, 3), np.uint8), np.zeros((8, 4), np.uint8)]], cell=(16, 16)
    )
    black = (sheet == 0).all(axis=-1)
    expected = np.zeros_like(black)
    expected[8 + 4 : 8 + 12, 8:24] = True
    expected[8:24, 32 + 4 : 32 + 12] = True
    np.testing.assert_array_equal(black, expected)


def test_headings_are_written_above_their_columns_and_stay_inside():
    images = [np.full((64, 64, 3), 255, np.uint8)] * 2
    sheet = contact_sheet([images], cell=(64, 64), gap=8, captions=["a very long heading", ""])
    ink = (sheet < 128).any(axis=-1)
    rows, columns = np.nonzero(ink)
    assert ink.sum() > 20
    assert rows.min() >= 8
    assert rows.max() < 8 + 16
    assert columns.min() >= 8
    assert columns.max() < 8 + 64
    assert sheet.shape[0] == 8 + 16 + 72


def test_sheets_without_images_or_with_other_headings_are_refused():
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="at least one image"):
            contact_sheet(rows)
    with pytest.raises(ValueError, match="expected 1 captions, one a column, got 2"):
        contact_sheet([[noise(4, 4, 3)]], captions=["a", "b"])
