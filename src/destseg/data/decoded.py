"""Good images, decoded and held in memory as far as they fit."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.files import FileState, require_same, states_of
from destseg.data.images import read_many, read_with, resize_for_model
from destseg.data.noise import noise_of
from destseg.errors import DataError, ImageError

logger = logging.getLogger("destseg")


class GoodImages:
    """Decoded training images, held in memory as far as they fit.

    Attributes:
        paths: the readable images, in the order given.
        unreadable: those left out.
        noise: of each of the readable ones, the most of ``noise_of``.

    Args:
        paths: of the images.
        settings: how they are read.
        on_progress: called with how many are read.
        states: of the files when their content was looked at; ``None`` looks now.

    Raises:
        DataError: if images cannot be read and ``skip_unreadable`` is off; lists them all.
        ImageError: at a later use, if an image that is read again is another file by now.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: DataSettings,
        on_progress: Callable[[int], None] = lambda _: None,
        states: Mapping[Path, FileState | None] | None = None,
    ) -> None:
        # Before anything is read: what is read at each use must be what was checked.
        self._states = states_of(paths) if states is None else states
        room = settings.cache_gib * 2**30
        self._settings = settings
        self.paths: list[Path] = []
        self.unreadable: list[ImageError] = []
        self.noise: list[float] = []
        cached: list[NDArray[np.uint8]] = []
        size = None if settings.tile or settings.fit == "pad" else settings.size
        images = read_many(
            paths, size=size, max_pixels=settings.max_pixels, bit_depth=settings.bit_depth
        )
        dim = False
        for number, (path, image) in enumerate(zip(paths, images, strict=True), 1):
            image = self._for_model(path, image)
            if isinstance(image, ImageError):
                self.unreadable.append(image)
            else:
                self.paths.append(path)
                self.noise.append(noise_of(image).most)
                dim = dim or is_dim(image, settings.bit_depth)
                # The first ones: where one has no room, no later one is cached.
                room -= image.nbytes
                if room >= 0:
                    cached.append(image)
            on_progress(number)
        self._cached = cached
        if self.unreadable and not settings.skip_unreadable:
            listed = "\n".join(f"  {error}" for error in self.unreadable)
            raise DataError(
                f"{len(self.unreadable)} of {len(paths)} images cannot be read:\n{listed}\n"
                "Repair or remove them, or train without them: --skip-unreadable"
            )
        if dim and (note := depth_note(self.paths)):
            logger.warning("%s", note)
        if len(cached) < len(self.paths):
            logger.warning(
                "%d of %d images fit into --cache-gib %g; the others are read at every use",
                len(cached),
                len(self.paths),
                settings.cache_gib,
            )

    def only(self, paths: Sequence[Path]) -> GoodImages:
        """Return some of these images, without reading them again; the others can be freed."""
        chosen = set(paths)
        keep = [number for number, path in enumerate(self.paths) if path in chosen]
        part = copy.copy(self)
        part.paths = [self.paths[number] for number in keep]
        part.noise = [self.noise[number] for number in keep]
        part._cached = [self._cached[number] for number in keep if number < len(self._cached)]
        return part

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one image, uint8 RGB [h, w, 3], as ``resize_for_model`` gives it."""
        if index < len(self._cached):
            return self._cached[index]
        image = read_with(self.paths[index], self._settings)
        require_same(self.paths[index], self._states[self.paths[index]])
        return resize_for_model(image, self._settings)

    def _for_model(
        self, path: Path, image: NDArray[np.uint8] | ImageError
    ) -> NDArray[np.uint8] | ImageError:
        if isinstance(image, ImageError):
            return image
        try:
            require_same(path, self._states[path])
            return resize_for_model(image, self._settings)
        except ImageError as error:
            return ImageError(path, error.reason)
