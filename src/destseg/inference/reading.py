"""From whatever shows an image to the pixels that a model sees."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from destseg.as_found import without_remarks
from destseg.config import DataSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import resize_for_model
from destseg.data.noise import UsualNoise, noise_of
from destseg.data.noise_filter import without_noise
from destseg.errors import ImageError
from destseg.inference.result import Failure
from destseg.inference.sources import Content, read

NO_PIXELS = np.empty((0, 0, 3), np.uint8)

_DEPTH, _NOISE = "depth", "noise"  # what is told once

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


def without_notes() -> AbstractContextManager[None]:
    """Tell nothing of the images that are read meanwhile: they are of our own making."""
    return without_remarks(__name__)


class Reading:
    """Reads images for a model; tells once of one that is not as it should be.

    That is of one whose 16 bits are hardly used, and of one whose noise is filtered out.

    Args:
        settings: of the model: size, tiles, limit, depth.
        noise: of good images, beyond which it is filtered out; ``None`` filters none.
    """

    def __init__(self, settings: DataSettings, noise: UsualNoise | None = None) -> None:
        self._settings = settings
        self._noise = noise
        self._told: set[str] = set()
        self._telling = threading.Lock()

    def __call__(self, named: tuple[str, Content | ImageError]) -> Pixels | Failure:
        """Return the pixels of an image with its path, or why it cannot be read."""
        path, source = named
        try:
            if isinstance(source, ImageError):
                raise source
            limit, depth = self._settings.max_pixels, self._settings.bit_depth
            image = read(source, path, max_pixels=limit, bit_depth=depth)
            if _DEPTH not in self._told and is_dim(image, depth) and (note := depth_note([source])):
                self._tell(_DEPTH, path, note)
            height, width = image.shape[:2]
            seen = resize_for_model(image, self._settings)
            seen = self._filtered(seen, path, (height, width))
            return Pixels(path, seen, height, width)
        except ImageError as error:
            return Failure(path, ImageError(path, error.reason))

    def _filtered(
        self, image: NDArray[np.uint8], path: str, before: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return an image without the noise that no good image had in training.

        Its (height, width) before it was resized tell how that has smeared the noise.
        """
        if self._noise is None or (surplus := noise_of(image).beyond(self._noise)) is None:
            return image
        self._tell(
            _NOISE,
            path,
            f"more noise than in training, by {surplus.most:.1f} grey levels, which are filtered "
            "out before the image is inspected. Fine detail is lost with them: give the camera "
            "more light, or a lower gain.",
        )
        return without_noise(image, surplus, before)

    def _tell(self, kind: str, path: str, note: str) -> None:
        with self._telling:
            told = kind in self._told
            self._told.add(kind)
        if not told:  # once: the images of a line are alike
            _log.warning("%s: %s", path, note)
