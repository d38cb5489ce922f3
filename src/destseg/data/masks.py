"""What a mask marks, the same in every format and depth; what could mean two things is refused.

Marked is what is not 0, whatever its value: 0 and 1, 0 and 255, 0 and 65535, numbers of regions.
Only values that change gradually, at softened edges or from a lossy format, are fractions of a
pixel and cut at half of the file's range.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from destseg.config import DataSettings
from destseg.data.decoding import Frame, is_signed, open_frame, whole_numbers
from destseg.data.opening import open_image
from destseg.errors import ImageError

_TO_DO = "save it without loss (PNG) with 0 for what is not marked and 255 for what is"
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
# Of the pixels between 0 and the highest value: how many touch yet another value above 0.  On
# masks of MVTec AD, magnetic tiles and ball screws it was 0 for numbered regions, below 0.4 for
# most of those that touch, and above 0.73 for all that were resized, blurred or drawn softly.
_NUMBERED, _SOFT = 0.5, 0.7
_FAR = 0.02  # pixels in the middle of the range away from any edge, as a fraction of the mask
_REACH = np.ones((5, 5), np.uint8)
_NEXT = np.ones((3, 3), np.uint8)


def read_mask(path: str | Path, *, max_pixels: int = DataSettings.max_pixels) -> NDArray[np.bool_]:
    """Read which pixels a mask file marks, upright as its EXIF orientation says.

    - Values without loss: whatever is not 0 is marked.  If they change gradually, as softened
      edges do, half of the range (of 8 bits 128, of 16 bits 32768) or more is marked.
    - JPEG, lossy WebP: half of the range or more; refused if values lie far from two levels.
    - Colour: what is not black.  A palette gives its colours.
    - Alpha: what is transparent is not marked.  If all colours are the same, alpha is the mask.

    Args:
        path: a JPEG, PNG, BMP, TIFF or WebP file.
        max_pixels: width times height above which the file is refused before it is decoded.

    Returns:
        bool [H, W].

    Raises:
        ImageError: as ``read_image``, or if the mask could mean more than one thing.
    """
    with open_image(path) as file:
        name = Path(path)
        lossy_webp = _is_lossy_webp(file)
        file.seek(0)
        with open_frame(file, name, max_pixels) as frame:
            lossy = _is_lossy(frame, lossy_webp)
            return np.ascontiguousarray(frame.upright(_marked(frame, name, lossy)))


def _marked(frame: Frame, name: Path, lossy: bool) -> NDArray[np.bool_]:
    pixels, full = _own_values(frame, name)
    colour, alpha = _with_alpha(pixels, frame, full)
    levels = colour if colour.ndim == 2 else colour.max(axis=2)
    if alpha is None or bool((alpha == full).all()):
        marked = _above_0(levels, full, name, lossy)
    elif bool((colour == colour[:1, :1]).all()):
        marked = _above_0(alpha, full, name, lossy)
    else:
        marked = _above_0(alpha, full, name, lossy)
        seen = ((levels.astype(np.uint32) * alpha + full // 2) // full).astype(levels.dtype)
        if not np.array_equal(marked, _above_0(seen, full, name, lossy)):
            raise ImageError(
                name,
                "expected a mask in the colours or in the alpha channel, got both, and they mark "
                f"different pixels; {_TO_DO}",
            )
    if frame.image is not None and frame.image.mode == "P":
        _require_one_meaning(np.asarray(frame.image), marked, name)
    return marked


def _own_values(frame: Frame, name: Path) -> tuple[NDArray[Any], int]:
    """Return the values of a frame, [h, w] or [h, w, c], and the highest that its depth has."""
    if frame.deep is not None:
        return frame.deep, 65535
    image = frame.image
    assert image is not None, "without 16-bit colour there is PIL's"
    if image.mode == "1":
        return np.asarray(image.convert("L")), 255
    if image.mode.startswith("I") or is_signed(image):
        values = whole_numbers(image, image)
        low, high = int(values.min()), int(values.max())
        if low < 0:
            raise ImageError(name, f"expected a mask, got values from {low} to {high}; {_TO_DO}")
        if image.mode == "L":
            return values.astype(np.uint8), 255
        return (values.astype(np.uint16), 65535) if high <= 65535 else (values, 2**31 - 1)
    if image.mode in ("P", "PA", "RGBa"):
        return np.asarray(image.convert("RGBA")), 255
    plain = image.mode in ("L", "LA", "RGB", "RGBA")
    return np.asarray(image if plain else image.convert("RGB")), 255


def _with_alpha(
    pixels: NDArray[Any], frame: Frame, full: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colours, [h, w] or [h, w, 3], and alpha [h, w] where a frame has it."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return np.squeeze(pixels[..., :-1], 2) if pixels.shape[2] == 2 else pixels[..., :3], (
            pixels[..., -1]
        )
    key = None if frame.image is None else frame.image.info.get("transparency")
    if isinstance(key, tuple) and pixels.ndim == 3:
        # A PNG may name one colour that is transparent; of 16 bits, pixels are BGR.
        colour = np.array(key if frame.deep is None else key[::-1])
        transparent = (pixels == colour).all(axis=2)
    elif isinstance(key, int) and pixels.ndim == 2:
        transparent = pixels == key
    else:
        return pixels, None
    return pixels, np.where(transparent, 0, full).astype(pixels.dtype)


def _require_one_meaning(index: NDArray[np.uint8], marked: NDArray[np.bool_], name: Path) -> None:
    """Refuse a palette mask whose numbers and colours disagree.

    Two colours leave no doubt, if one of them is black.
    """
    colours = np.count_nonzero(np.bincount(index.ravel()))
    if not np.array_equal(index > 0, marked) and (colours > 2 or (colours == 2 and marked.all())):
        raise ImageError(
            name,
            "expected a palette in which number 0 alone is black, got one whose numbers and "
            f"colours mark different pixels; {_TO_DO}",
        )


def _above_0(levels: NDArray[Any], full: int, name: Path, lossy: bool) -> NDArray[np.bool_]:
    """Return which levels are marked: those above 0, or where they change gradually from half."""
    low, high = int(levels.min()), int(levels.max())
    marked = levels > 0
    if low == high and (high in (0, full) or not lossy):
        return marked
    if not lossy:
        if low > 0:
            got = f"values from {low} to {high} and no 0"
            raise ImageError(name, f"expected 0 where nothing is marked, got {got}; {_TO_DO}")
        between = marked & (levels < high)
        if not between.any() or not (between & (levels <= full // 2)).any():
            return marked
        softness = _softness(levels, between, high)
        if softness <= _NUMBERED:
            return marked
        if softness < _SOFT or not (between & (levels > full // 4)).any():
            raise ImageError(
                name,
                f"expected a mask or numbered regions, got values up to {high} that could be "
                f"regions that touch as well as softened edges; {_TO_DO}",
            )
    return _from_half(levels, full, name)


def _softness(levels: NDArray[Any], between: NDArray[np.bool_], high: int) -> float:
    """Return the fraction of the pixels between 0 and the highest that touch other values > 0."""
    wide = levels if levels.dtype.itemsize <= 2 else levels.astype(np.float64)
    above = cv2.dilate(wide, _NEXT) != wide
    below = cv2.erode(np.where(wide == 0, wide.dtype.type(high), wide), _NEXT) != wide
    return float(np.count_nonzero(between & (above | below)) / np.count_nonzero(between))


def _from_half(levels: NDArray[Any], full: int, name: Path) -> NDArray[np.bool_]:
    marked = np.asarray(levels > full // 2)
    whole = marked.astype(np.uint8)
    edges = cv2.dilate(whole, _REACH) != cv2.erode(whole, _REACH)
    far = np.count_nonzero(_in_the_middle(levels, full) & ~edges)
    if not edges.any() or far > _FAR * np.count_nonzero(marked):
        raise ImageError(
            name,
            f"expected a mask of two levels, near 0 and near {full}, got values from "
            f"{levels.min()} to {levels.max()} that change gradually; {_TO_DO}",
        )
    return marked


def _in_the_middle(levels: NDArray[Any], full: int) -> NDArray[np.bool_]:
    return np.asarray((levels > full // 4) & (levels < full - full // 4))


def _is_lossy(frame: Frame, lossy_webp: bool) -> bool:
    image = frame.image
    if isinstance(image, WebPImageFile):
        return lossy_webp
    compression = None if image is None else image.info.get("compression")
    return isinstance(image, JpegImageFile) or compression in _LOSSY_TIFF


def _is_lossy_webp(file: IO[bytes]) -> bool:
    """Return whether a WebP file has a lossy chunk, in its first frame if it is animated."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        if kind == b"ANMF":
            size = 16  # what describes the frame; its own chunks follow
        file.seek(size + size % 2, 1)
    return False
