"""The size at which networks see images: that of the typical image's shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from destseg.config import DataSettings, Settings
from destseg.data.choice import evenly
from destseg.data.decoding import read_shape
from destseg.data.images import size_within
from destseg.data.opening import open_image
from destseg.data.samples import good_samples
from destseg.errors import ImageError
from destseg.fields import SIDE, STRIDE

_LEAST = 64
_LOOKED_AT = 64
_NEARER = 0.5  # of a square's distance: from there on a shape is typical
_NOTED = 1.25  # times that images are made smaller, from which on it is said what that does


def size_of(height: int, width: int, area: int = SIDE**2) -> tuple[int, int]:
    """Return the (height, width) that is nearest to a shape and an area, in multiples of 32.

    Nearest is where the ratios of the aspects and of the areas, together, are nearest to 1.  No
    side is below 64.

    >>> size_of(500, 1250)
    (160, 416)
    >>> size_of(900, 900)
    (256, 256)
    """
    aspect = math.log(width / height)
    sides = range(_LEAST, max(_LEAST, area // _LEAST) + 1, STRIDE)

    def distance(size: tuple[int, int]) -> float:
        h, w = size
        return abs(math.log(w / h) - aspect) + abs(math.log(h * w / area))

    return min(itertools.product(sides, sides), key=distance)


def typical_shape(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Return the (height, width) of the image with the median aspect; ``None`` if none is readable.

    Where that is hardly nearer to the images' shapes than a square is, they have no typical shape,
    and it is a square of their typical area.  Only the headers of some images are read, spread
    over all of them.
    """
    shapes = []
    for path in evenly(paths, _LOOKED_AT):
        try:
            with open_image(path) as file:
                shapes.append(read_shape(file, path))
        except ImageError:
            continue  # whoever reads its pixels says so
    if not shapes:
        return None
    shapes.sort(key=lambda shape: (shape[1] / shape[0], shape))
    aspects = [math.log(width / height) for height, width in shapes]
    middle = (len(shapes) - 1) // 2
    off = sum(abs(aspect - aspects[middle]) for aspect in aspects)
    if off > _NEARER * sum(map(abs, aspects)):
        side = round(math.sqrt(sorted(map(math.prod, shapes))[middle]))
        return side, side
    return shapes[middle]


def shrinking_note(shape: tuple[int, int], settings: DataSettings) -> str:
    """Return what becomes of images of a shape, and of small defects in them, in a line.

    Args:
        shape: (height, width) of the images in pixels.
        settings: how large the networks see them.
    """
    if settings.tile:
        return f"images of {_text(shape)} are cut into tiles of {_text(settings.size)}"
    size = size_within(shape, settings.size) if settings.fit == "pad" else settings.size
    seen = f"images of {_text(shape)} pixels (height x width) are seen at {_text(size)}"
    if size != settings.size:
        seen += f", padded to {_text(settings.size)}"
    smaller = _smaller(shape, size)
    if smaller < _NOTED:
        return seen
    area = round(math.prod(shape) / max(1.0, smaller / 2) ** 2)
    larger = size_of(*shape, area=max(area, math.prod(size)))
    times = math.prod(larger) / math.prod(settings.size)
    resized = f"--image-size {_text(larger)} ({times:.1f} times the computing at inspection), or "
    # Of very long images none of this area shows more.
    if _smaller(shape, size_within(shape, larger) if settings.fit == "pad" else larger) >= smaller:
        resized = ""
    return (
        f"{seen}: {smaller:.1f} times smaller, so a defect of 10 pixels becomes "
        f"{10 / smaller:.0f}. If you look for smaller ones: {resized}--tile"
    )


def _smaller(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """Return how many times smaller the side is seen that is made smaller more than the other."""
    return max(shape[0] / size[0], shape[1] / size[1])


def turning_note(settings: DataSettings) -> str | None:
    """Return what quarter turns are not made, in a line; ``None`` where nothing is to be said."""
    height, width = settings.crop or settings.size
    if not settings.quarter_turns or height == width:
        return None
    side = round(math.sqrt(math.prod(settings.size)) / STRIDE) * STRIDE
    return (
        f"--quarter-turns: training sees {_text((height, width))} pixels (height x width), which "
        "are turned by 180 degrees alone: a quarter turn would push most of them out of the "
        f"frame. If parts do lie like that: --image-size {side} --fit pad"
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def settled_size(settings: Settings, source: str | Path) -> Settings:
    """Return settings whose image size is in pixels: ``auto`` becomes what it is for a data set.

    Args:
        settings: any.
        source: the good images, as ``good_samples`` takes them.

    Raises:
        DataError: if they are looked for and cannot be found.
    """
    if settings.data.image_size != "auto":
        return settings
    shape = None
    if not settings.data.tile:
        samples = good_samples(source, tell=lambda _: None)  # whoever trains on them says it
        shape = typical_shape([sample.path for sample in samples])
    size = settings.data.size if shape is None else size_of(*shape)
    return settings.replace(image_size=size)
