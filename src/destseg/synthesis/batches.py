"""Batches of good images with anomalies: a pure function of the seed, the phase and the step.

Nothing here has a position that would have to be saved: the batch of step 700 is the same
whether the 699 before it were drawn or not, which is what makes a resumed run equal to an
uninterrupted one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from destseg.config import UNCHANGED, Settings, SynthesisSettings, VariationSettings
from destseg.data.decoded import GoodImages
from destseg.data.defects import Defect
from destseg.data.images import padded, padded_mask
from destseg.data.noise import UsualNoise, noise_of
from destseg.data.noise_filter import without_noise
from destseg.data.roi import Roi
from destseg.phases import PHASES, SEGMENT
from destseg.synthesis.anomalies import add_anomalies, add_lines, cutpaste
from destseg.synthesis.augment import View, draw_view, show, show_mask
from destseg.synthesis.known import KnownDefects
from destseg.synthesis.textures import Images, as_grey_as, load_textures
from destseg.synthesis.variation import (
    Variation,
    beyond_their_own,
    draw_variation,
    lit,
    photographed,
)

_LINES = 77  # the stream of the random numbers of lines
_LINE_LEVELS = (8.0, 70.0)  # grey levels
_LINE_SIGNS = (-1.0, -1.0, 1.0)  # cracks and scratches are darker more often than brighter


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


class Batch(NamedTuple):
    """What a step of training learns from.

    Attributes:
        clean: good images, uint8 [n, 3, h, w].
        anomalous: the same with anomalies, float32 [n, 3, h, w] in 0..255.
        masks: where the anomalies are, float32 [n, 1, h, w] in {0, 1}.
        broad: which anomalies are regions of other good images instead of textures, bool [n].

    Where a sample is an image of a known defect itself, ``clean`` is the same; nothing learns from
    ``clean`` in phase 2, where these are.
    """

    clean: Tensor
    anomalous: Tensor
    masks: Tensor
    broad: Tensor


class Known(NamedTuple):
    """A sample of a known defect, as a step of phase 2 learns from it.

    Attributes:
        place: its place in the batch.
        source: the defect.
        clean: the good image that it was laid onto, uint8 [h, w, 3]; the defect's own image where
            that is the sample.
        anomalous: with the defect, the same shape.
        mask: where the defect is, bool [h, w].
    """

    place: int
    source: Defect
    clean: NDArray[np.uint8]
    anomalous: NDArray[np.uint8]
    mask: NDArray[np.bool_]


class _Sample(NamedTuple):
    """A view of a good image.

    Attributes:
        image: in another light, uint8 [h, w, 3].
        inspected: where anomalies may lie, bool [h, w]; ``None``: everywhere.
        variation: what changes; the camera's part is not done yet.
    """

    image: NDArray[np.uint8]
    inspected: NDArray[np.bool_] | None
    variation: Variation | None


class Batches:
    """Training batches by step number: clean images, the same with anomalies, and the masks.

    Attributes:
        variation: changes that are no defect, less what the images vary by already.

    Args:
        images: the good parts.
        textures: uint8 [t, 3, h, w], of the size of a sample; made grey if the images are.
        rotation, quarter_turns: as in ``draw_view``.
        variation: changes that are no defect; what the images vary by already is not added.
        usual: noise of the images, beyond which inspection filters it out, and so what is shown is
            without it; ``None`` where nothing is filtered.
        synthesis: how masks and opacities are drawn.
        batch_size: images in a step.
        seed: of everything drawn.
        device: where the batches are wanted.
        pad_to: (height, width) to which smaller images are padded; ``None`` leaves them.
        roi: where anomalies may lie; ``None`` is everywhere.
        share: which samples of each batch are made; the others are another process's.
        defects: known ones, of which phase 2 has ``defect_fraction`` of each batch; those without
            a mask are passed over.
    """

    def __init__(
        self,
        images: Images,
        textures: Tensor,
        *,
        rotation: float,
        quarter_turns: bool,
        variation: VariationSettings = UNCHANGED,
        usual: UsualNoise | None = None,
        synthesis: SynthesisSettings,
        batch_size: int,
        seed: int,
        device: torch.device,
        pad_to: tuple[int, int] | None = None,
        roi: Roi | None = None,
        share: slice = slice(None),
        defects: Sequence[Defect] = (),
    ) -> None:
        self._pad_to = pad_to
        self._size = (textures.shape[2], textures.shape[3])
        self._share = share
        # The last one is kept: good images are usually of one size.
        self._inspected = None if roi is None else functools.lru_cache(maxsize=1)(roi.at)
        self._images = images
        self._textures = as_grey_as(textures, images).to(device)
        self._rotation = rotation
        self._quarter_turns = quarter_turns
        self.variation = beyond_their_own(variation, images)
        self._usual = usual
        self._synthesis = synthesis
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        known = [each for each in defects if each.mask is not None]
        self._known = KnownDefects(known, images, self._inspected) if known else None

    @classmethod
    def of(
        cls,
        images: GoodImages,
        settings: Settings,
        *,
        batch_size: int,
        device: torch.device,
        roi: Roi | None,
        share: slice = slice(None),
        defects: Sequence[Defect] = (),
    ) -> Batches:
        """Return the batches that settings describe; the rest is as for the class.

        Raises:
            DataError, MissingExtraError: if there are no textures, as ``load_textures`` says.
        """
        data, synthesis = settings.data, settings.synthesis
        return cls(
            images,
            load_textures(synthesis.textures, data.crop or data.size, max_pixels=data.max_pixels),
            rotation=data.rotation,
            quarter_turns=data.quarter_turns,
            variation=settings.variation,
            usual=UsualNoise.of(images.noise) if data.filter_noise else None,
            synthesis=synthesis,
            batch_size=batch_size,
            seed=settings.training.seed,
            device=device,
            pad_to=None if data.tile else data.size,
            roi=roi,
            share=share,
            defects=defects,
        )

    def make(self, phase: str, step: int) -> Batch:
        """Return the batch of a step (from 0) of a phase."""
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
        stacked = np.stack([each.image for each in samples])
        # Channels lie last in memory, which is what the convolutions are fastest with.
        clean = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(self._device)
        where = self._where([each.inspected for each in samples])
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        whole = (len(indices), self._share)
        anomalous, masks = add_anomalies(
            clean, self._textures, self._synthesis, generator, where, whole
        )
        broad = torch.zeros(len(clean), dtype=torch.bool, device=self._device)
        batch = Batch(clean, anomalous, masks, broad)
        self._lines([*words, _LINES], wanted, batch, where)
        if phase == SEGMENT.name:
            self._cutpaste(draw, wanted, batch, where)
        self._photograph(batch, [each.variation for each in samples])
        if phase == SEGMENT.name:
            for known in self.known_defects(step):
                row = wanted.index(known.place)
                batch.clean[row] = torch.from_numpy(known.clean).permute(2, 0, 1)
                batch.anomalous[row] = torch.from_numpy(known.anomalous).permute(2, 0, 1)
                batch.masks[row, 0] = torch.from_numpy(known.mask)
                batch.broad[row] = False
        return batch

    def known_defects(self, step: int) -> list[Known]:
        """Return the samples of known defects in a step (from 0) of phase 2; none without any.

        Their random numbers are their own, so that all other samples are what they are without.
        """
        if self._known is None:
            return []
        size, words = self._batch_size, [self._seed, PHASES[SEGMENT.name].number, 3, step]
        draw = np.random.default_rng(words)
        count = math.floor(self._synthesis.defect_fraction * size + draw.random())
        wanted = range(size)[self._share]
        places = [place for place in draw.permutation(size)[:count].tolist() if place in wanted]
        return [self._known_defect(place, [*words, place + 1]) for place in sorted(places)]

    def _known_defect(self, place: int, words: list[int]) -> Known:
        assert self._known is not None
        draw = np.random.default_rng(words)
        source, clean, image, mask, around = self._known.draw(draw)
        size = (image.shape[0], image.shape[1])
        if self._pad_to not in (None, size):
            clean, image = padded(clean, self._pad_to), padded(image, self._pad_to)
            mask, around = padded_mask(mask, self._pad_to), padded_mask(around, self._pad_to)
            size = self._pad_to
        view = self._view(size, draw, around)
        variation = draw_variation(draw, self.variation)
        shown = self._seen(lit(show(image, view), variation), variation)
        before = shown
        if clean is not image:
            before = self._seen(lit(show(clean, view), variation), variation)
        return Known(place, source, before, shown, show_mask(mask, view))

    def _photograph(self, batch: Batch, variations: Sequence[Variation | None]) -> None:
        """Let the camera change what a batch shows, the same way with anomalies and without."""
        for row, variation in enumerate(variations):
            if variation is None or not variation.camera:
                continue
            for images in (batch.clean, batch.anomalous):
                seen = images[row].round().to("cpu", torch.uint8).permute(1, 2, 0).contiguous()
                changed = self._seen(seen.numpy(), variation)
                images[row] = torch.from_numpy(changed).permute(2, 0, 1).to(images.dtype)

    def _seen(self, image: NDArray[np.uint8], variation: Variation | None) -> NDArray[np.uint8]:
        """Return what inspection is shown of an image that the camera has changed."""
        if variation is None:
            return image
        image = photographed(image, variation)
        if self._usual is None or not variation.noise:
            return image
        surplus = noise_of(image).beyond(self._usual)
        return image if surplus is None else without_noise(image, surplus)

    def _lines(self, words: list[int], wanted: range, batch: Batch, where: Tensor | None) -> None:
        """Give some samples of a batch lines instead of textures.

        Their random numbers are their own, so that all other samples are what they are without.
        """
        draw = np.random.default_rng(words)
        chosen = draw.random(self._batch_size) < self._synthesis.line_probability
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        levels = draw.choice(_LINE_SIGNS, self._batch_size)
        levels *= draw.uniform(*_LINE_LEVELS, self._batch_size)
        # Only where there is an anomaly: some images may be shown without.
        rows = [row for row, place in enumerate(wanted) if chosen[place] and batch.masks[row].any()]
        if not rows:
            return
        mine = [wanted[row] for row in rows]
        allowed = None if where is None else where[rows]
        batch.anomalous[rows], batch.masks[rows] = add_lines(
            batch.clean[rows],
            torch.tensor(levels[mine], dtype=torch.float32),
            generator,
            allowed,
            (self._batch_size, mine),
        )

    def _cutpaste(
        self,
        draw: np.random.Generator,
        wanted: range,
        batch: Batch,
        where: Tensor | None,
    ) -> None:
        """Give some samples of a batch regions of other good images instead of textures."""
        # Where all are to have an anomaly, one is given also if the first lay nowhere.
        all_of_them = self._synthesis.anomaly_probability == 1
        chosen = np.flatnonzero(
            draw.random(self._batch_size) < self._synthesis.cutpaste_probability
        )
        others, rows, mine = [], [], []
        for number, place in enumerate(chosen.tolist()):
            other = self._images[int(draw.integers(len(self._images)))]
            sample = self._sample(other, draw, place in wanted)
            if sample is None:
                continue
            row = wanted.index(place)
            if all_of_them or batch.masks[row].any():
                others.append(sample.image)
                rows.append(row)
                mine.append(number)
        generator = torch.Generator(self._device).manual_seed(int(draw.integers(2**62)))
        if not rows:
            return
        stacked = torch.from_numpy(np.stack(others)).permute(0, 3, 1, 2).to(self._device)
        allowed = None if where is None else where[rows]
        whole = (len(chosen), mine)
        batch.anomalous[rows], batch.masks[rows] = cutpaste(
            batch.clean[rows], stacked, generator, allowed, whole
        )
        batch.broad[rows] = True

    def _sample(
        self, image: NDArray[np.uint8], draw: np.random.Generator, wanted: bool
    ) -> _Sample | None:
        """Return a view of an image in some light; ``None`` if it is not wanted."""
        size = (image.shape[0], image.shape[1])
        inspected = None if self._inspected is None else self._inspected(size)
        if self._pad_to not in (None, size):
            there = np.ones(size, bool) if inspected is None else inspected
            inspected = padded_mask(there, self._pad_to)  # what is added can have no anomaly
            size, image = self._pad_to, padded(image, self._pad_to)
        view = self._view(size, draw, inspected)
        variation = draw_variation(draw, self.variation)
        if not wanted:
            return None  # drawn all the same, so that the next one's numbers are what they are
        mask = None if inspected is None else show_mask(inspected, view)
        return _Sample(lit(show(image, view), variation), mask, variation)

    def _view(
        self,
        size: tuple[int, int],
        draw: np.random.Generator,
        inspected: NDArray[np.bool_] | None,
    ) -> View:
        return draw_view(
            size,
            draw,
            rotation=self._rotation,
            quarter_turns=self._quarter_turns,
            shift=self.variation.shift,
            crop=None if size == self._size else self._size,
            inspected=inspected,
        )

    def _where(self, allowed: list[NDArray[np.bool_] | None]) -> Tensor | None:
        """Return the masks of a batch, bool [n, 1, h, w]; ``None`` if all is allowed in all."""
        if all(mask is None for mask in allowed):
            return None
        everywhere = np.ones(self._size, bool)
        masks = np.stack([everywhere if mask is None else mask for mask in allowed])
        return torch.from_numpy(masks[:, None]).to(self._device)
