"""A result as an image for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.drawing import outline, overlay
from destseg.data.images import read_image, write_image
from destseg.inference.result import Result

__all__ = ["draw_result", "write_image"]


def draw_result(
    path: Path, result: Result, *, bit_depth: int = DataSettings.bit_depth
) -> NDArray[np.uint8]:
    """Return an image's file with its heatmap on the fixed scale and its regions outlined.

    Args:
        path: the image's file.
        result: what was said of it.
        bit_depth: of the model's settings, as in ``read_image``.

    Returns:
        uint8 RGB [height, width, 3].
    """
    # It was read once already, so its size is known to be acceptable.
    pixels = result.height * result.width
    return draw(read_image(path, max_pixels=pixels, bit_depth=bit_depth), result)


def draw(image: NDArray[np.uint8], result: Result) -> NDArray[np.uint8]:
    """Return an image, uint8 RGB [height, width, 3], drawn on as ``draw_result`` draws."""
    heatmap = result.heatmap
    thickness = max(1, round(max(image.shape) / 400))
    drawn = overlay(image, heatmap)
    return outline(drawn, heatmap > result.pixel_threshold, thickness=thickness)
