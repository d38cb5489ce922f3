"""Batches of good pictures: a pure function of the seed, the phase and the step.

Nothing here has a position that would have to be saved: the batch of step 700 is the same
whether the 699 before it were drawn or not, which is what makes a resumed run equal to an
uninterrupted one.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from destseg.config import DamageSettings, DataSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import read_image, read_many, resize_for_model
from destseg.data.roi import Roi
from destseg.errors import DataError, ImageError
from destseg.training.damage import damage, transplant
from destseg.training.textures import as_grey_as
from destseg.training.views import draw_view, show, show_mask

logger = logging.getLogger("destseg")

PHASE_NUMBER = {"denoise": 1, "segment": 2, "surface": 3}


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
        room = settings.cache_gib * 2**30
        self._settings = settings
        self.paths: list[Path] = []
        self.unreadable: list[ImageError] = []
        cached: list[NDArray[np.uint8]] = []
        size = None if settings.tile else (side, side)
        pictures = read_many(
            paths, size=size, max_pixels=settings.max_pixels, bit_depth=settings.bit_depth
        )
        dim = False
        for number, (path, picture) in enumerate(zip(paths, pictures, strict=True), 1):
            picture = self._for_model(path, picture)
            if isinstance(picture, ImageError):
                self.unreadable.append(picture)
            else:
                self.paths.append(path)
                dim = dim or is_dim(picture, settings.bit_depth)
                # The first ones: where one has no room, no later one is cached.
                room -= picture.nbytes
                if room >= 0:
                    cached.append(picture)
            on_progress(number)
        self._cached = cached
        if self.unreadable and not settings.skip_unreadable:
            listed = "\n".join(f"  {error}" for error in self.unreadable)
            raise DataError(
                f"{len(self.unreadable)} of {len(paths)} pictures cannot be read:\n{listed}\n"
                "Repair or remove them, or train without them: --skip-unreadable"
            )
        if dim and (note := depth_note(self.paths)):
            logger.warning("%s", note)
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
        """Return one picture, uint8 RGB: [image_size, image_size, 3], with tile of its own size."""
        if index < len(self._cached):
            return self._cached[index]
        settings = self._settings
        picture = read_image(
            self.paths[index], max_pixels=settings.max_pixels, bit_depth=settings.bit_depth
        )
        return resize_for_model(picture, settings)

    def _for_model(
        self, path: Path, picture: NDArray[np.uint8] | ImageError
    ) -> NDArray[np.uint8] | ImageError:
        if isinstance(picture, ImageError):
            return picture
        try:
            return resize_for_model(picture, self._settings)
        except ImageError as error:
            return ImageError(path, error.reason)


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


class Batches:
    """Training batches by step number: clean pictures, damaged ones and the damage masks.

    Args:
        pictures: the good parts.
        textures: uint8 [t, 3, h, w], of the size of a sample; made grey if the pictures are.
        rotation: as in ``draw_view``.
        damage_settings: how masks and opacities are drawn.
        batch_size: pictures in a step.
        seed: of everything drawn.
        device: where the batches are wanted.
        crop: side of the random square that a sample shows; ``None`` shows whole pictures.
        roi: where pictures may be damaged; ``None`` is everywhere.
        share: which samples of each batch are made; the others are another process's.
    """

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
        crop: int | None = None,
        roi: Roi | None = None,
        share: slice = slice(None),
    ) -> None:
        self._crop = crop
        self._share = share
        # The last one is kept: good pictures are usually of one size.
        self._inspected = None if roi is None else functools.lru_cache(maxsize=1)(roi.at)
        self._pictures = pictures
        self._textures = as_grey_as(textures, pictures).to(device)
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
        wanted = range(len(indices))[self._share]
        samples = [
            sample
            for place, i in enumerate(indices)
            if (sample := self._sample(self._pictures[i], draw, place in wanted)) is not None
        ]
        stacked = np.stack([shown for shown, _ in samples])
        # Channels lie last in memory, which is what the convolutions are fastest with.
        clean = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(self._device)
        allowed = [mask for _, mask in samples if mask is not None]
        where = torch.from_numpy(np.stack(allowed)[:, None]).to(self._device) if allowed else None
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        whole = (len(indices), self._share)
        damaged, masks = damage(clean, self._textures, self._damage, generator, where, whole)
        if phase == "surface":
            self._transplant(draw, wanted, (clean, damaged, masks), where)
        return clean, damaged, masks

    def _transplant(
        self,
        draw: np.random.Generator,
        wanted: range,
        batch: tuple[Tensor, Tensor, Tensor],
        where: Tensor | None,
    ) -> None:
        """Damage some samples of a batch with regions of other good pictures, not with textures."""
        clean, damaged, masks = batch
        chosen = np.flatnonzero(draw.random(self._batch_size) < self._damage.transplant_share)
        others, rows, mine = [], [], []
        for number, place in enumerate(chosen.tolist()):
            other = self._pictures[int(draw.integers(len(self._pictures)))]
            sample = self._sample(other, draw, place in wanted)
            if sample is not None:
                others.append(sample[0])
                rows.append(wanted.index(place))
                mine.append(number)
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        if not rows:
            return
        stacked = torch.from_numpy(np.stack(others)).permute(0, 3, 1, 2).to(self._device)
        allowed = None if where is None else where[rows]
        whole = (len(chosen), mine)
        damaged[rows], masks[rows] = transplant(clean[rows], stacked, generator, allowed, whole)

    def _sample(
        self, picture: NDArray[np.uint8], draw: np.random.Generator, wanted: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None] | None:
        """Return a view of a picture, and where it may be damaged; ``None`` if it is not wanted."""
        size = (picture.shape[0], picture.shape[1])
        inspected = None if self._inspected is None else self._inspected(size)
        view = draw_view(size, self._rotation, draw, crop=self._crop, inspected=inspected)
        if not wanted:
            return None  # drawn all the same, so that the next one's numbers are what they are
        return show(picture, view), None if inspected is None else show_mask(inspected, view)

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
