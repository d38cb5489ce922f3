import itertools

import numpy as np
import pytest
from PIL import Image

from destseg.data.drawing import outline, overlay
from destseg.inference.drawing import draw_result


@pytest.fixture
def spotted(tmp_path):
    image = np.full((80, 120, 3), 20, np.uint8)
    image[20:40, 30:70] = 255
    Image.fromarray(image).save(tmp_path / "part.png")
    return tmp_path / "part.png", image


def test_a_drawing_is_the_image_its_heatmap_and_the_outline_of_its_regions(predictor, spotted):
    path, image = spotted
    result = predictor.predict(path)
    drawn = draw_result(path, result)
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
    drawn = draw_result(tmp_path / "part.png", predictor.predict(tmp_path / "part.png"))
    np.testing.assert_array_equal(drawn, image)


def test_the_colours_are_on_a_fixed_scale(make_predictor, spotted):
    """A weaker map is another drawing: nothing is stretched to the image's own range."""
    path, _ = spotted

    def middle(strength: float) -> np.ndarray:
        predictor = make_predictor(lambda x: strength * x[..., 0].astype(np.float32) / 255)
        return draw_result(path, predictor.predict(path))[30, 50].astype(int)

    colours = [middle(strength) for strength in (0.35, 0.5, 0.7, 1.0)]  # all above the threshold
    for weak, strong in itertools.pairwise(colours):
        assert np.abs(weak - strong).max() > 20


def test_lines_are_thicker_on_large_images(predictor, tmp_path):
    def red_pixels(scale: int) -> int:
        image = np.zeros((200 * scale, 200 * scale, 3), np.uint8)
        image[50 * scale : 150 * scale, 50 * scale : 150 * scale] = 255
        path = tmp_path / f"{scale}.png"
        Image.fromarray(image).save(path)
        return int((draw_result(path, predictor.predict(path)) == (255, 0, 0)).all(axis=-1).sum())

    assert red_pixels(6) > 2 * 6 * red_pixels(1)


def test_an_image_beyond_the_default_limit_that_was_allowed_is_drawn(
    predictor, spotted, monkeypatch
):
    path, _ = spotted
    result = predictor.predict(path)
    asked = []
    import destseg.inference.drawing as module

    read = module.read_image
    monkeypatch.setattr(
        module,
        "read_image",
        lambda p, max_pixels: asked.append(max_pixels) or read(p, max_pixels=max_pixels),
    )
    draw_result(path, result)
    assert asked == [80 * 120]
