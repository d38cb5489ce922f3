"""Batches of good images: a pure function of the seed, the phase and the step.

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

from destseg.config import DataSettings, SynthesisSettings
from destseg.data.depth import depth_note, is_dim
from destseg.data.images import read_image, read_many, resize_for_model
from destseg.data.roi import Roi
from destseg.errors import DataError, ImageError
from destseg.phases import PHASES, SURFACE
from destseg.synthesis.anomalies import add_anomalies, cutpaste
from destseg.synthesis.textures import as_grey_as
from destseg.training.augment import draw_view, show, show_mask

logger = logging.getLogger("destseg")


class GoodImages:
    """Decoded training images, held in memory as far as they fit.

    Attributes:
        paths: the readable images, in the order given.
        unreadable: those left out.

    Raises:
        DataError: if images cannot be read and ``skip_unreadable`` is off; lists them all.
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
        part._cached = [self._cached[number] for number in keep if number < len(self._cached)]
        return part

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one image, uint8 RGB: [image_size, image_size, 3], with tile of its own size."""
        if index < len(self._cached):
            return self._cached[index]
        settings = self._settings
        image = read_image(
            self.paths[index], max_pixels=settings.max_pixels, bit_depth=settings.bit_depth
        )
        return resize_for_model(image, settings)

    def _for_model(
        self, path: Path, image: NDArray[np.uint8] | ImageError
    ) -> NDArray[np.uint8] | ImageError:
        if isinstance(image, ImageError):
            return image
        try:
            return resize_for_model(image, self._settings)
        except ImageError as error:
            return ImageError(path, error.reason)


def batch_indices(n: int, batch_size: int, step: int, *, seed: int, phase: str) -> list[int]:
    """Return which of n images step number ``step`` (from 0) sees.

    Images come in seeded permutations, one after the other, so each is seen equally often.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, PHASES[phase].number, 0, epoch]).permutation(n)
        for epoch in {position // n for position in positions}
    }
    return [int(orders[position // n][position % n]) for position in positions]


def step_seed(seed: int, phase: str, step: int) -> int:
    """Return the seed of what the networks themselves draw in a step, such as dropped paths."""
    return int(np.random.default_rng([seed, PHASES[phase].number, 2, step]).integers(2**62))


class Batches:
    """Training batches by step number: clean images, the same with anomalies, and the masks.

    Args:
        images: the good parts.
        textures: uint8 [t, 3, h, w], of the size of a sample; made grey if the images are.
        rotation, quarter_turns: as in ``draw_view``.
        synthesis: how masks and opacities are drawn.
        batch_size: images in a step.
        seed: of everything drawn.
        device: where the batches are wanted.
        crop: side of the random square that a sample shows; ``None`` shows whole images.
        roi: where anomalies may lie; ``None`` is everywhere.
        share: which samples of each batch are made; the others are another process's.
    """

    def __init__(
        self,
        images: GoodImages,
        textures: Tensor,
        *,
        rotation: float,
        quarter_turns: bool,
        synthesis: SynthesisSettings,
        batch_size: int,
        seed: int,
        device: torch.device,
        crop: int | None = None,
        roi: Roi | None = None,
        share: slice = slice(None),
    ) -> None:
        self._crop = crop
        self._share = share
        # The last one is kept: good images are usually of one size.
        self._inspected = None if roi is None else functools.lru_cache(maxsize=1)(roi.at)
        self._images = images
        self._textures = as_grey_as(textures, images).to(device)
        self._rotation = rotation
        self._quarter_turns = quarter_turns
        self._synthesis = synthesis
        self._batch_size = batch_size
        self._seed = seed
        self._device = device

    def make(self, phase: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the batch of a step (from 0) of a phase.

        Returns:
            Clean images uint8 [n, 3, h, w], anomalous ones float32 [n, 3, h, w] in 0..255, and
            masks float32 [n, 1, h, w] in {0, 1}.
        """
        words = [self._seed, PHASES[phase].number, 1, step]
        draw = np.random.default_rng(words)
        indices = batch_indices(
            len(self._images), self._batch_size, step, seed=self._seed, phase=phase
        )
        wanted = range(len(indices))[self._share]
        samples = [
            sample
            for place, i in enumerate(indices)
            if (sample := self._sample(self._images[i], draw, place in wanted)) is not None
        ]
        stacked = np.stack([shown for shown, _ in samples])
        # Channels lie last in memory, which is what the convolutions are fastest with.
        clean = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(self._device)
        allowed = [mask for _, mask in samples if mask is not None]
        where = torch.from_numpy(np.stack(allowed)[:, None]).to(self._device) if allowed else None
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        whole = (len(indices), self._share)
        anomalous, masks = add_anomalies(
            clean, self._textures, self._synthesis, generator, where, whole
        )
        if phase == SURFACE.name:
            self._cutpaste(draw, wanted, (clean, anomalous, masks), where)
        return clean, anomalous, masks

    def _cutpaste(
        self,
        draw: np.random.Generator,
        wanted: range,
        batch: tuple[Tensor, Tensor, Tensor],
        where: Tensor | None,
    ) -> None:
        """Give some samples of a batch regions of other good images instead of textures."""
        clean, anomalous, masks = batch
        chosen = np.flatnonzero(
            draw.random(self._batch_size) < self._synthesis.cutpaste_probability
        )
        others, rows, mine = [], [], []
        for number, place in enumerate(chosen.tolist()):
            other = self._images[int(draw.integers(len(self._images)))]
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
        anomalous[rows], masks[rows] = cutpaste(clean[rows], stacked, generator, allowed, whole)

    def _sample(
        self, image: NDArray[np.uint8], draw: np.random.Generator, wanted: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None] | None:
        """Return a view of an image, and where anomalies may lie; ``None`` if it is not wanted."""
        size = (image.shape[0], image.shape[1])
        inspected = None if self._inspected is None else self._inspected(size)
        view = draw_view(
            size,
            draw,
            rotation=self._rotation,
            quarter_turns=self._quarter_turns,
            crop=self._crop,
            inspected=inspected,
        )
        if not wanted:
            return None  # drawn all the same, so that the next one's numbers are what they are
        return show(image, view), None if inspected is None else show_mask(inspected, view)

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
