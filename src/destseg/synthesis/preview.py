"""What the networks will see: good images beside their synthetic anomalies."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from destseg.config import Settings
from destseg.data.decoded import GoodImages
from destseg.data.defects import (
    Defect,
    defect_samples,
    mask_for_model,
    read_defects,
    require_masks,
    require_not_good,
)
from destseg.data.drawing import contact_sheet, outline
from destseg.data.images import read_with
from destseg.data.labelled import files_of
from destseg.data.roi import read_roi
from destseg.data.samples import find_images, good_samples
from destseg.data.shapes import settled_size
from destseg.errors import DataError
from destseg.fields import BUILTIN, SIDE
from destseg.phases import SEGMENT
from destseg.synthesis.batches import Batches, batch_indices

_LOGGER = logging.getLogger("destseg")
_LARGEST = 2.0  # times the size that the networks see; more makes a sheet too large to look at


def preview(
    data: str | Path, settings: Settings, count: int, defects: Path | None = None
) -> NDArray[np.uint8]:
    """Return a sheet with a row an image: the file, what the networks see, an anomaly, its mask.

    Where they see less than there is, the cells are larger than what they see, so that it shows.

    Args:
        data: good images, as for training.
        settings: how they are read and turned, of their anomalies, and the seed.
        count: number of images; made as a first training batch of that size would be, of phase
            2, which has both kinds of anomalies, if ``cutpaste_probability`` is above 0.
        defects: folder of known defects to draw instead: each row has one, outlined in its own
            image, then the good image that it is laid onto, if it is, with it, and its mask.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        DataError: if there are no images or none can be read.
    """
    paths = [sample.path for sample in good_samples(data)]
    settings = settled_size(settings, data)
    # A seeded choice from all of them: neighbouring files often show the same part.
    chosen = np.random.default_rng(settings.training.seed).permutation(len(paths))[:count]
    images = GoodImages([paths[i] for i in chosen], settings.data)
    if len(images) == 0:
        raise DataError(f"{data}: none of {len(chosen)} images can be read; look at the files")
    region = settings.data.roi
    roi = None if region is None else read_roi(region, max_pixels=settings.data.max_pixels)
    known = []
    if defects is not None:
        tell = _LOGGER.warning
        known = read_defects(defect_samples(defects, tell), settings.data, tell, roi)
        require_masks(known, defects)
        require_not_good(known, paths)
        settings = settings.replace(defect_fraction=1.0)
    batches = Batches.of(
        images,
        settings,
        batch_size=count,
        device=torch.device("cpu"),
        roi=roi,
        defects=known,
    )
    if known:
        return _sheet(
            [
                [_outlined(each.source, settings), each.clean, each.anomalous, _white(each.mask)]
                for each in batches.known_defects(0)
            ],
            settings,
            ["known defect", "as seen", "with defect", "mask"],
        )
    clean, anomalous, masks, _ = batches.make(SEGMENT.name, 0)  # with both kinds of anomalies
    order = batch_indices(len(images), count, 0, seed=settings.training.seed, phase=SEGMENT.name)
    files = [read_with(images.paths[i], settings.data) for i in order]
    rows = [
        [file, _pixels(image), _pixels(with_anomaly), _pixels(255 * mask)]
        for file, image, with_anomaly, mask in zip(files, clean, anomalous, masks, strict=True)
    ]
    return _sheet(rows, settings, ["image", "as seen", "anomalous", "mask"])


def _sheet(
    rows: list[list[NDArray[np.uint8]]], settings: Settings, captions: list[str]
) -> NDArray[np.uint8]:
    """Return rows of cells, the first of each row the file, in cells as large as shows it."""
    height, width = settings.data.size
    smaller = max(math.sqrt(row[0][..., 0].size / (height * width)) for row in rows)
    more = max(min(_LARGEST, smaller), 1.0, SIDE / max(height, width))
    cell = round(more * height), round(more * width)
    return contact_sheet(rows, captions=captions, cell=cell)


def _outlined(defect: Defect, settings: Settings) -> NDArray[np.uint8]:
    """Return the image of a defect with a line around the defect."""
    assert defect.mask is not None
    image = read_with(defect.sample.path, settings.data)
    return outline(image, mask_for_model(defect.mask, (image.shape[0], image.shape[1])))


def _white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return 255 * mask.astype(np.uint8)


def folders_read(data: Path, settings: Settings, defects: Path | None = None) -> Iterator[Path]:
    """Yield where the files that a sheet is made of are looked for; it may lie in none of them."""
    yield data
    if defects is not None:
        yield defects
    if settings.synthesis.textures != BUILTIN:
        yield Path(settings.synthesis.textures)


def files_read(data: Path, settings: Settings, defects: Path | None = None) -> Iterator[Path]:
    """Yield the files that a sheet is made of; what is written may be none of them."""
    if defects is not None:
        yield from files_of(defect_samples(defects))
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
