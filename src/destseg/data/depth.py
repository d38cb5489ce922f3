"""Whether 16-bit images use their bits: values of 10, 12 or 14 bits leave few grey levels."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.data.decoding import FULL_DEPTH, has_16_bits, open_frame, whole_numbers
from destseg.data.opening import open_image

_USUAL = (8, 10, 12, 14)  # bits that cameras give in 16-bit files, from the right
_DIM = 64  # what 14 bits reach when 16 are scaled to 8


def depth_note(images: Iterable[object]) -> str | None:
    """Return what to do about 16-bit images of which none uses more than 14 bits.

    Args:
        images: paths, bytes of files, arrays or PIL images that can be read, of 8 or 16 bits;
            read again only as far as they have 16.

    Returns:
        The remedy in words; ``None`` if it is not needed.
    """
    highest = count = 0
    for image in images:
        value = _highest_of_16_bits(image)
        if value is None:
            continue
        if value >= 2 ** _USUAL[-1]:
            return None
        highest, count = max(highest, value), count + 1
    if not highest:
        return None
    bits = next(bits for bits in _USUAL if highest < 2**bits)
    return (
        f"no value of {count} 16-bit image{'s' if count > 1 else ''} is above {highest} of 65535, "
        f"which leaves {(highest + 128) // 257 + 1} of 256 grey levels. If the camera gives "
        f"{bits} bits, train with --bit-depth {bits}"
    )


def is_dim(image: NDArray[np.uint8], bit_depth: int) -> bool:
    """Return whether an image as read may be one of 16 bits that uses 14 or fewer."""
    return bit_depth == FULL_DEPTH and int(image.max()) <= _DIM


def _highest_of_16_bits(image: object) -> int | None:
    if isinstance(image, np.ndarray):
        colours = image if image.ndim == 2 else image[..., :3]
        return int(colours.max()) if image.dtype.itemsize == 2 else None
    if isinstance(image, Image.Image):
        return int(np.max(whole_numbers(image, image))) if image.mode.startswith("I") else None
    if isinstance(image, bytes):
        return _highest_in(io.BytesIO(image), Path("image"))
    with open_image(Path(str(image))) as file:
        return _highest_in(file, Path(str(image)))


def _highest_in(file: IO[bytes], name: Path) -> int | None:
    if not has_16_bits(file):
        return None
    file.seek(0)
    with open_frame(file, name, sys.maxsize) as frame:
        if frame.deep is not None:
            return int(frame.deep[..., :3].max())
        assert frame.image is not None, "without 16-bit colour there is PIL's"
        return int(whole_numbers(frame.image, frame.image).max())
