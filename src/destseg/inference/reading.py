"""From whatever shows an image to the pixels that a model sees."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.config import DataSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import as_image, decode_image, read_image, resize_for_model
from destseg.errors import ImageError
from destseg.inference.result import Failure

ImageLike: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8] | NDArray[np.uint16]
"""A path, the bytes of a file, a PIL image or an array [h, w] or [h, w, 3] (RGB)."""

NO_PIXELS = np.empty((0, 0, 3), np.uint8)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as a model sees it.

    Attributes:
        path: the file's path as it was given, or a number for an image without a file.
        pixels: uint8 RGB [h, w, 3], at the model's size.
        height, width: of the image itself.
    """

    path: str
    pixels: NDArray[np.uint8]
    height: int
    width: int


class Reading:
    """Reads images for a model; tells once of one whose 16 bits are hardly used.

    Args:
        settings: of the model: size, tiles, limit, depth.
    """

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings
        self._told_depth = False
        self._telling = threading.Lock()

    def __call__(self, numbered: tuple[int, ImageLike]) -> Pixels | Failure:
        """Return the pixels of a numbered image, or why it cannot be read."""
        number, source = numbered
        name = str(source) if isinstance(source, str | Path) else f"image {number}"
        try:
            image = self._image(source, name)
            if not self._told_depth and is_dim(image, self._settings.bit_depth):
                self._tell_depth(source, name)
            height, width = image.shape[:2]
            return Pixels(name, resize_for_model(image, self._settings), height, width)
        except ImageError as error:
            return Failure(name, ImageError(name, error.reason))

    def _image(self, source: ImageLike, name: str) -> NDArray[np.uint8]:
        limit, depth = self._settings.max_pixels, self._settings.bit_depth
        if isinstance(source, str | Path):
            return read_image(source, max_pixels=limit, bit_depth=depth)
        if isinstance(source, bytes):
            return decode_image(source, name, max_pixels=limit, bit_depth=depth)
        return as_image(source, bit_depth=depth)

    def _tell_depth(self, source: ImageLike, name: str) -> None:
        note = depth_note([source])
        if not note:
            return
        with self._telling:
            told, self._told_depth = self._told_depth, True
        if not told:  # once: the images of a line are alike
            _log.warning("%s: %s", name, note)
