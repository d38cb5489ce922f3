"""What the networks will see: good images beside their synthetic anomalies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from destseg.config import Settings
from destseg.data.decoded import GoodImages
from destseg.data.drawing import contact_sheet
from destseg.data.roi import read_roi
from destseg.data.samples import find_images, good_samples
from destseg.errors import DataError
from destseg.phases import SEGMENT
from destseg.synthesis.batches import Batches
from destseg.synthesis.textures import BUILTIN, load_textures


def preview(data: str | Path, settings: Settings, count: int) -> NDArray[np.uint8]:
    """Return a sheet of image, anomalous image and mask, two of these a row.

    Args:
        data: good images, as for training.
        settings: how they are read and turned, of their anomalies, and the seed.
        count: number of images; made as a first training batch of that size would be: of phase
            3, which has both kinds of anomalies, if ``cutpaste_probability`` is above 0.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        DataError: if there are no images or none can be read.
    """
    side = settings.data.image_size
    paths = [sample.path for sample in good_samples(data)]
    # A seeded choice from all of them: neighbouring files often show the same part.
    chosen = np.random.default_rng(settings.training.seed).permutation(len(paths))[:count]
    images = GoodImages([paths[i] for i in chosen], settings.data)
    if len(images) == 0:
        raise DataError(f"{data}: none of {len(chosen)} images can be read; look at the files")
    region = settings.data.roi
    batches = Batches(
        images,
        load_textures(settings.synthesis.textures, side, max_pixels=settings.data.max_pixels),
        rotation=settings.data.rotation,
        quarter_turns=settings.data.quarter_turns,
        synthesis=settings.synthesis,
        batch_size=count,
        seed=settings.training.seed,
        device=torch.device("cpu"),
        crop=side if settings.data.tile else None,
        roi=None if region is None else read_roi(region, max_pixels=settings.data.max_pixels),
    )
    clean, anomalous, masks, _ = batches.make(SEGMENT.name, 0)  # with both kinds of anomalies
    cells = [
        [_pixels(image), _pixels(with_anomaly), _pixels(255 * mask)]
        for image, with_anomaly, mask in zip(clean, anomalous, masks, strict=True)
    ]
    columns = min(2, len(cells))
    rows = [
        [shown for cell in cells[i : i + columns] for shown in cell]
        for i in range(0, len(cells), columns)
    ]
    return contact_sheet(rows, captions=["good", "anomalous", "mask"] * columns)


def files_read(data: Path, settings: Settings) -> Iterator[Path]:
    """Yield the files that a sheet is made of; what is written may be none of them."""
    yield data
    if settings.data.roi:
        yield Path(settings.data.roi)
    yield from (sample.path for sample in good_samples(data))
    if settings.synthesis.textures != BUILTIN:
        yield from find_images(settings.synthesis.textures)


def _pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Return [c, h, w] in 0..255 as uint8 [h, w, c], or [h, w] for one channel."""
    pixels = tensor.float().round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
