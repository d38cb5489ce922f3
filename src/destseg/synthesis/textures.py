"""Where synthetic anomalies take its images from: a folder, or photographs that pip installed."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from destseg.data.choice import evenly
from destseg.data.images import read_image, read_many, resize
from destseg.data.lists import counted
from destseg.data.samples import find_images
from destseg.errors import DataError, ImageError, MissingExtraError
from destseg.fields import BUILTIN


class Images(Protocol):
    """What has a length and gives uint8 RGB [h, w, 3] by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


_LOGGER = logging.getLogger("destseg")
# scikit-image's wheel carries drawings, logos and test charts too; these are its photographs.
_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
_CROPS_PER_PHOTOGRAPH = 15
# Below this, enlarging a crop to the usual sizes leaves little but blur.
_SMALLEST_CROP = 96


def load_textures(
    source: str, size: tuple[int, int], *, max_pixels: int, max_bytes: int = 1 << 30
) -> Tensor:
    """Load the textures of synthetic anomalies once, at the size of the training images.

    Args:
        source: a folder (searched to any depth; DTD's layout works), or ``builtin``: crops,
            mirrored and turned, of the photographs that scikit-image carries.
        size: (height, width) in pixels.  Every texture is resized to a square of the longer side,
            and of that the middle taken.
        max_pixels: larger files of a folder are refused before they are decoded.
        max_bytes: of more textures than fit into this an evenly spaced share is taken.

    Returns:
        uint8 [t, 3, height, width], t >= 1, on the CPU; the same for the same files.
        Files that cannot be read are left out with a warning to the logger ``destseg``.

    Raises:
        DataError: the folder does not exist or holds no image that can be read.
        MissingExtraError: ``builtin`` without scikit-image.
    """
    side = max(size)
    most = max(1, max_bytes // (3 * size[0] * size[1]))
    if source == BUILTIN:
        crops = _photograph_crops(_photographs(), side)
        total = len(_PHOTOGRAPHS) * _CROPS_PER_PHOTOGRAPH
        wanted = set(evenly(range(total), most))
        return _bank((crop for k, crop in enumerate(crops) if k in wanted), len(wanted), size)
    paths = find_images(source)
    chosen = evenly(paths, most)
    if len(chosen) < len(paths):
        _LOGGER.info(
            "%s: %d of %d textures are used, so that they fit into %.3g GiB",
            *(source, len(chosen), len(paths), max_bytes / 2**30),
        )
    images = read_many(chosen, size=(side, side), max_pixels=max_pixels)
    textures = _bank(_readable(images), len(chosen), size)
    if len(textures) == 0:
        raise DataError(
            f"{source}: expected textures, got {counted(len(chosen), 'file')} of which none can be "
            f"read; give another folder, or {BUILTIN}."
        )
    return textures


def as_grey_as(textures: Tensor, images: Images) -> Tensor:
    """Return textures without colour if the good images have none, else as they are.

    Colour would give the anomalies away where a grey camera could never show any, and the head
    would learn to look for it.

    Args:
        textures: uint8 [t, 3, h, w].
        images: good parts, uint8 RGB [h, w, 3]; some of them are looked at, spread over all.
    """
    looked_at = (images[k] for k in evenly(range(len(images)), _LOOKED_AT))
    if any((p[..., :1] != p[..., 1:]).any() for p in looked_at):
        return textures
    weights = torch.tensor(_LUMA).view(3, 1, 1)
    grey = torch.empty_like(textures)
    for one, texture in zip(grey, textures, strict=True):  # one by one: floats take four times it
        one.copy_((texture * weights).sum(0).round())
    return grey


_LOOKED_AT = 16
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _readable(images: Iterable[NDArray[np.uint8] | ImageError]) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        if isinstance(image, ImageError):
            _LOGGER.warning("texture left out: %s", image)
        else:
            yield image


def _bank(images: Iterable[NDArray[np.uint8]], most: int, size: tuple[int, int]) -> Tensor:
    """Gather the middles of up to ``most`` images [s, s, 3] in one tensor [t, 3, h, w]."""
    # Allocated once: a list of all of them would need twice the memory for a moment.
    bank = np.empty((most, 3, *size), np.uint8)
    top, left = ((max(size) - side) // 2 for side in size)
    count = 0
    for image in images:
        bank[count] = image.transpose(2, 0, 1)[:, top : top + size[0], left : left + size[1]]
        count += 1
    return torch.from_numpy(bank[:count])


def _photographs() -> Iterator[NDArray[np.uint8]]:
    """Read scikit-image's photographs from its installed files, without importing it."""
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("train", "builtin textures", "scikit-image")
    folder = Path(package.submodule_search_locations[0]) / "data"
    for name in _PHOTOGRAPHS:
        yield read_image(folder / name)


def _photograph_crops(
    photographs: Iterable[NDArray[np.uint8]], side: int
) -> Iterator[NDArray[np.uint8]]:
    """Cut each photograph into crops of many scales, mirrored and turned: always the same ones."""
    for number, photograph in enumerate(photographs):
        random = np.random.default_rng(number)
        for _ in range(_CROPS_PER_PHOTOGRAPH):
            # The liveliest of three: sky, shadow and space make poor textures.
            crop = max((_crop(photograph, random) for _ in range(3)), key=_liveliness)
            crop = np.rot90(crop[:, :: random.choice((1, -1))], int(random.integers(4)))
            yield resize(np.ascontiguousarray(crop), (side, side))


def _liveliness(crop: NDArray[np.uint8]) -> float:
    """Return the standard deviation of all values; NumPy's takes ten times as long."""
    _, deviation = cv2.meanStdDev(np.ascontiguousarray(crop).reshape(-1, 1))
    return float(deviation[0, 0])


def _crop(photograph: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a random square, its side log-uniform up to the photograph's shorter one."""
    height, width, _ = photograph.shape
    side = int(np.exp(random.uniform(np.log(_SMALLEST_CROP), np.log(min(height, width) + 1))))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    return photograph[top : top + side, left : left + side]
