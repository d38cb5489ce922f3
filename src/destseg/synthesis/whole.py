"""Whole good images as inspection is given them, each with a synthetic anomaly in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from destseg.config import DataSettings, Settings
from destseg.data.images import padded, padded_mask
from destseg.data.roi import Roi, inspected_at
from destseg.phases import SEGMENT
from destseg.synthesis.augment import View, draw_view, show, show_mask
from destseg.synthesis.batches import Batches, batch_indices
from destseg.synthesis.textures import Images, load_textures

_AT_ONCE = 8  # images whose anomalies are drawn together
_TEXTURES = 1 << 26  # bytes: some of many are enough here


def with_anomalies(
    images: Images, settings: Settings, roi: Roi | None, *, count: int, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield good images with an anomaly each, of the kinds and sizes that training draws.

    They lie as they are, in their own light.  Where training sees crops, the anomaly lies in one,
    and around it is the rest of the image.  Where nothing could be drawn, or nothing of it is
    inspected, none is yielded.

    Args:
        images: good ones, at least one; each is taken equally often.
        settings: of the model.
        roi: what is inspected; ``None`` is all.
        count: how many to draw, a multiple of 8.
        seed: of everything that is drawn.

    Yields:
        uint8 RGB [h, w, 3], of the image's size.

    Raises:
        DataError, MissingExtraError: if there are no textures, as ``load_textures`` says.
    """
    data, source = settings.data, settings.synthesis.textures
    draw, size = np.random.default_rng(seed), data.crop or data.size
    chosen = [images[number % len(images)] for number in range(count)]
    windows = [_window(image, data, roi, draw) for image in chosen]
    batches = Batches(
        [pixels for pixels, _, _ in windows],
        load_textures(source, size, max_pixels=data.max_pixels, max_bytes=_TEXTURES),
        rotation=0.0,
        quarter_turns=False,
        synthesis=dataclasses.replace(settings.synthesis, anomaly_probability=1.0),
        batch_size=_AT_ONCE,
        seed=seed,
        device=torch.device("cpu"),
        pad_to=None if data.tile else data.size,
        # It would be stretched onto a crop, whose anomalies beside it are left out below.
        roi=roi if data.crop is None else None,
    )
    for step in range(count // _AT_ONCE):
        batch = batches.make(SEGMENT.name, step)
        order = batch_indices(count, _AT_ONCE, step, seed=seed, phase=SEGMENT.name)
        for number, anomalous, mask in zip(order, batch.anomalous, batch.masks, strict=True):
            _, view, inspected = windows[number]
            if not mask[0].numpy()[inspected].any():
                continue
            pixels = anomalous.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            image = chosen[number].copy()
            there = image[view.y : view.y + view.height, view.x : view.x + view.width]
            there[:] = pixels[: there.shape[0], : there.shape[1]]  # what is behind was padded
            yield image


def _window(
    image: NDArray[np.uint8], data: DataSettings, roi: Roi | None, draw: np.random.Generator
) -> tuple[NDArray[np.uint8], View, NDArray[np.bool_]]:
    """Return what of an image an anomaly is drawn in, its place, and what of it is inspected.

    Without crops ``Batches`` pads the image itself, and only the latter is padded here.
    """
    size = (image.shape[0], image.shape[1])
    inspected = inspected_at(roi, size)
    if not data.tile:
        inspected = padded_mask(inspected, data.size)
    if data.crop is None:
        return image, draw_view(size, draw), inspected
    if not data.tile:
        image = padded(image, data.size)
    view = draw_view((image.shape[0], image.shape[1]), draw, crop=data.crop, inspected=inspected)
    return show(image, view), view, show_mask(inspected, view).copy()
