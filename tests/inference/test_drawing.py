import itertools

import numpy as np
import pytest
from PIL import Image

from destseg.data.drawing import outline, overlay
from destseg.errors import ImageError, SettingsError


@pytest.fixture
def spotted(tmp_path):
    image = np.full((80, 120, 3), 20, np.uint8)
    image[20:40, 30:70] = 255
    Image.fromarray(image).save(tmp_path / "part.png")
    return tmp_path / "part.png", image


def test_a_drawing_is_the_image_its_heatmap_and_the_outline_of_its_regions(predictor, spotted):
    path, image = spotted
    result = predictor.predict(path)
    drawn = result.overlay()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    covered = overlay(image, result.heatmap)
    np.testing.assert_array_equal(drawn, outline(covered, result.heatmap > 0.3, thickness=1))
    red = (drawn == (255, 0, 0)).all(axis=-1)
    box = result.regions[0]
    assert red[box.y, box.x + box.width // 2]
    assert red[box.y + box.height // 2, box.x]
    assert not red[box.y + box.height // 2, box.x + box.width // 2]


def test_a_good_image_has_no_outline(predictor, tmp_path):
    image = np.zeros((50, 60, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "part.png")
    drawn = predictor.predict(tmp_path / "part.png").overlay()
    np.testing.assert_array_equal(drawn, image)


def test_the_colours_are_on_a_fixed_scale(make_predictor, spotted):
    """A weaker map is another drawing: nothing is stretched to the image's own range."""
    path, _ = spotted

    def middle(strength: float) -> np.ndarray:
        predictor = make_predictor(lambda x: strength * x[..., 0].astype(np.float32) / 255)
        return predictor.predict(path).overlay()[30, 50].astype(int)

    colours = [middle(strength) for strength in (0.35, 0.5, 0.7, 1.0)]  # all above the threshold
    for weak, strong in itertools.pairwise(colours):
        assert np.abs(weak - strong).max() > 20


def test_lines_are_thicker_on_large_images(predictor, tmp_path):
    def red_pixels(scale: int) -> int:
        image = np.zeros((200 * scale, 200 * scale, 3), np.uint8)
        image[50 * scale : 150 * scale, 50 * scale : 150 * scale] = 255
        path = tmp_path / f"{scale}.png"
        Image.fromarray(image).save(path)
        return int((predictor.predict(path).overlay() == (255, 0, 0)).all(axis=-1).sum())

    assert red_pixels(6) > 2 * 6 * red_pixels(1)


def test_a_drawing_is_of_any_form_of_the_image(predictor, spotted):
    path, image = spotted
    expected = predictor.predict(path).overlay()
    for form in (str(path), path.read_bytes(), Image.open(path), image):
        np.testing.assert_array_equal(predictor.predict(form).overlay(form), expected)


def test_a_drawing_of_16_bits_has_the_models_depth(make_predictor, tmp_path):
    values = np.full((64, 64), 2000, np.uint16)
    Image.fromarray(values).save(tmp_path / "part.png")
    drawn = make_predictor(lambda x: 0 * x[..., 0].astype(np.float32), bit_depth=12)
    grey = drawn.predict(tmp_path / "part.png").overlay()
    assert (grey == round(2000 * 255 / 4095)).all()


def test_an_overlay_is_written_and_never_over_the_image(predictor, spotted, tmp_path, monkeypatch):
    path, image = spotted
    result = predictor.predict(path)
    result.save_overlay(tmp_path / "deep" / "drawn.png")
    written = np.array(Image.open(tmp_path / "deep" / "drawn.png"))
    np.testing.assert_array_equal(written, result.overlay())
    monkeypatch.setenv("HOME", str(tmp_path))
    result.save_overlay("~/home.png", image)
    assert (tmp_path / "home.png").is_file()
    before = path.read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(path)
    for target in (path, link):
        with pytest.raises(SettingsError, match="not read from"):
            result.save_overlay(target)
        with pytest.raises(SettingsError, match="not read from"):
            predictor.predict(image).save_overlay(target, path)
    assert path.read_bytes() == before


def test_what_cannot_be_drawn_on_says_what_to_give(predictor, spotted):
    path, image = spotted
    with pytest.raises(ImageError, match=r"image 0: expected a file to draw on.*give the image"):
        predictor.predict(image).overlay()
    result = predictor.predict(path)
    with pytest.raises(ImageError, match="expected the image that was inspected, 120 x 80"):
        result.overlay(image[:40])
    Image.fromarray(np.tile(image, (2, 1, 1))).save(path)
    with pytest.raises(ImageError, match="expected at most 9600 pixels"):
        result.overlay()


def test_a_region_of_a_narrow_image_is_not_covered_by_its_outline(make_predictor):
    image = np.full((40, 20000, 3), 20, np.uint8)
    image[12:28, 9980:10020] = 255
    drawn = make_predictor(image_size=64, tile=True).predict(image).overlay(image)
    rows, columns = np.nonzero((drawn == (255, 0, 0)).all(axis=-1))
    assert 9975 < columns.min() < columns.max() < 10025
    assert 9 < rows.min() < rows.max() < 31
    assert not ((rows == 20) & (columns == 10000)).any()
