"""From the bytes of a picture file to upright uint8 RGB [H, W, 3].

The content decides about the format, not the suffix.  The size is read from the header and
checked before anything is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from destseg.errors import ImageError

# Pillow's own limit is one number for the whole process, so its readers are called directly.
_READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)
EXPECTED = "expected a JPEG, PNG, BMP, TIFF or WebP picture"
_DEPTH = "expected 8 or 16 bits a channel"
_EXIF_ORIENTATION = 0x0112
_BAND = 256  # rows
_LIMIT_LOCK = threading.Lock()


def decode(file: IO[bytes], name: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Return an open picture file's first frame; ``name`` is for the errors."""
    head = file.read(16)
    if not head:
        raise ImageError(name, f"{EXPECTED}, got an empty file; copy it again or remove it")
    reader = next((reader for magic, reader in _READERS if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        reader = WebPImageFile
    if reader is None:
        raise ImageError(name, f"{EXPECTED}, got a file that starts with {head!r}; convert it")
    file.seek(0)
    if reader is TiffImageFile and _check_tiff(file, name, max_pixels):
        return _decode_deep_colour(file, name)
    file.seek(0)
    with reader(file) as picture:
        _check_size(name, *picture.size, max_pixels)
        if isinstance(picture, PngImageFile) and _is_deep_colour(picture):
            return _upright(_decode_deep_colour(file, name), picture)
        with _without_pillow_limit(picture):
            picture.load()
        return pil_to_rgb(picture, name)


def _check_size(name: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            name,
            f"expected at most {max_pixels} pixels, got {width} x {height} = {width * height}; "
            "if the file can be trusted, raise --max-pixels",
        )


def _check_tiff(file: IO[bytes], name: Path, max_pixels: int) -> bool:
    """Refuse a TIFF by its header; return whether it is 16-bit colour, which PIL cannot keep."""
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if 43 in head[2:4] else head)
    file.seek(tags.next)
    tags.load(file)
    _check_size(name, tags[256], tags[257], max_pixels)
    bits, kind = max(tags.get(258, (1,))), max(tags.get(339, (1,)))
    samples, photometric = tags.get(277, 1), tags.get(262)
    if kind not in (1, 2, 4) or bits not in (1, 2, 4, 8, 16, 32):
        values = "floating-point values" if kind == 3 else f"{bits}-bit values"
        raise ImageError(name, f"{_DEPTH}, got {values}; convert it with a fixed scale")
    if bits > 8 and samples > 1 and tags.get(284) == 2:
        # Both PIL and OpenCV read these without complaint, and wrongly.
        reason = f"expected interleaved channels, got {bits}-bit channels in separate planes"
        raise ImageError(name, f"{reason}; save it interleaved")
    return bits > 8 and samples > 1 and photometric in (0, 1, 2)


def _is_deep_colour(picture: PngImageFile) -> bool:
    return "16" in str(picture.tile[0][3]) and picture.mode in ("RGB", "RGBA", "LA")


def _decode_deep_colour(file: IO[bytes], name: Path) -> NDArray[np.uint8]:
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        reason = f"{EXPECTED}, got a damaged one with 16 bits a channel; save it again"
        raise ImageError(name, reason)
    if values.dtype != np.uint16 or values.ndim != 3:
        raise ImageError(name, f"{_DEPTH}, grey, RGB or RGBA, got another layout; convert it")
    return _in_bands(
        values.shape[0], values.shape[1], lambda rows: _to_8_bits(values[rows, :, 2::-1])
    )


def _to_8_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    # 257 is odd, so no value lies half-way and adding 128 rounds exactly.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _in_bands(
    height: int, width: int, band: Callable[[slice], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return a picture [H, W, 3] made some rows at a time.

    What a conversion needs in between is then held for a band only; for a whole picture it can
    be several times the picture.
    """
    image = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, _BAND):
        rows = slice(start, min(start + _BAND, height))
        image[rows] = band(rows)
    return image


def array_to_rgb(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return a uint8 or uint16 array, grey, RGB or RGBA, as uint8 RGB [H, W, 3]."""
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    whole = array.dtype.kind == "u" and array.dtype.itemsize <= 2
    if not (grey or colour) or not whole or array.size == 0:
        hint = "; multiply by 255 and convert to uint8" if array.dtype.kind == "f" else ""
        raise ImageError(
            "array",
            "expected uint8 or uint16 [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA, none "
            f"of them 0, got {array.dtype} {list(array.shape)}{hint}",
        )
    values = _to_8_bits(array) if array.dtype.itemsize == 2 else array
    if grey:
        values = np.repeat(values.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(values[..., :3], dtype=np.uint8)


def pil_to_rgb(picture: Image.Image, name: str | Path) -> NDArray[np.uint8]:
    """Return a PIL picture of any 8 or 16 bit mode, upright, as uint8 RGB [H, W, 3]."""
    if picture.mode == "F":
        raise ImageError(name, f"{_DEPTH}, got floating-point values; convert it with a scale")
    width, height = picture.size
    if not width or not height:
        raise ImageError(name, f"expected sides that are none of them 0, got {width} x {height}")

    def band(rows: slice) -> NDArray[np.uint8]:
        part = picture.crop((0, rows.start, width, rows.stop))
        if part.mode.startswith("I"):
            values = np.asarray(part)
            if values.min() < 0 or values.max() > 65535:
                got = f"values from {values.min()} to {values.max()}"
                raise ImageError(name, f"{_DEPTH}, got {got}; convert it with a fixed scale")
            return array_to_rgb(values.astype(np.uint16))
        if part.mode in ("P", "PA", "RGBa", "La"):
            # Straight to RGB, PIL warns about a palette's transparency and refuses the others.
            part = part.convert("LA" if part.mode == "La" else "RGBA")
        return np.asarray(part.convert("RGB"))

    return _upright(_in_bands(height, width, band), picture)


def _upright(image: NDArray[np.uint8], picture: Image.Image) -> NDArray[np.uint8]:
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # Damaged metadata is no reason to lose a picture whose pixels are whole.
        orientation = 1
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


@contextmanager
def _without_pillow_limit(picture: ImageFile) -> Iterator[None]:
    """Let PIL's TIFF reader, which checks PIL's own limit again, load what ours has passed."""
    limit = Image.MAX_IMAGE_PIXELS
    if not isinstance(picture, TiffImageFile) or not limit or np.prod(picture.size) <= limit:
        yield
        return
    with _LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
