"""At which size images are seen: against a search by hand, and files that lie on their side."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from destseg.config import DataSettings, Settings
from destseg.data.images import padded, read_image, resize, resize_for_model
from destseg.data.shapes import (
    settled_size,
    shrinking_note,
    size_of,
    turning_note,
    typical_shape,
)
from destseg.errors import DataError


def write(path, height, width, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((900, 900), (256, 256)),
        ((64, 64), (256, 256)),
        ((500, 1250), (160, 416)),
        ((1250, 500), (416, 160)),
        ((460, 1130), (160, 416)),
        ((1080, 1920), (192, 352)),
        ((10, 10_000), (64, 1024)),
    ],
)
def test_the_size_has_the_shape_of_the_images_and_the_area_of_a_square(shape, expected):
    assert size_of(*shape) == expected


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_no_other_size_is_nearer(height, width):
    def off(h, w):
        aspects, areas = (w / h) / (width / height), (h * w) / 256**2
        return max(aspects, 1 / aspects) * max(areas, 1 / areas)

    size = size_of(height, width)
    best = min(off(h, w) for h in range(64, 1025, 32) for w in range(64, 1025, 32))
    assert math.isclose(off(*size), best, rel_tol=1e-9)


def test_a_larger_area_is_kept_to():
    assert size_of(500, 1250, area=4 * 256**2) == (320, 800)


@pytest.mark.parametrize("behind_the_pixels", [False, True])
def test_the_shape_of_a_png_that_lies_on_its_side_is_upright(tmp_path, behind_the_pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "turned.png", 40, 100, exif=exif)
    if behind_the_pixels:
        move_exif_behind_the_pixels(path)
    assert typical_shape([path]) == (100, 40) == read_image(path).shape[:2]


def move_exif_behind_the_pixels(path):
    content, place, chunks = path.read_bytes(), 8, []
    while place < len(content):
        length = 12 + int.from_bytes(content[place : place + 4], "big")
        chunks.append(content[place : place + length])
        place += length
    chunks.insert(-1, chunks.pop(next(k for k, each in enumerate(chunks) if each[4:8] == b"eXIf")))
    path.write_bytes(content[:8] + b"".join(chunks))


def test_no_pixels_are_decoded_to_learn_a_shape(tmp_path, monkeypatch):
    path = write(tmp_path / "1.png", 40, 100)
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("decoded"))
    assert typical_shape([path]) == (40, 100)


def test_the_typical_shape_is_that_of_most_images(tmp_path):
    paths = [write(tmp_path / f"{n}.png", 40, 100) for n in range(7)]
    paths += [write(tmp_path / f"odd{n}.png", 80, 80) for n in range(2)]
    assert typical_shape(paths) == (40, 100)


def test_images_of_many_shapes_have_no_typical_one(tmp_path):
    """As many lie as stand, so either shape would squeeze the others more than a square does."""
    paths = [write(tmp_path / f"lying{n}.png", 40, 90) for n in range(5)]
    paths += [write(tmp_path / f"standing{n}.png", 90, 40) for n in range(4)]
    assert typical_shape(paths) == (60, 60)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_shape_is_that_of_the_upright_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"a.{suffix}", 30, 70, exif=exif)
    assert typical_shape([path]) == read_image(path).shape[:2]


def test_the_shape_of_16_bit_colour_is_read_too(tmp_path):
    import cv2

    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 50, 3), np.uint16))
        assert typical_shape([tmp_path / name]) == (20, 50)


def test_what_cannot_be_read_has_no_shape(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    assert typical_shape([tmp_path / "a.png", tmp_path / "none.png"]) is None
    good = write(tmp_path / "b.png", 30, 60)
    assert typical_shape([tmp_path / "a.png", good]) == (30, 60)


# Settings for a data set


def test_auto_becomes_a_size_and_what_was_chosen_stays(tmp_path):
    write(tmp_path / "good" / "a.png", 50, 125)
    auto = Settings()
    assert settled_size(auto, tmp_path / "good").data.image_size == (160, 416)
    assert settled_size(auto.replace(tile=True), tmp_path / "good").data.image_size == 256
    for chosen in (auto.replace(image_size=(64, 96)), Settings.from_preset("paper")):
        assert settled_size(chosen, tmp_path / "nowhere") == chosen
    with pytest.raises(DataError, match="nowhere"):
        settled_size(auto, tmp_path / "nowhere")


def test_square_images_stay_as_they_were(tmp_path):
    write(tmp_path / "a.png", 300, 300)
    assert settled_size(Settings(), tmp_path) == Settings.from_preset(image_size=256)


def test_it_is_said_what_becomes_of_small_defects():
    data = DataSettings(image_size=(160, 416))
    note = shrinking_note((500, 1250), data)
    assert "500x1250 pixels (height x width) are seen at 160x416: 3.1 times smaller" in note
    assert "a defect of 10 pixels becomes 3" in note
    assert "--image-size 320x800 (3.8 times the computing" in note
    assert "smaller" not in shrinking_note((160, 416), data)
    assert "tiles of 64x64" in shrinking_note((500, 500), DataSettings(image_size=64, tile=True))


def test_of_padded_images_it_is_said_what_becomes_of_them_and_not_of_the_padding():
    data = DataSettings(image_size=256, fit="pad")
    seen = resize_for_model(np.zeros((400, 3200, 3), np.uint8), data).shape[:2]
    assert seen == (32, 256)
    note = shrinking_note((400, 3200), data)
    assert "are seen at 32x256, padded to 256x256: 12.5 times smaller" in note
    assert "a defect of 10 pixels becomes 1." in note
    larger = re.search(r"--image-size (\d+)x(\d+) \((.+) times the computing", note)
    assert math.isclose(int(larger[1]) / int(larger[2]), 400 / 3200, rel_tol=0.1)
    assert float(larger[3]) == round(int(larger[1]) * int(larger[2]) / 256**2, 1)
    assert "padded" not in shrinking_note((500, 500), data)


@pytest.mark.parametrize("shape", [(40, 2000), (2000, 40)])
def test_of_squeezed_images_it_is_said_how_much_their_long_side_loses(shape):
    spot = np.zeros((*shape, 3), np.uint8)
    along = int(np.argmax(shape))
    spot[(slice(None),) * along + (slice(1000, 1010),)] = 255
    seen = resize_for_model(spot, DataSettings(image_size=256))[..., 0].mean(1 - along) / 255
    note = shrinking_note(shape, DataSettings(image_size=256))
    assert seen.sum() == pytest.approx(10 / 7.8, rel=0.02)
    assert "are seen at 256x256: 7.8 times smaller, so a defect of 10 pixels becomes 1." in note
    assert f"--image-size {'64x1024' if along else '1024x64'} (1.0 times" in note


def test_of_very_long_padded_images_it_is_said_how_much_their_length_loses():
    note = shrinking_note((1, 4000), DataSettings(image_size=64, fit="pad"))
    assert "are seen at 1x64, padded to 64x64: 62.5 times smaller" in note
    assert note.endswith("If you look for smaller ones: --tile")


# Images of other shapes


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_padded_image_keeps_its_shape_and_its_pixels(height, width):
    data = DataSettings(image_size=(64, 96), fit="pad")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    fitted = resize_for_model(image, data)
    h, w = fitted.shape[:2]
    assert h == 64 or w == 96
    scale = min(64 / height, 96 / width)
    assert abs(h - scale * height) <= 1
    assert abs(w - scale * width) <= 1
    np.testing.assert_array_equal(fitted, resize(image, (h, w)))
    seen = padded(fitted, data.size)
    assert seen.shape == (64, 96, 3)
    np.testing.assert_array_equal(seen[:h, :w], fitted)
    assert (seen[h:, :w] == fitted[-1:]).all()
    assert (seen[:h, w:] == fitted[:, -1:]).all()


def test_a_stretched_image_fills_the_size():
    image = np.zeros((50, 50, 3), np.uint8)
    assert resize_for_model(image, DataSettings(image_size=(64, 96))).shape == (64, 96, 3)


def test_a_quarter_turn_that_is_not_made_is_told():
    def told(**options):
        return turning_note(DataSettings(quarter_turns=True, **options))

    assert "160x416" in told(image_size=(160, 416))
    assert "--image-size 256 --fit pad" in told(image_size=(160, 416))
    assert "128x512" in told(image_size=(128, 800))  # of crops
    assert told(image_size=256) is None
    assert told(image_size=(320, 800)) is None  # crops of 256 x 256
    assert turning_note(DataSettings(image_size=(160, 416))) is None
