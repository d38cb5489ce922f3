import gc
import io
import os
import stat
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from destseg.data.decoding import decode, read_shape
from destseg.data.images import (
    as_image,
    decode_image,
    encode_image,
    read_image,
    read_many,
    resize,
    resize_map,
    write_image,
)
from destseg.data.kinds import IMAGE_SUFFIXES
from destseg.data.masks import read_mask
from destseg.errors import DataError, ImageError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ORIENTATION = 0x0112


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def rounded(values: np.ndarray) -> np.ndarray:
    """The rule for 16 bits, in floating point."""
    return np.rint(values.astype(np.float64) / 257).astype(np.uint8)


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey, grey], axis=-1)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, for kinds that neither PIL nor OpenCV writes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *[(part[:4], part[4:]) for part in extra]]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def png_rows(values: np.ndarray) -> bytes:
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


# What is read


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_read_as_pil_reads_it(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    Image.fromarray(noise(9, 13, 3)).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    with Image.open(path) as expected:
        np.testing.assert_array_equal(image, np.asarray(expected.convert("RGB")))


def test_the_content_decides_about_the_format_not_the_suffix(tmp_path):
    Image.fromarray(noise(5, 6, 3)).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg")), noise(5, 6, 3))


def test_grey_and_one_bit_become_rgb(tmp_path):
    grey = noise(7, 5)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey_to_rgb(grey))
    bits = np.where(grey > 127, 255, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), grey_to_rgb(bits))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_dropped_and_not_blended(tmp_path, suffix):
    rgba = noise(7, 5, 4)
    Image.fromarray(rgba).save(tmp_path / f"a{suffix}", exact=True, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), rgba[..., :3])


def test_grey_with_alpha_keeps_its_grey(tmp_path):
    pair = noise(7, 5, 2)
    Image.fromarray(pair, "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), grey_to_rgb(pair[..., 0]))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(200))])
def test_a_palette_gives_its_colours_with_and_without_transparency(tmp_path, transparency):
    indices, palette = noise(7, 5), noise(256, 3)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), palette[indices])


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    flat = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)
    Image.fromarray(flat, "CMYK").save(tmp_path / f"a{suffix}", quality=100)
    red = read_image(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_images_are_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(8, 16, 3)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        lazily = as_image(image)
    assert expected.shape == ((16, 8, 3) if orientation > 4 else (8, 16, 3))
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(lazily, expected)


def test_damaged_exif_does_not_lose_the_image(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(8, 8, 3))


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    first, second = Image.fromarray(noise(8, 8, 3)), Image.new("RGB", (8, 8), "red")
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), noise(8, 8, 3))


# 16 bits


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_grey_is_scaled_by_257_whatever_its_range(tmp_path, byteorder, compression):
    dark = np.arange(0, 600, dtype=np.uint16).reshape(20, 30)
    for name, values in (("full", noise(20, 30, dtype=np.uint16)), ("dark", dark)):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, values, byteorder=byteorder, compression=compression)
        np.testing.assert_array_equal(read_image(path), grey_to_rgb(rounded(values)))
    cv2.imwrite(str(tmp_path / "a.png"), dark)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), grey_to_rgb(rounded(dark)))


def test_every_16_bit_value_is_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = as_image(values)
    np.testing.assert_array_equal(image, grey_to_rgb(rounded(values)))
    assert image[0, 0, 0] == 0
    assert image[-1, -1, 0] == 255


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_rounded_too(tmp_path, suffix, channels):
    values = noise(7, 5, channels, dtype=np.uint16)
    path = str(tmp_path / f"a{suffix}")
    if suffix == ".png":
        cv2.imwrite(path, values[..., [2, 1, 0, 3][:channels]])
    else:
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        tifffile.imwrite(path, values, photometric="rgb", **extra)
    np.testing.assert_array_equal(read_image(path), rounded(values[..., :3]))


def test_big_tiffs_of_either_depth_are_read(tmp_path):
    for values, expected in (
        (noise(6, 5, 3), noise(6, 5, 3)),
        (noise(6, 5, 3, dtype=np.uint16), rounded(noise(6, 5, 3, dtype=np.uint16))),
    ):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", bigtiff=True)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_16_bit_grey_with_alpha_keeps_its_grey(tmp_path):
    values = noise(7, 5, 2, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(5, 7, 16, 4, png_rows(values)))
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), grey_to_rgb(rounded(values[..., 0]))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_is_upright(tmp_path, orientation, suffix):
    deep = noise(7, 5, 3, dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        path.write_bytes(png(5, 7, 16, 2, png_rows(deep), b"eXIf" + exif.tobytes()[6:]))
    else:
        tag = (ORIENTATION, 3, 1, orientation, True)
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[tag])
    plain = Image.fromarray(rounded(deep))
    plain.getexif()[ORIENTATION] = orientation
    np.testing.assert_array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(plain)))


def test_16_bit_planes_are_refused_because_their_readers_are_wrong(tmp_path):
    values = noise(3, 7, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(ImageError, match="separate planes; save it interleaved"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "b.tif", rounded(values), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(
        read_image(tmp_path / "b.tif"), np.moveaxis(rounded(values), 0, -1)
    )


def test_32_bit_whole_numbers_in_16_bit_range_are_read_and_others_refused(tmp_path):
    values = noise(7, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.int32))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), grey_to_rgb(rounded(values)))
    for wrong in (-1, 65536):
        values = np.full((4, 4), wrong, np.int32)
        tifffile.imwrite(tmp_path / "a.tif", values)
        with pytest.raises(ImageError, match=f"8 or 16 bits.*from {wrong} to {wrong}"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_values_with_a_sign_are_read_as_long_as_none_is_below_0(dtype, tmp_path):
    values = np.arange(128, dtype=dtype).reshape(8, 16)
    tifffile.imwrite(tmp_path / "a.tif", values)
    expected = values if dtype == np.int8 else rounded(values.astype(np.uint16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), grey_to_rgb(expected))
    tifffile.imwrite(tmp_path / "a.tif", values - dtype(39))
    with pytest.raises(ImageError, match=r"8 or 16 bits.*got values from -39 to 88"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="expected a mask, got values from -39 to 88"):
        read_mask(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.eye(8, dtype=dtype))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), np.eye(8, dtype=bool))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_floating_point_files_are_refused(tmp_path, dtype, shape):
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, dtype), photometric=photometric)
    with pytest.raises(ImageError, match="expected 8 or 16 bits a channel, got floating-point"):
        read_image(tmp_path / "a.tif")


# What is refused


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated_files_are_errors(tmp_path, suffix, keep, recwarn):
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(whole)
    content = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError, match="damaged") as caught:
        read_image(path)
    assert caught.value.path == str(path)


def test_a_tiff_that_ends_in_its_header_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "cut.tif"
    Image.fromarray(noise(64, 64, 3)).save(path)
    content = bytearray(path.read_bytes())
    content[8:10] = (0).to_bytes(2, "little")  # no tags at all, and so no size
    path.write_bytes(content)
    with pytest.raises(ImageError, match="got a TIFF whose header is damaged; save it again"):
        read_image(path)
    with path.open("rb") as file, pytest.raises(ImageError, match="header is damaged"):
        read_shape(file, path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_16_bit_colour_is_an_error(tmp_path, suffix):
    _, encoded = cv2.imencode(suffix, noise(64, 64, 3, dtype=np.uint16))
    (tmp_path / f"a{suffix}").write_bytes(encoded.tobytes()[: len(encoded) // 2])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "got an empty file"),
        (b"hello, world", "starts with b'hello, world'"),
        (b"GIF89a" + bytes(20), "got GIF, which is not read; convert it"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "got HEIC, which is not read; convert it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged"),
        (b"II*\0", "damaged"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "damaged"),
        (b"BM", "damaged"),
        (b"RIFF\0\0\0\0WEBP", "damaged"),
    ],
)
def test_what_is_no_image_says_so(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"^part 7: .*{reason}"):
        decode_image(content, "part 7")


@given(
    content=st.binary(max_size=300), kind=st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
)
def test_damaged_files_never_raise_anything_else(tmp_path_factory, content, kind):
    buffer = io.BytesIO()
    Image.fromarray(noise(6, 6, 3)).save(buffer, kind)
    whole = bytearray(buffer.getvalue())
    start = len(content) * 7 % len(whole)
    whole[start : start + len(content)] = content
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    outcome = next(read_many([path], size=None, max_pixels=10_000))
    if isinstance(outcome, ImageError):
        assert outcome.reason.startswith("expected")
    else:
        assert outcome.dtype == np.uint8
        assert outcome.shape[2:] == (3,)


def test_missing_files_folders_and_devices_are_told_apart(tmp_path):
    with pytest.raises(ImageError, match="nothing there"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="a folder"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="no regular file"):
        read_image(tmp_path / "pipe.png")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="may not be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_the_limit_counts_pixels_exactly(tmp_path, suffix):
    Image.fromarray(noise(8, 10, 3)).save(tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}", max_pixels=80).shape == (8, 10, 3)
    with pytest.raises(ImageError, match=r"at most 79 pixels, got 10 x 8 = 80.*--max-pixels"):
        read_image(tmp_path / f"a{suffix}", max_pixels=79)


def test_a_bomb_is_refused_by_its_header_alone(tmp_path):
    # Nothing that could be decoded follows the headers: only a reader of headers gets this far.
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, 8, 2, b""))
    (tmp_path / "deep.png").write_bytes(png(60_000, 60_000, 16, 2, b""))
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 4, 3, dtype=np.uint16), photometric="rgb")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    for tag in (256, 257):
        at = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
        content[at : at + 4] = struct.pack("<I", 60_000)
    (tmp_path / "deep.tif").write_bytes(content)
    for name in ("bomb.png", "deep.png", "deep.tif"):
        with pytest.raises(ImageError, match="60000 x 60000 = 3600000000"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg"])
@pytest.mark.parametrize("limit", [50, 10])
def test_pils_own_limit_is_neither_felt_nor_changed(tmp_path, monkeypatch, suffix, limit):
    Image.fromarray(noise(8, 10, 3)).save(tmp_path / f"a{suffix}")
    expected = read_image(tmp_path / f"a{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), expected)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_nobody_sees_pils_limit_change_while_a_tiff_is_read(monkeypatch, mode, compression):
    encoded = io.BytesIO()
    Image.fromarray(noise(30, 20, 3)).convert(mode).save(encoded, "TIFF", compression=compression)
    expected = decode_image(encoded.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    seen = set()

    class Watching(io.BytesIO):
        def read(self, *size):
            seen.add(Image.MAX_IMAGE_PIXELS)
            return super().read(*size)

        def seek(self, *place):
            seen.add(Image.MAX_IMAGE_PIXELS)
            return super().seek(*place)

    image = decode(Watching(encoded.getvalue()), Path("a.tif"), 600)
    np.testing.assert_array_equal(image, expected)
    assert seen == {100}


def test_a_webp_beyond_pils_limit_is_refused_with_what_helps(tmp_path, monkeypatch):
    Image.fromarray(noise(8, 10, 3)).save(tmp_path / "a.webp")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    if int(PIL.__version__.partition(".")[0]) < 13:  # it has no limit of its own for WebP
        assert read_image(tmp_path / "a.webp").shape == (8, 10, 3)
        return
    with pytest.raises(ImageError, match=r"a\.webp: expected at most 20 pixels.*as PNG or TIFF"):
        read_image(tmp_path / "a.webp")


# Images in memory


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays_of_both_depths_and_all_layouts(dtype, shape):
    values = noise(*shape, dtype=np.uint8 if dtype == np.uint8 else np.uint16).astype(dtype)
    expected = values if dtype == np.uint8 else rounded(values)
    if expected.ndim == 2 or expected.shape[2] == 1:
        expected = grey_to_rgb(expected.reshape(4, 5))
    np.testing.assert_array_equal(as_image(values), expected[..., :3])
    np.testing.assert_array_equal(as_image(values[::-1]), expected[::-1, :, :3])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32 \[4, 5, 3\]; multiply by 255"),
        (
            np.zeros((4, 5), np.int16),
            r"int16 \[4, 5\]; if its values are from 0 to 255, convert it: .*uint8\)$",
        ),
        (np.zeros((4, 5, 3), np.uint64), r"uint64 \[4, 5, 3\]; if its values are from 0 to 255"),
        (np.zeros((4, 5), bool), r"bool \[4, 5\]; multiply by 255"),
        (
            np.zeros((4, 5, 2), np.uint8),
            r"uint8 \[4, 5, 2\]; if one of the two channels is .*\[\.\.\., 0\]$",
        ),
        (
            np.zeros((1, 4, 5, 3), np.uint8),
            r"uint8 \[1, 4, 5, 3\]; if these are several images, .*list\(array\)$",
        ),
        (np.zeros((4, 5, 2), ">u2"), r"uint16 \[4, 5, 2\]; if one|>u2 \[4, 5, 2\]; if one"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[0, 5, 3\]"),
        (np.zeros((4, 0), np.uint8), r"uint8 \[4, 0\]"),
        (np.ma.masked_equal(np.zeros((4, 5), np.uint8), 1), "masked array.*fill it first"),
        (np.zeros((4, 5), np.uint8).view(np.matrix), "got a matrix"),
        ([[1, 2]], "got list"),
        (None, "got NoneType"),
        ({"a": 1}, r"got dict; give its values, list\(images.values\(\)\)"),
        (Image.new("F", (3, 3)), "floating-point"),
        (Image.new("RGB", (0, 3)), "none of them 0"),
    ],
)
def test_other_objects_are_refused_by_name(image, message):
    with pytest.raises(ImageError, match=message):
        as_image(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"])
def test_pil_images_of_any_mode(mode):
    grey = mode in ("L", "LA", "La", "PA")
    given = Image.fromarray(noise(6, 7) if grey else noise(6, 7, 3))
    for step in {"La": ["LA"], "RGBa": ["RGBA"], "PA": ["P"]}.get(mode, []):
        given = given.convert(step)
    image = as_image(given.convert(mode))
    opaque = given.convert(mode) if mode in ("1", "P") else given
    np.testing.assert_array_equal(image, np.asarray(opaque.convert("RGB")))


def test_a_pil_image_of_16_bits_follows_the_rule():
    values = noise(6, 7, dtype=np.uint16)
    for mode in ("I;16", "I"):
        image = Image.fromarray(values).convert(mode)
        np.testing.assert_array_equal(as_image(image), grey_to_rgb(rounded(values)))


def test_a_pil_image_of_a_damaged_file_names_the_file(tmp_path):
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(ImageError, match=r"a\.png: "):
        as_image(image)


# Resizing


def triangle(length: int, size: int) -> np.ndarray:
    """The antialiased bilinear filter as a matrix, written from its definition."""
    scale = length / size
    support = max(scale, 1.0)
    centres = (np.arange(size)[:, None] + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(np.arange(length)[None] - centres) / support, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(8, 12), (64, 40), (31, 100), (1, 1)])
def test_resizing_is_the_antialiased_triangle_filter(size):
    image = noise(30, 50, 3)
    expected = np.einsum(
        "ah,bw,hwc->abc", triangle(30, size[0]), triangle(50, size[1]), image.astype(float)
    )
    resized = resize(image, size)
    assert resized.dtype == np.uint8
    assert resized.shape == (*size, 3)
    # PIL rounds once after each of the two directions.
    assert np.abs(resized - expected).max() <= 1.01


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_resizing_to_the_same_size_changes_nothing(image):
    np.testing.assert_array_equal(resize(image, image.shape[:2]), image)


def test_resizing_a_map_is_bilinear_with_half_pixel_centres_and_does_not_clip():
    rng = np.random.default_rng(0)
    small = rng.normal(0, 10, (5, 7)).astype(np.float32)
    large = resize_map(small, (20, 21))
    assert large.dtype == np.float32
    # Enlarging needs no antialiasing, so the same triangle filter holds.
    np.testing.assert_allclose(large, triangle(5, 20) @ small @ triangle(7, 21).T, atol=1e-4)
    assert large.min() < -1
    assert large.max() > 2


# Writing


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".jpg", ".jpeg", ".jpe", ".jfif"}))
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_what_is_written_without_loss_is_read_again(tmp_path, suffix, shape):
    path = tmp_path / "new" / "folder" / f"a{suffix}"
    write_image(path, noise(*shape))
    write_image(path, 255 - noise(*shape))
    np.testing.assert_array_equal(read_image(path), as_image(255 - noise(*shape)))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_written_files_are_as_open_as_any_other(tmp_path):
    write_image(tmp_path / "a.png", noise(3, 3))
    (tmp_path / "b.png").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.png", "b.png")]
    assert modes[0] == modes[1]


def test_jpeg_is_written_in_good_quality(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    write_image(tmp_path / "a.jpg", ramp)
    assert np.abs(read_image(tmp_path / "a.jpg")[..., 0].astype(int) - ramp).max() <= 4


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", noise(3, 3))

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="No space left"):
        write_image(tmp_path / "a.png", 255 - noise(3, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), as_image(noise(3, 3)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"ending in \.jpg"):
        write_image(tmp_path / "a.gif", noise(3, 3))
    for wrong in (np.zeros((3, 3), np.float32), noise(3, 3, 4), noise(3), noise(0, 3)):
        with pytest.raises(ImageError, match="uint8 array"):
            write_image(tmp_path / "a.png", wrong)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a\.png: expected a file that can be written"):
        write_image(tmp_path / "file" / "a.png", noise(3, 3))


def test_every_suffix_that_is_read_can_be_written():
    grey = np.full((4, 6, 3), 100, np.uint8)
    for suffix in IMAGE_SUFFIXES:
        again = decode_image(encode_image(grey, f"part{suffix}"), f"part{suffix}")
        assert again.shape == grey.shape
        assert abs(again.astype(int) - 100).max() <= 2


# Many files


def some_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        write_image(path, np.full((4, 6 + index, 3), index, np.uint8))
    return paths


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_are_read_in_order_with_their_errors(tmp_path, threads):
    paths = some_files(tmp_path, 13)
    paths[3].write_bytes(b"no image")
    paths[12].unlink()
    outcomes = list(read_many(paths, size=None, threads=threads))
    for index, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
        if index in (3, 12):
            assert isinstance(outcome, ImageError)
            assert outcome.path == str(path)
            assert outcome.__traceback__ is None
        else:
            assert outcome.shape == (4, 6 + index, 3)
            assert (outcome == index).all()
    resized = list(read_many(paths[:3], size=(2, 3), threads=threads))
    assert [outcome.shape for outcome in resized] == [(2, 3, 3)] * 3


def test_reading_ahead_is_bounded(tmp_path):
    path, asked = some_files(tmp_path, 1)[0], []

    def names():
        for index in range(100):
            asked.append(index)
            yield path

    outcomes = read_many(names(), size=None, threads=2)
    assert asked == []
    for taken in range(1, 10):
        next(outcomes)
        assert len(asked) <= taken + 4
    outcomes.close()
    assert len(asked) < 20


@pytest.mark.parametrize("stop", ["close", "forget"])
def test_stopping_early_ends_the_threads(tmp_path, stop):
    outcomes = read_many(some_files(tmp_path, 1) * 50, size=None)
    next(outcomes)
    assert any(thread.name.startswith("destseg-read") for thread in threading.enumerate())
    if stop == "close":
        outcomes.close()
    else:
        del outcomes
        gc.collect()
    assert not any(thread.name.startswith("destseg-read") for thread in threading.enumerate())


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_real_images_are_read_as_opencv_reads_them():
    paths = [
        *sorted((DATA / "mvtec/bottle/train/good").iterdir())[:3],
        *sorted((DATA / "mvtec/grid/test/bent").iterdir())[:3],
        *sorted((DATA / "mtd/ground_truth/crack").iterdir())[:3],
    ]
    for path, image in zip(paths, read_many(paths, size=None), strict=True):
        np.testing.assert_array_equal(image, cv2.imread(str(path))[..., ::-1])
