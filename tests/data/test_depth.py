"""Values of fewer than 16 bits in 16-bit images: scaled as asked for, and told where not."""

import io
import logging

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from destseg.config import DataSettings
from destseg.data.decoded import GoodImages
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import as_image, decode_image, read_image, read_many
from destseg.errors import ImageError

DEPTHS = (8, 10, 12, 14, 16)


def literal(values: np.ndarray, bits: int) -> np.ndarray:
    """The rule in floating point, RGB."""
    grey = np.rint(values.astype(np.float64) * 255 / (2**bits - 1)).astype(np.uint8)
    return grey if grey.ndim == 3 else np.stack([grey] * 3, axis=-1)


def noise(bits: int, *shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2**bits, shape, np.uint16)
    values.flat[:2] = 0, 2**bits - 1
    return values


# ---- the setting


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_value_of_every_depth_is_rounded(bits):
    values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1)
    np.testing.assert_array_equal(as_image(values, bit_depth=bits), literal(values, bits))
    assert set(np.unique(as_image(values, bit_depth=bits))) == set(range(256))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_files_bytes_and_many(tmp_path, suffix, shape):
    values = noise(12, *shape)
    colours = values[..., :3] if len(shape) == 3 else values
    if shape[-1] == 4:
        values[..., 3] = 65535  # opaque: alpha is no measurement
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if len(shape) == 3 else None)
    else:
        order = [2, 1, 0, 3][: shape[-1]]
        cv2.imwrite(str(path), values[..., order] if len(shape) == 3 else values)
    expected = literal(colours, 12)
    np.testing.assert_array_equal(read_image(path, bit_depth=12), expected)
    np.testing.assert_array_equal(decode_image(path.read_bytes(), bit_depth=12), expected)
    np.testing.assert_array_equal(as_image(values, bit_depth=12), expected)
    (many,) = read_many([path], size=None, bit_depth=12)
    np.testing.assert_array_equal(many, expected)
    np.testing.assert_array_equal(read_image(path), literal(colours, 16))


def test_8_bits_stay_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", bit_depth=12), values)
    np.testing.assert_array_equal(as_image(values, bit_depth=12), values)


def test_values_above_the_range_are_refused(tmp_path):
    values = noise(12, 5, 5)
    values[4, 4] = 4096
    cv2.imwrite(str(tmp_path / "a.png"), values)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([values] * 3, -1), photometric="rgb")
    message = r"expected 12-bit values, 0 to 4095 \(--bit-depth 12\), got 4096; "
    for name in ("a.png", "a.tif"):
        with pytest.raises(ImageError, match=rf"{name}: {message}"):
            read_image(tmp_path / name, bit_depth=12)
    with pytest.raises(ImageError, match=message):
        as_image(values, bit_depth=12)
    with pytest.raises(ImageError, match=message):
        as_image(Image.fromarray(values), bit_depth=12)


# ---- the note


def forms(values: np.ndarray, folder) -> list:
    cv2.imwrite(str(folder / "a.png"), values)
    tifffile.imwrite(folder / "a.tif", values)
    cv2.imwrite(str(folder / "rgb.png"), np.stack([values] * 3, -1))
    paths = [folder / name for name in ("a.png", "a.tif", "rgb.png")]
    return [*paths, str(paths[0]), paths[1].read_bytes(), values, Image.fromarray(values)]


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_note_says_how_much_is_left_and_what_to_do(tmp_path, bits):
    values = noise(bits, 6, 6)
    levels = len(np.unique(as_image(np.arange(2**bits, dtype=np.uint16).reshape(1, -1))))
    for image in forms(values, tmp_path):
        note = depth_note([image])
        assert f"above {2**bits - 1} of 65535" in note
        assert f"leaves {levels} of 256 grey levels" in note
        assert note.endswith(f"train with --bit-depth {bits}")
        assert is_dim(as_image(values), 16)


def test_there_is_no_note_where_nothing_is_wrong(tmp_path):
    for image in forms(noise(15, 6, 6), tmp_path):
        assert depth_note([image]) is None
    dark = np.full((6, 6), 9, np.uint8)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    Image.fromarray(dark).save(tmp_path / "dark.tif")
    black = np.zeros((6, 6), np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(dark).save(encoded, "JPEG")
    for image in (tmp_path / "dark.png", tmp_path / "dark.tif", dark, encoded.getvalue(), black):
        assert depth_note([image]) is None
    assert not is_dim(dark, 12)


def written(folder, *bits: int) -> list:
    paths = []
    for number, depth in enumerate(bits):
        paths.append(folder / f"{number}.png")
        values = noise(depth, 64, 64, seed=number)
        cv2.imwrite(str(paths[-1]), values if depth > 8 else values.astype(np.uint8))
    return paths


def told(paths, caplog, **changes) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "destseg"):
        GoodImages(paths, DataSettings(image_size=64, **changes))
    return [record.getMessage() for record in caplog.records]


def test_training_tells_once_of_a_set_and_not_where_one_image_has_16_bits(tmp_path, caplog):
    (note,) = told(written(tmp_path, 12, 12, 10), caplog)
    assert note.startswith("no value of 3 16-bit images is above 4095 of 65535")
    (note,) = told(written(tmp_path, 12, 8, 8), caplog)
    assert "no value of 1 16-bit image is" in note
    assert told(written(tmp_path, 12, 16, 12), caplog) == []
    assert told(written(tmp_path, 8, 8), caplog) == []


def test_training_reads_by_the_setting_cached_or_not(tmp_path, caplog):
    paths = written(tmp_path, 12, 12)
    assert told(paths, caplog, bit_depth=12) == []
    for cache in (4.0, 0.0):
        images = GoodImages(paths, DataSettings(image_size=64, bit_depth=12, cache_gib=cache))
        for index in range(2):
            np.testing.assert_array_equal(images[index], literal(noise(12, 64, 64, seed=index), 12))
