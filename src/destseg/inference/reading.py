"""From whatever shows an image to the pixels that a model sees."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import resize_for_model
from destseg.errors import ImageError
from destseg.inference.result import Failure
from destseg.inference.sources import Content, read

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

    def __call__(self, named: tuple[str, Content | ImageError]) -> Pixels | Failure:
        """Return the pixels of an image with its path, or why it cannot be read."""
        path, source = named
        try:
            if isinstance(source, ImageError):
                raise source
            limit, depth = self._settings.max_pixels, self._settings.bit_depth
            image = read(source, path, max_pixels=limit, bit_depth=depth)
            if not self._told_depth and is_dim(image, depth):
                self._tell_depth(source, path)
            height, width = image.shape[:2]
            return Pixels(path, resize_for_model(image, self._settings), height, width)
        except ImageError as error:
            return Failure(path, ImageError(path, error.reason))

    def _tell_depth(self, source: Content, path: str) -> None:
        note = depth_note([source])
        if not note:
            return
        with self._telling:
            told, self._told_depth = self._told_depth, True
        if not told:  # once: the images of a line are alike
            _log.warning("%s: %s", path, note)
