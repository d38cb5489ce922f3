"""From the bytes of an image file to upright uint8 RGB [H, W, 3].

The content decides about the format, not the suffix.  The size is read from the header and
checked before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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

from destseg.data.bands import bands
from destseg.data.faults import is_ours
from destseg.data.kinds import HEAD, kind_of
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
EXPECTED = "expected a JPEG, PNG, BMP, TIFF or WebP image"
FULL_DEPTH = 16
_DEPTH = "expected 8 or 16 bits a channel"
_EXIF_ORIENTATION = 0x0112
_EXIF_IFD, _EXIF_TIME = 0x8769, 0x9003  # DateTimeOriginal: the other times change by editing
_ON_ITS_SIDE = (5, 6, 7, 8)
_WHITE_IS_ZERO = 0  # of TIFF's tag 262
_SIGNED = 2  # of TIFF's tag 339


@dataclass(frozen=True)
class Frame:
    """The first frame of an image file, in the file's own depth.

    Attributes:
        image: as PIL has it; where ``deep`` is there, of use for its metadata only.
        deep: 16-bit colour, which PIL cannot keep, uint16 [h, w, 3] BGR or [h, w, 4] BGRA.
    """

    image: ImageFile | None
    deep: NDArray[np.uint16] | None = None

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the frame's pixels [h, w] or [h, w, c] as its EXIF orientation says."""
        return pixels if self.image is None else _upright(pixels, self.image)


def decode(
    file: IO[bytes], name: Path, max_pixels: int, bit_depth: int = FULL_DEPTH
) -> NDArray[np.uint8]:
    """Return an open image file's first frame; ``name`` is for the errors."""
    with open_frame(file, name, max_pixels) as frame:
        if frame.deep is None:
            assert frame.image is not None, "without 16-bit colour there is PIL's"
            return pil_to_rgb(frame.image, name, bit_depth)
        deep = frame.deep
        pixels = _in_bands(
            deep.shape[0],
            deep.shape[1],
            lambda rows: _to_8_bits(deep[rows, :, 2::-1], name, bit_depth),
        )
        return np.ascontiguousarray(frame.upright(pixels))


@contextmanager
def open_frame(file: IO[bytes], name: Path, max_pixels: int) -> Iterator[Frame]:
    """Open an image file's first frame: its size checked first, then its pixels decoded.

    Pillow's own limit, a number for the whole process, is never changed, and felt by WebP alone.
    """
    reader = _reader(file, name)
    if reader is TiffImageFile and _check_tiff(file, name, max_pixels):
        yield Frame(None, _decode_deep_colour(file, name))
        return
    file.seek(0)
    with _header(reader, file, name) as image:
        _check_size(name, *image.size, max_pixels)
        if isinstance(image, PngImageFile) and _is_deep_colour(image):
            yield Frame(image, _decode_deep_colour(file, name))
            return
        if isinstance(image, TiffImageFile):
            # Where PIL's TIFF reader finds room for its pixels it does not ask PIL's limit.
            image.im = Image.new(image.mode, (image.tag_v2[256], image.tag_v2[257])).im
        image.load()
        yield Frame(image)


def read_shape(file: IO[bytes], name: Path) -> tuple[int, int]:
    """Return the (height, width) of an open image file, upright, from its header alone."""
    reader = _reader(file, name)
    if reader is TiffImageFile:
        tags = _tiff_tags(file)
        (width, height), orientation = _tiff_size(tags, name), tags.get(_EXIF_ORIENTATION, 1)
    else:
        with _header(reader, file, name) as image:
            (width, height), orientation = image.size, _orientation(lambda: _exif_of_header(image))
    return (width, height) if orientation in _ON_ITS_SIDE else (height, width)


def read_time(file: IO[bytes], name: Path) -> str | None:
    """Return when an open image file was taken, as EXIF's DateTimeOriginal says it, if it does.

    That is ``YYYY:MM:DD hh:mm:ss`` in the camera's own time; nothing is decoded.
    """
    with _header(_reader(file, name), file, name) as image:
        value = _exif_of_header(image).get_ifd(_EXIF_IFD).get(_EXIF_TIME)
    return value if isinstance(value, str) else None


def _reader(file: IO[bytes], name: Path) -> type[ImageFile]:
    """Return what reads an open image file by its content; the file is at its start again."""
    head = file.read(HEAD)
    if not head:
        raise ImageError(name, f"{EXPECTED}, got an empty file; copy it again or remove it")
    reader = next((reader for magic, reader in _READERS if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        reader = WebPImageFile
    if reader is None and (kind := kind_of(head)) is not None:
        raise ImageError(name, f"{EXPECTED}, got {kind}, which is not read; convert it to PNG")
    if reader is None:
        raise ImageError(name, f"{EXPECTED}, got a file that starts with {head!r}; convert it")
    file.seek(0)
    return reader


def _header(reader: type[ImageFile], file: IO[bytes], name: Path) -> ImageFile:
    try:
        return reader(file)
    except Image.DecompressionBombError:
        # PIL's WebP reader alone asks PIL's limit, before its size can be known here.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"expected at most {limit} pixels in this format (PIL's limit), got more"
        raise ImageError(name, f"{reason}; save it as PNG or TIFF") from None


def _check_size(name: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            name,
            f"expected at most {max_pixels} pixels, got {width} x {height} = {width * height}; "
            "if the file can be trusted, raise --max-pixels",
        )


def has_16_bits(file: IO[bytes]) -> bool:
    """Return whether an open image file, which can be read, has more than 8 bits a channel."""
    head = file.read(25)
    if head.startswith(b"\x89PNG"):
        return head[24] > 8
    if head[:2] not in (b"II", b"MM"):
        return False
    file.seek(0)
    return bool(max(_tiff_tags(file).get(258, (1,))) > 8)


def _tiff_tags(file: IO[bytes]) -> ImageFileDirectory_v2:
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if 43 in head[2:4] else head)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _check_tiff(file: IO[bytes], name: Path, max_pixels: int) -> bool:
    """Refuse a TIFF by its header; return whether it is 16-bit colour, which PIL cannot keep."""
    tags = _tiff_tags(file)
    size = _tiff_size(tags, name)
    bits, kind = tags.get(258, (1,)), tags.get(339, (1,))
    samples, photometric = tags.get(277, 1), tags.get(262)
    if not all(isinstance(each, int) for each in (*bits, *kind, samples)):
        raise _damaged_tiff(name)
    _check_size(name, *size, max_pixels)
    bits, kind = max(bits), max(kind)
    if kind not in (1, 2, 4) or bits not in (1, 2, 4, 8, 16, 32):
        values = "floating-point values" if kind == 3 else f"{bits}-bit values"
        raise ImageError(name, f"{_DEPTH}, got {values}; convert it with a fixed scale")
    if bits > 8 and samples > 1 and tags.get(284) == 2:
        # Both PIL and OpenCV read these without complaint, and wrongly.
        reason = f"expected interleaved channels, got {bits}-bit channels in separate planes"
        raise ImageError(name, f"{reason}; save it interleaved")
    return bits > 8 and samples > 1 and photometric in (0, 1, 2)


def _tiff_size(tags: ImageFileDirectory_v2, name: Path) -> tuple[int, int]:
    """Return a TIFF's width and height; where a file was cut off there may be none."""
    width, height = tags.get(256), tags.get(257)
    if not (isinstance(width, int) and isinstance(height, int)):
        raise _damaged_tiff(name)
    return width, height


def _damaged_tiff(name: Path) -> ImageError:
    return ImageError(name, f"{EXPECTED}, got a TIFF whose header is damaged; save it again")


def _is_deep_colour(image: PngImageFile) -> bool:
    return "16" in str(image.tile[0][3]) and image.mode in ("RGB", "RGBA", "LA")


def _decode_deep_colour(file: IO[bytes], name: Path) -> NDArray[np.uint16]:
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        reason = f"{EXPECTED}, got a damaged one with 16 bits a channel; save it again"
        raise ImageError(name, reason)
    if values.dtype != np.uint16 or values.ndim != 3:
        raise ImageError(name, f"{_DEPTH}, grey, RGB or RGBA, got another layout; convert it")
    return np.asarray(values, dtype=np.uint16)


def _to_8_bits(values: NDArray[Any], name: str | Path, bit_depth: int) -> NDArray[np.uint8]:
    """Return round(255 v / (2^bit_depth - 1)) of values up to 65535."""
    top = 2**bit_depth - 1
    highest = int(values.max())
    if highest > top:
        raise ImageError(
            name,
            f"expected {bit_depth}-bit values, 0 to {top} (--bit-depth {bit_depth}), got "
            f"{highest}; give images of the camera and export that the setting is meant for, or "
            "train with another --bit-depth",
        )
    # The divisor is twice an odd number and 510 v is even, so nothing lies half-way.
    return np.asarray((values.astype(np.uint32) * 510 + top) // (2 * top), dtype=np.uint8)


def _in_bands(
    height: int, width: int, band: Callable[[slice], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return an image [H, W, 3] made some rows at a time.

    What a conversion needs in between is then held for a band only; for a whole image it can
    be several times the image.
    """
    image = np.empty((height, width, 3), np.uint8)
    # PIL asks its limit of what is cut out, too.
    for rows in bands(image.shape, min(2**18, Image.MAX_IMAGE_PIXELS or 2**18)):
        image[rows] = band(rows)
    return image


def array_to_rgb(
    array: NDArray[np.generic], bit_depth: int = FULL_DEPTH, name: str | Path = "array"
) -> NDArray[np.uint8]:
    """Return a uint8 or uint16 array, grey, RGB or RGBA, as uint8 RGB [H, W, 3]."""
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    whole = array.dtype.kind == "u" and array.dtype.itemsize <= 2
    if not (grey or colour) or not whole or array.size == 0:
        raise ImageError(
            name,
            "expected uint8 or uint16 [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA, none "
            f"of them 0, got {array.dtype} {list(array.shape)}{_array_hint(array)}",
        )
    colours = array if grey else array[..., :3]
    values = _to_8_bits(colours, name, bit_depth) if array.dtype.itemsize == 2 else colours
    if grey:
        values = np.repeat(values.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(values, dtype=np.uint8)


def _array_hint(array: NDArray[np.generic]) -> str:
    """Return what to do with an array that is no image, as far as it shows."""
    hint = "; multiply by 255 and convert to uint8" if array.dtype.kind in "fb" else ""
    if array.dtype.kind == "i" or (array.dtype.kind == "u" and array.dtype.itemsize > 2):
        hint = "; if its values are from 0 to 255, convert it: array.astype(numpy.uint8)"
    if array.ndim == 4:
        hint += "; if these are several images, give a list of them: list(array)"
    if array.ndim == 3 and array.shape[2] == 2:
        hint += "; if one of the two channels is the image, give it alone: array[..., 0]"
    if array.ndim == 3 and array.shape[2] > 4:
        if array.shape[0] in (1, 3, 4):
            hint += "; channels come last: if they are the first axis, move it to the end"
        hint += "; if these are several grey images, give a list of them: list(array)"
    return hint


def pil_to_rgb(
    image: Image.Image, name: str | Path, bit_depth: int = FULL_DEPTH
) -> NDArray[np.uint8]:
    """Return a PIL image of any 8 or 16 bit mode, upright, as uint8 RGB [H, W, 3]."""
    if image.mode == "F":
        raise ImageError(name, f"{_DEPTH}, got floating-point values; convert it with a scale")
    width, height = image.size
    if not width or not height:
        raise ImageError(name, f"expected sides that are none of them 0, got {width} x {height}")

    def band(rows: slice) -> NDArray[np.uint8]:
        part = image.crop((0, rows.start, width, rows.stop))
        if part.mode.startswith("I") or is_signed(image):
            values = whole_numbers(image, part)
            if values.min() < 0 or values.max() > 65535:
                got = f"values from {values.min()} to {values.max()}"
                raise ImageError(name, f"{_DEPTH}, got {got}; convert it with a fixed scale")
            kind = np.uint16 if part.mode.startswith("I") else np.uint8
            return array_to_rgb(values.astype(kind), bit_depth, name)
        if part.mode in ("P", "PA", "RGBa", "La"):
            # Straight to RGB, PIL warns about a palette's transparency and refuses the others.
            part = part.convert("LA" if part.mode == "La" else "RGBA")
        return np.asarray(part.convert("RGB"))

    return np.ascontiguousarray(_upright(_in_bands(height, width, band), image))


def whole_numbers(image: Image.Image, part: Image.Image) -> NDArray[Any]:
    """Return the values of a grey image, or of a part of it, in its own depth; 0 is black."""
    values = np.asarray(part)
    if part.mode == "L" and is_signed(image):
        values = values.view(np.int8)  # PIL reads -1 as 255
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if part.mode.startswith("I;16") and tags.get(262) == _WHITE_IS_ZERO:
        # PIL turns these round at 8 bits, but not at 16.
        return 65535 - values
    return values


def is_signed(image: Image.Image) -> bool:
    """Whether an image's values have a sign: PIL minds that at 16 bits, but not at 8."""
    return isinstance(image, TiffImageFile) and max(image.tag_v2.get(339, (1,))) == _SIGNED


def _exif_of_header(image: ImageFile) -> Image.Exif:
    """Return the EXIF data of an open image whose pixels are not read, and are not for this.

    To look for it behind the pixels of a PNG, PIL would decode them, however many there are.
    """
    if not isinstance(image, PngImageFile) or "exif" in image.info:
        return image.getexif()
    assert image.fp is not None, "it is open"
    for kind, length in _png_chunks(image.fp):
        if kind == b"eXIf":
            image.info["exif"] = b"Exif\0\0" + image.fp.read(length)
            break
    return Image.Image.getexif(image)


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the name and length of each chunk of a PNG; the file is then where its data begin."""
    start = 8  # behind the magic number
    while len(head := _read_at(file, start, 8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, length
        start += 12 + length


def _read_at(file: IO[bytes], place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _orientation(exif: Callable[[], Image.Exif]) -> object:
    """Return what the EXIF data that a call gives say of orientation; 1 is upright."""
    try:
        return exif().get(_EXIF_ORIENTATION, 1)
    except Exception as error:
        if is_ours(error):
            raise
        # Damaged metadata is no reason to lose an image whose pixels are whole.
        return 1


def _upright(pixels: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    orientation = _orientation(image.getexif)
    if orientation in _ON_ITS_SIDE:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
