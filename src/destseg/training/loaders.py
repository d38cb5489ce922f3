"""Batches of good pictures: a pure function of the seed, the phase and the step.

Nothing here has a position that would have to be saved: the batch of step 700 is the same
whether the 699 before it were drawn or not, which is what makes a resumed run equal to an
uninterrupted one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from destseg.config import DamageSettings, DataSettings
from destseg.data.images import read_image, read_many, resize
from destseg.errors import DataError, ImageError
from destseg.training.damage import damage

logger = logging.getLogger("destseg")

CORNER_GREY = 114
PHASE_NUMBER = {"denoise": 1, "segment": 2}


class GoodPictures:
    """Decoded training pictures, held in memory as far as they fit.

    Attributes:
        paths: the readable pictures, in the order given.
        unreadable: those left out.

    Raises:
        DataError: if pictures cannot be read and ``skip_unreadable`` is off; lists them all.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: DataSettings,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        side = settings.image_size
        room = int(settings.cache_gib * 2**30) // (side * side * 3)
        self._settings = settings
        self.paths: list[Path] = []
        self.unreadable: list[ImageError] = []
        cached: list[NDArray[np.uint8]] = []
        pictures = read_many(paths, size=(side, side), max_pixels=settings.max_pixels)
        for number, (path, picture) in enumerate(zip(paths, pictures, strict=True), 1):
            if isinstance(picture, ImageError):
                self.unreadable.append(picture)
            else:
                self.paths.append(path)
                if len(cached) < room:
                    cached.append(picture)
            on_progress(number)
        self._cached = cached
        if self.unreadable and not settings.skip_unreadable:
            listed = "\n".join(f"  {error}" for error in self.unreadable)
            raise DataError(
                f"{len(self.unreadable)} of {len(paths)} pictures cannot be read:\n{listed}\n"
                "Repair or remove them, or train without them: --skip-unreadable"
            )
        if len(cached) < len(self.paths):
            logger.warning(
                "%d of %d pictures fit into --cache-gib %g; the others are read at every use",
                len(cached),
                len(self.paths),
                settings.cache_gib,
            )

    def only(self, paths: Sequence[Path]) -> GoodPictures:
        """Return some of these pictures, without reading them again; the others can be freed."""
        chosen = set(paths)
        keep = [number for number, path in enumerate(self.paths) if path in chosen]
        part = copy.copy(self)
        part.paths = [self.paths[number] for number in keep]
        part._cached = [self._cached[number] for number in keep if number < len(self._cached)]
        return part

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 RGB [image_size, image_size, 3]."""
        if index < len(self._cached):
            return self._cached[index]
        side = self._settings.image_size
        picture = read_image(self.paths[index], max_pixels=self._settings.max_pixels)
        return resize(picture, (side, side))


def batch_indices(n: int, batch_size: int, step: int, *, seed: int, phase: str) -> list[int]:
    """Return which of n pictures step number ``step`` (from 0) sees.

    Pictures come in seeded permutations, one after the other, so each is seen equally often.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, PHASE_NUMBER[phase], 0, epoch]).permutation(n)
        for epoch in {position // n for position in positions}
    }
    return [int(orders[position // n][position % n]) for position in positions]


def step_seed(seed: int, phase: str, step: int) -> int:
    """Return the seed of what the networks themselves draw in a step, such as dropped paths."""
    return int(np.random.default_rng([seed, PHASE_NUMBER[phase], 2, step]).integers(2**62))


def rotate(
    picture: NDArray[np.uint8], rotation: str, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture turned at random: by up to 5 degrees, for ``turn`` also by quarters.

    Corners that come in are grey, 114 (section 4.1 of the paper: per product).
    """
    if rotation == "none":
        return picture
    if rotation == "turn":
        picture = np.rot90(picture, k=int(generator.integers(4)))
    height, width = picture.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, float(generator.uniform(-5, 5)), 1.0)
    turned = cv2.warpAffine(
        np.ascontiguousarray(picture), turn, (width, height), borderValue=(CORNER_GREY,) * 3
    )
    return turned.astype(np.uint8, copy=False)


class Batches:
    """Training batches by step number: clean pictures, damaged ones and the damage masks."""

    def __init__(
        self,
        pictures: GoodPictures,
        textures: Tensor,
        *,
        rotation: str,
        damage_settings: DamageSettings,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._pictures = pictures
        self._textures = textures.to(device)
        self._rotation = rotation
        self._damage = damage_settings
        self._batch_size = batch_size
        self._seed = seed
        self._device = device

    def make(self, phase: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the batch of a step (from 0) of a phase.

        Returns:
            Clean pictures uint8 [n, 3, h, w], damaged ones float32 [n, 3, h, w] in 0..255, and
            masks float32 [n, 1, h, w] in {0, 1}.
        """
        words = [self._seed, PHASE_NUMBER[phase], 1, step]
        draw = np.random.default_rng(words)
        indices = batch_indices(
            len(self._pictures), self._batch_size, step, seed=self._seed, phase=phase
        )
        stacked = np.stack([rotate(self._pictures[i], self._rotation, draw) for i in indices])
        # Channels lie last in memory, which is what the convolutions are fastest with.
        clean = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(self._device)
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        damaged, masks = damage(clean, self._textures, self._damage, generator)
        return clean, damaged, masks

    def stream(self, phase: str, steps: range) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of some steps, each made while the one before it is learned from."""
        with ThreadPoolExecutor(1, thread_name_prefix="destseg-batches") as pool:
            coming = pool.submit(self.make, phase, steps[0]) if steps else None
            for step in steps:
                assert coming is not None
                batch = coming.result()
                if step + 1 < steps.stop:
                    coming = pool.submit(self.make, phase, step + 1)
                yield batch
