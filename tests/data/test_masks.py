"""A mask means the same in every format and depth, or is refused with its name."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from destseg.data.masks import read_mask
from destseg.data.roi import read_roi
from destseg.errors import ImageError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ORIENTATION = 0x0112


def blobs(height: int = 90, width: int = 130) -> np.ndarray:
    """Where a made part is defective, bool: a disc, a bar, and a spot of 3 x 3."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (40, 40), 22, 1, -1)
    cv2.rectangle(mask, (80, 20), (118, 31), 1, -1)
    mask[70:73, 100:103] = 1
    return mask > 0


def numbered(mask: np.ndarray) -> np.ndarray:
    """Its regions, 1 to n, int32."""
    return cv2.connectedComponents(mask.astype(np.uint8))[1]


def saved(path: Path, values: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def layers(*channels: np.ndarray | int) -> np.ndarray:
    shape = next(channel.shape for channel in channels if isinstance(channel, np.ndarray))
    planes = [np.broadcast_to(channel, shape) for channel in channels]
    return np.stack(planes, axis=-1).astype(np.uint8)


def palette(path: Path, index: np.ndarray, colours: list[int], **options) -> Path:
    image = Image.fromarray(index.astype(np.uint8), "L")
    image = image.copy()
    image.putpalette(colours)
    image.save(path, **options)
    return path


# ---- the same mask in every lossless form


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("value", [1, 2, 100, 255])
def test_8_bits(tmp_path, suffix, value):
    path = tmp_path / f"m{suffix}"
    saved(
        path,
        blobs() * np.uint8(value),
        "RGB" if suffix == ".webp" else None,
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    np.testing.assert_array_equal(read_mask(path), blobs())


@pytest.mark.parametrize("write", [cv2.imwrite, tifffile.imwrite])
@pytest.mark.parametrize("value", [1, 100, 127, 255, 4095, 65535])
def test_16_bits(tmp_path, write, value):
    path = tmp_path / ("m.png" if write is cv2.imwrite else "m.tif")
    write(str(path), blobs().astype(np.uint16) * np.uint16(value))
    np.testing.assert_array_equal(read_mask(path), blobs())
    colour = np.stack([blobs() * 0, blobs() * value, blobs() * 0], -1).astype(np.uint16)
    write(str(path), colour)
    np.testing.assert_array_equal(read_mask(path), blobs())


def test_one_bit_and_32_bits(tmp_path):
    saved(tmp_path / "bits.png", blobs())
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), blobs())
    tifffile.imwrite(tmp_path / "long.tif", blobs().astype(np.int32) * 70_000)
    np.testing.assert_array_equal(read_mask(tmp_path / "long.tif"), blobs())


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_0_in_a_tiff(tmp_path, photometric, dtype):
    top = np.iinfo(dtype).max
    values = blobs().astype(dtype) * top
    written = values if photometric == "minisblack" else top - values
    tifffile.imwrite(tmp_path / "m.tif", written, photometric=photometric)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), blobs())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_as_upright_as_their_images(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / f"m{suffix}", blobs() * np.uint8(255), exif=exif)
    # From bytes: of a mapped TIFF PIL turns the size and not the pixels.
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("L")) > 127
    assert expected.any()
    np.testing.assert_array_equal(read_mask(path), expected)


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "RGBA", "LA"])
def test_every_mode_of_a_black_and_white_mask(tmp_path, mode):
    path = saved(tmp_path / "m.tif", blobs() * np.uint8(255), mode)
    np.testing.assert_array_equal(read_mask(path), blobs())


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 1), (128, 64, 0)])
def test_a_colour_on_black_is_marked(tmp_path, colour):
    path = saved(tmp_path / "m.png", layers(*(blobs() * np.uint8(value) for value in colour)))
    np.testing.assert_array_equal(read_mask(path), blobs())


def test_all_and_nothing_can_be_marked(tmp_path):
    for suffix in (".png", ".jpg", ".webp"):
        for value in (0, 255):
            path = saved(tmp_path / f"m{suffix}", np.full((40, 50), value, np.uint8))
            np.testing.assert_array_equal(read_mask(path), np.full((40, 50), value > 0))


# ---- numbers of regions


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("factor", [1, 40, 60])
def test_numbered_regions_are_all_marked(tmp_path, dtype, factor):
    values = (numbered(blobs()) * factor).astype(dtype)
    tifffile.imwrite(tmp_path / "m.tif", values)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.tif"), blobs())


def test_regions_that_touch_are_all_marked(tmp_path):
    values = np.zeros((60, 90), np.uint8)
    values[10:50, 10:40], values[10:50, 40:80] = 3, 250
    cv2.rectangle(values, (5, 5), (85, 55), 255, 2)  # as Pascal VOC draws borders
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", values)), values > 0)


def test_a_thin_region_in_a_border_of_another_number_is_never_cut(tmp_path):
    values = np.zeros((40, 60), np.uint8)
    values[10:16, 5:50], values[12:14, 7:48] = 255, 1
    with pytest.raises(ImageError, match=r"m\.png: expected a mask"):
        read_mask(saved(tmp_path / "m.png", values))


# ---- values between


RESAMPLING = [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC]


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.5, 4])
@pytest.mark.parametrize("method", RESAMPLING)
@pytest.mark.parametrize("depth", [8, 16])
def test_softened_edges_are_cut_at_half(tmp_path, scale, method, depth):
    size = (round(130 * scale), round(90 * scale))
    soft = np.asarray(Image.fromarray(blobs() * np.uint8(255)).resize(size, method))
    assert len(np.unique(soft)) > 3
    top = 2**depth - 1
    values = soft.astype(np.uint16) * (top // 255)
    cv2.imwrite(str(tmp_path / "m.png"), values.astype(np.uint8) if depth == 8 else values)
    expected = np.array([[2 * int(value) >= top for value in row] for row in values])
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0)])
def test_lossy_masks_keep_their_area(tmp_path, suffix, quality, colour):
    values = layers(*(blobs() * np.uint8(value) for value in colour))
    options = {"compression": "jpeg"} if suffix == ".tif" else {}
    path = saved(tmp_path / f"m{suffix}", values, quality=quality, **options)
    with Image.open(path) as image:
        assert ((np.asarray(image.convert("RGB")) > 0).any(axis=2) != blobs()).mean() > 0.005
    wrong = np.count_nonzero(read_mask(path) != blobs()) / blobs().sum()
    # Of white nothing moves; colour is stored at half the resolution.
    assert wrong <= (0.01 if colour[1] else 0.15)


def test_a_lossy_mask_saved_again_without_loss_is_still_cut_at_half(tmp_path):
    saved(tmp_path / "m.jpg", blobs() * np.uint8(255), quality=60)
    with Image.open(tmp_path / "m.jpg") as image:
        image.save(tmp_path / "m.png")
    assert np.count_nonzero(read_mask(tmp_path / "m.png") != blobs()) <= 0.01 * blobs().sum()


def gradient() -> np.ndarray:
    return np.tile(np.arange(0, 256, 2, dtype=np.uint8), (60, 1))


def faint() -> np.ndarray:
    image = Image.fromarray(blobs() * np.uint8(100))
    return np.asarray(image.resize((65, 45), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("values", [gradient(), faint(), gradient() // 4 + 190])
def test_what_is_neither_two_levels_nor_numbers_is_refused(tmp_path, suffix, values):
    with pytest.raises(ImageError, match=rf"m\{suffix}: expected .*got values .*save it without"):
        read_mask(saved(tmp_path / f"m{suffix}", values))


@pytest.mark.parametrize("values", [blobs() * np.uint8(1), numbered(blobs()).astype(np.uint8) * 60])
def test_numbers_in_a_lossy_file_are_refused(tmp_path, values):
    with pytest.raises(ImageError, match="two levels, near 0 and near 255"):
        read_mask(saved(tmp_path / "m.jpg", values, quality=95))


def test_a_mask_without_0_is_refused(tmp_path):
    with pytest.raises(ImageError, match="values from 1 to 2 and no 0"):
        read_mask(saved(tmp_path / "m.png", blobs().astype(np.uint8) + 1))


def test_values_below_0_and_between_whole_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", -blobs().astype(np.int32))
    with pytest.raises(ImageError, match="values from -1 to 0"):
        read_mask(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", blobs().astype(np.float32))
    with pytest.raises(ImageError, match="floating-point"):
        read_mask(tmp_path / "b.tif")


# ---- alpha


@pytest.mark.parametrize("colour", [0, 120, 255])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_of_one_colour_alpha_is_the_mask(tmp_path, suffix, colour):
    values = layers(colour, colour, colour, blobs() * 255)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"m{suffix}", values, **options)
    np.testing.assert_array_equal(read_mask(path), blobs())


def test_grey_and_16_bits_have_alpha_too(tmp_path):
    saved(tmp_path / "grey.png", layers(0, blobs() * 255))
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), blobs())
    alpha = blobs().astype(np.uint16) * 65535
    cv2.imwrite(str(tmp_path / "deep.png"), np.stack([alpha * 0] * 3 + [alpha], axis=-1))
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), blobs())


def test_opaque_alpha_says_nothing_and_what_agrees_is_read(tmp_path):
    white = blobs() * 255
    for values in (layers(white, 0, 0, 255), layers(white, white, white, white)):
        np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", values)), blobs())


def test_colours_of_what_is_transparent_are_not_marked(tmp_path):
    values = layers(255, ~blobs() * 255, ~blobs() * 255, blobs() * 255)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", values)), blobs())


def test_soft_edges_of_a_brush_in_alpha_are_cut_at_half(tmp_path):
    soft = cv2.GaussianBlur(blobs().astype(np.uint8) * 255, (0, 0), 1)
    path = saved(tmp_path / "m.png", layers(255, 0, 0, soft))
    np.testing.assert_array_equal(read_mask(path), soft >= 128)


def test_alpha_and_colours_that_disagree_are_refused(tmp_path):
    path = saved(tmp_path / "m.png", layers(*[blobs() * 255] * 3, ~blobs() * 255))
    with pytest.raises(ImageError, match=r"m\.png: expected a mask in the colours or in the alpha"):
        read_mask(path)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_colour_that_a_png_names_as_transparent_is_not_marked(tmp_path, mode):
    white = Image.fromarray(~blobs() * np.uint8(255)).convert(mode)  # marked is black
    white.save(tmp_path / "m.png", transparency=(255,) * 3 if mode == "RGB" else 255)
    with pytest.raises(ImageError, match="both"):
        read_mask(tmp_path / "m.png")
    black = Image.fromarray(blobs() * np.uint8(255)).convert(mode)
    black.save(tmp_path / "m.png", transparency=(0,) * 3 if mode == "RGB" else 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), blobs())


# ---- palettes


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_a_palette_of_numbered_regions(tmp_path):
    for suffix in (".png", ".bmp", ".tif"):
        path = palette(tmp_path / f"m{suffix}", numbered(blobs()), VOC)
        np.testing.assert_array_equal(read_mask(path), blobs())


@pytest.mark.parametrize("colour", [[255, 255, 255], [255, 0, 0]])
def test_a_palette_of_two_colours_goes_by_its_colours(tmp_path, colour):
    # As programs write it that sort a palette: 0 is white, 1 is black.
    path = palette(tmp_path / "m.png", ~blobs(), [*colour, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(path), blobs())


def test_a_palette_whose_numbers_and_colours_disagree_is_refused(tmp_path):
    index = numbered(blobs())
    for colours in (
        [0, 0, 0, 128, 0, 0, 0, 0, 0, 128, 128, 0],  # region 2 would be lost
        [9, 9, 9, 128, 0, 0, 0, 0, 0, 128, 128, 0],  # 0 is not black
        [0] * 12,
    ):
        with pytest.raises(ImageError, match=r"m\.png: expected"):
            read_mask(palette(tmp_path / "m.png", index, colours))
    with pytest.raises(ImageError, match=r"m\.png: expected"):  # none of two is black
        read_mask(palette(tmp_path / "m.png", blobs().astype(np.uint8), [255] * 3 + [255, 0, 0]))


def test_a_palette_with_a_transparent_number(tmp_path):
    index = numbered(blobs())
    path = palette(tmp_path / "m.png", index, [255, 255, 255, *VOC[3:]], transparency=0)
    np.testing.assert_array_equal(read_mask(path), blobs())


# ---- regions of interest, limits, and real masks


def test_regions_of_interest_are_read_alike(tmp_path):
    saved(tmp_path / "roi.jpg", blobs() * np.uint8(255), quality=60)
    np.testing.assert_array_equal(
        read_roi(tmp_path / "roi.jpg").mask, read_mask(tmp_path / "roi.jpg")
    )
    saved(tmp_path / "roi.png", layers(0, 0, 0, blobs() * 255))
    np.testing.assert_array_equal(read_roi(tmp_path / "roi.png").mask, blobs())
    with pytest.raises(ImageError, match=r"bad\.png"):
        read_roi(saved(tmp_path / "bad.png", gradient()))


def test_masks_and_regions_keep_to_the_limit(tmp_path):
    path = saved(tmp_path / "m.png", blobs())
    for read in (read_mask, read_roi):
        read(path, max_pixels=90 * 130)
        with pytest.raises(ImageError, match=r"m\.png: expected at most 11699 pixels"):
            read(path, max_pixels=90 * 130 - 1)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_real_masks_mark_what_is_not_0():
    paths = sorted(DATA.glob("*/ground_truth/*/*.png")) + sorted(
        DATA.glob("*/*/ground_truth/*/*.png")
    )
    assert len(paths) > 500
    for path in paths[::7]:
        np.testing.assert_array_equal(read_mask(path), cv2.imread(str(path), 0) > 0)
