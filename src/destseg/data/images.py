"""Bounded, tolerant reading to uint8 RGB [H, W, 3], and the only functions that resize.

One rule for depth holds everywhere: values v of files and arrays of 16 bits become
round(255 v / (2^bit_depth - 1)), so that 65535 is 255, or with 12 bits 4095; nothing is ever
stretched to an image's own range.  Alpha is dropped, not blended: cameras write
none, and a background colour would be an invention.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.config import DataSettings
from destseg.data.arrays import beside_arrays
from destseg.data.decoding import array_to_rgb, decode, pil_to_rgb
from destseg.data.files import write_atomically
from destseg.data.kinds import FORMATS
from destseg.data.opening import image_errors, open_image
from destseg.data.prefetch import in_order
from destseg.data.tiling import size_for_tiles
from destseg.errors import ImageError

_Value = TypeVar("_Value", np.uint8, np.float32)

_WRITING: dict[str, dict[str, object]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}


def read_image(
    path: str | Path,
    *,
    max_pixels: int = DataSettings.max_pixels,
    bit_depth: int = DataSettings.bit_depth,
) -> NDArray[np.uint8]:
    """Read an image file, upright as its EXIF orientation says.

    The content decides about the format, not the suffix.  Grey, palette, 1-bit and CMYK images
    become RGB, alpha is dropped, of several frames the first is read.  Values v of 16-bit files
    become round(255 v / (2^bit_depth - 1)).

    Args:
        path: a JPEG, PNG, BMP, TIFF or WebP file.
        max_pixels: width times height above which the file is refused before it is decoded.
        bit_depth: bits, 8 to 16, that the values of a 16-bit file use; 16 is the full range.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: the file is missing, unreadable, no image, damaged, too large, its values are
            neither 8 nor 16 bits, or above ``bit_depth``.
    """
    with open_image(path) as file:
        return decode(file, Path(path), max_pixels, bit_depth)


def read_with(path: str | Path, settings: DataSettings) -> NDArray[np.uint8]:
    """Read an image file as settings say: ``read_image`` within their bounds."""
    return read_image(path, max_pixels=settings.max_pixels, bit_depth=settings.bit_depth)


def decode_image(
    content: bytes,
    name: str | Path = "image",
    *,
    max_pixels: int = DataSettings.max_pixels,
    bit_depth: int = DataSettings.bit_depth,
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file as ``read_image`` reads the file.

    Args:
        content: of a JPEG, PNG, BMP, TIFF or WebP file.
        name: for the errors.
        max_pixels: as in ``read_image``.
        bit_depth: as in ``read_image``.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: as ``read_image``.
    """
    with image_errors(Path(name)):
        return decode(io.BytesIO(content), Path(name), max_pixels, bit_depth)


def as_image(image: object, *, bit_depth: int = DataSettings.bit_depth) -> NDArray[np.uint8]:
    """Return an array or a PIL image as ``read_image`` would give it.

    Args:
        image: uint8 or uint16 array [H, W] or [H, W, 1] grey, [H, W, 3] RGB or [H, W, 4] RGBA,
            or a PIL image of any mode.  PIL itself cuts 16-bit colour files to their high
            byte, which can differ by 1 from ``read_image``.
        bit_depth: as in ``read_image``, of 16-bit values.

    Returns:
        uint8 [H, W, 3], RGB; the array itself where it is that already.

    Raises:
        ImageError: another type (a masked array or a matrix too), dtype or shape, a PIL image that
            cannot be decoded, or values above ``bit_depth``.
    """
    if (other := beside_arrays(image)) is not None:
        raise ImageError("array", f"expected a uint8 or uint16 array, got {other}")
    if isinstance(image, np.ndarray):
        return array_to_rgb(image, bit_depth)
    if not isinstance(image, Image.Image):
        expected = "expected a uint8 array [H, W, 3] or a PIL image"
        hint = ""
        if isinstance(image, Mapping):
            hint = "; give its values, list(images.values()), or its keys if they are paths, "
            hint += "list(images)"
        raise ImageError("image", f"{expected}, got {type(image).__name__}{hint}")
    name = getattr(image, "filename", "") or "PIL image"
    with image_errors(name):
        image.load()
        return pil_to_rgb(image, name, bit_depth)


def resize(image: NDArray[_Value], size: tuple[int, int]) -> NDArray[_Value]:
    """Resize an image bilinearly with antialiasing, without keeping its aspect (the paper's).

    Args:
        image: uint8 [H, W, 3], or uint8 or float32 [H, W].
        size: (height, width) in pixels.

    Returns:
        [height, width, 3] or [height, width] of the same dtype; the image itself where it has that
        size.
    """
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_for_model(image: NDArray[np.uint8], settings: DataSettings) -> NDArray[np.uint8]:
    """Return an image as large as the model sees it: to be padded, or to be cut into tiles.

    Args:
        image: uint8 [H, W, 3].
        settings: without ``tile``, images are resized to ``size``, with ``fit=pad`` to the
            largest size of their own shape within it; with ``tile`` they keep their size, but are
            scaled up where a side is shorter than a tile.

    Returns:
        uint8 [h, w, 3]; the image itself where it has that size.

    Raises:
        ImageError: scaling a narrow image up would give more than ``max_pixels``.
    """
    height, width = settings.size
    if not settings.tile:
        if settings.fit == "pad":
            height, width = size_within((image.shape[0], image.shape[1]), settings.size)
        return resize(image, (height, width))
    side = height
    height, width = size_for_tiles(image.shape[0], image.shape[1], side)
    if (height, width) != image.shape[:2] and height * width > settings.max_pixels:
        raise ImageError(
            "image",
            f"expected sides of at least {side} pixels (a tile) or nearly that, got "
            f"{image.shape[1]} x {image.shape[0]}, which would be scaled up to {width} x {height}: "
            "more than --max-pixels; lower --image-size or train without --tile",
        )
    return resize(image, (height, width))


def size_within(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of an image's own shape within a size."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (max(1, round(scale * side)) for side in shape)
    return height, width


def padded(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image with its last row and column repeated up to a size.

    No edge is added, which a network would see.

    Args:
        image: uint8 [h, w, 3].
        size: (height, width) in pixels, at least the image's.

    Returns:
        uint8 [height, width, 3]; the image itself where it has that size.
    """
    if image.shape[:2] == tuple(size):
        return image
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")


def padded_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask of an image, bool [h, w], as one of the ``padded`` image: false where added."""
    whole = np.zeros(size, bool)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return whole


def resize_map(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an anomaly map bilinearly (half-pixel centres), for drawing at an image's size.

    The image score is never computed from the result: it would depend on the image's size.

    Args:
        anomaly_map: float32 [h, w]; any range, nothing is clipped.
        size: (height, width) in pixels.

    Returns:
        float32 [height, width]; the map itself where it has that size.
    """
    if anomaly_map.shape == tuple(size):
        return anomaly_map
    height, width = size
    resized = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float32)


def write_image(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write an image in the format of its suffix, whole or not at all.

    PNG, BMP, TIFF and WebP are written without loss, JPEG with quality 95.  Missing folders are
    made.

    Args:
        path: file to write or replace.
        image: uint8 [H, W, 3] RGB or [H, W] grey.

    Raises:
        ImageError: the suffix names no format, or the array is no image.
        DataError: it cannot be written.
    """
    write_atomically(path, encode_image(image, path))


def format_of(name: str | Path) -> str:
    """Return the format that a name's suffix stands for, as Pillow calls it.

    Raises:
        ImageError: it stands for none.
    """
    file_format = FORMATS.get(Path(name).suffix.lower())
    if file_format is None:
        raise ImageError(name, f"expected a name ending in {', '.join(FORMATS)}, got another")
    return file_format


def encode_image(image: NDArray[np.uint8], name: str | Path) -> bytes:
    """Return the bytes of an image's file in the format of a name's suffix, as ``write_image``.

    Args:
        image: uint8 [H, W, 3] RGB or [H, W] grey.
        name: of the file, also for the errors.

    Raises:
        ImageError: the suffix names no format, or the array is no image that it can hold.
    """
    file_format = format_of(name)
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not shaped or image.size == 0:
        expected = "expected a uint8 array [H, W, 3] or [H, W] to write"
        raise ImageError(name, f"{expected}, got {image.dtype} {list(image.shape)}")
    encoded = io.BytesIO()
    try:
        Image.fromarray(image).save(encoded, file_format, **_WRITING.get(file_format, {}))
    except (OSError, ValueError) as error:
        expected = f"expected an image that {file_format} can hold"
        raise ImageError(name, f"{expected}, got: {error}") from error
    return encoded.getvalue()


def read_many(
    paths: Iterable[str | Path],
    *,
    size: tuple[int, int] | None,
    max_pixels: int = DataSettings.max_pixels,
    bit_depth: int = DataSettings.bit_depth,
    threads: int = 2,
) -> Iterator[NDArray[np.uint8] | ImageError]:
    """Read images in threads, a few ahead of the consumer, so that memory stays bounded.

    Args:
        paths: image files.
        size: (height, width) to resize to, or ``None`` to keep each image's own.
        max_pixels: as for ``read_image``.
        bit_depth: as for ``read_image``.
        threads: readers; at most 2 * threads + 1 images wait at any time.

    Returns:
        For each path, in order, uint8 [H, W, 3] or the error (not raised).
    """

    def read(path: str | Path) -> NDArray[np.uint8] | ImageError:
        try:
            image = read_image(path, max_pixels=max_pixels, bit_depth=bit_depth)
            return image if size is None else resize(image, size)
        except ImageError as error:
            # A new one: the caught one's traceback keeps half-decoded images in memory.
            return ImageError(error.path, error.reason)

    return in_order(read, paths, threads=threads, ahead=2 * threads)
