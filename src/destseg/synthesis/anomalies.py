"""Synthetic anomalies: textures and other images laid over good ones, batched and seeded.

The synthetic anomalies of section 3.1 of arXiv 2211.11317: a mask M is cut out of Perlin noise,
and where it lies an image I is mixed with a texture X, ``I' = (1 - M) I + M (o X + (1 - o) I)``
with the opacity ``o`` (the paper's 1 - beta).

All random numbers come from the generator that is handed in and are drawn on its device, so the
same seed gives the same anomalies; only the few that a lattice needs are moved to the images'.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from destseg.config import SynthesisSettings
from destseg.errors import DataError
from destseg.synthesis.masks import draw_lines, draw_masks, largest, log_uniform, uniform
from destseg.synthesis.perlin import Mine, perlin_noise

Share: TypeAlias = tuple[int, Mine]
"""How many images a batch has, and which of them are meant."""

# Regions of other parts: broad ones, up to half-planes, a few cells across.
_CUTPASTE_CELLS = (0.7, 3.2)
_CUTPASTE_AREA = (0.05, 0.5)
_CUTPASTE_OPACITY = (0.5, 1.0)
_CUTPASTE_CONTRAST = (0.6, 1.6)
_CUTPASTE_BRIGHTNESS = (0.7, 1.3)
# A pixel counts as anomalous if around it the image has changed by this on average.
_SEEN_LEVELS, _SEEN_SIDE = 3.0, 15


def add_anomalies(
    images: Tensor,
    textures: Tensor,
    settings: SynthesisSettings,
    generator: torch.Generator,
    where: Tensor | None = None,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Give each of a batch of good images a synthetic anomaly (section 3.1).

    Args:
        images: uint8 or floating point [n, 3, h, w] in 0..255.
        textures: uint8 [t, 3, h, w], t >= 1, on the images' device; drawn with replacement.
        settings: how masks and opacities are drawn.
        generator: where all random numbers come from.
        where: bool [n, 1, h, w], false where no anomaly may lie: the masks are cut by it, so
            less than ``anomaly_area`` may be hit; ``None`` cuts nothing.
        share: of which batch these images are a part, where others have the rest; their
            anomalies are those that they would have in the whole.

    Returns:
        The anomalous images, float32 [n, 3, h, w] in 0..255 in the images' memory format and
        equal to them outside the masks; the masks, float32 [n, 1, h, w], 1 where anomalous.

    Raises:
        DataError: there are no textures, or they are of another size than the images.
    """
    h, w = images.shape[-2:]
    n, mine = share or (len(images), slice(None))
    if len(textures) == 0 or textures.shape[1:] != images.shape[1:]:
        raise DataError(
            f"textures: expected at least one of {list(images.shape[1:])}, the images' size, "
            f"got {list(textures.shape)}; load them at the images' size"
        )
    clean = images.to(torch.float32)
    chosen = torch.randint(len(textures), (n,), generator=generator, device=generator.device)  # [n]
    chosen = chosen[mine]
    # Into the images' own memory format: mixed formats would slow down the blending.
    drawn = torch.empty_like(clean).copy_(textures[chosen.to(textures.device)])  # [n, 3, h, w]
    masks = draw_masks(settings, n, (h, w), generator, images.device, mine)  # [n, 1, h, w]
    if where is not None:
        masks = masks * where
    opacity = uniform(generator, n, *settings.opacity)[mine].to(images.device)  # [n]
    return blend(clean, drawn, masks, opacity[:, None, None, None]), masks


def add_lines(
    images: Tensor,
    levels: Tensor,
    generator: torch.Generator,
    where: Tensor | None = None,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Give good images thin lines that are darker or brighter than what they run through.

    Such are cracks, scratches and hairs, of which a mask of Perlin noise has none.  At stride 4 a
    line of one pixel would fill no place, and be learned as good: what is marked is a pixel wider
    on each side, as far as the line's soft border reaches.

    Args:
        images: uint8 or floating point [n, 3, h, w] in 0..255.
        levels: grey levels by which a line is brighter [n], below 0 darker.
        generator: where all random numbers come from.
        where: bool [n, 1, h, w], false where nothing may be changed; ``None`` cuts nothing.
        share: of which batch these images are a part.

    Returns:
        The changed images, float32 [n, 3, h, w] in 0..255 in the images' memory format and
        equal to them outside the masks; the masks, float32 [n, 1, h, w] of 0 and 1.
    """
    n, mine = share or (len(images), slice(None))
    size = (images.shape[-2], images.shape[-1])
    lines = draw_lines(n, size, generator, images.device, mine)  # [n, 1, h, w]
    masks = F.max_pool2d(lines, 3, 1, 1)
    soft = 0.5 * (lines + F.avg_pool2d(lines, 3, 1, 1))
    if where is not None:
        masks, soft = masks * where, soft * where
    changed = images.to(torch.float32) + levels.to(images.device)[:, None, None, None] * soft
    return changed.clamp_(0, 255), masks


def cutpaste(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    where: Tensor | None = None,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Give good images broad regions of other good images, CutPaste-style.

    A defect can be a region whose surface would be a good one elsewhere: another finish, gloss or
    grain, and no foreign thing in it.  So what is laid over an image is another part, mirrored or
    not, of another contrast and brightness, and the mask is the highest 5 to 50 % of coarse endless
    noise (as in ``draw_masks``).  Of the mask only what can be seen counts, which is nothing where
    both parts are white.  Moving pieces between good images is the idea of Schlueter et al.
    (ECCV 2022), here without their seamless borders.

    Args:
        images: uint8 or floating point [n, 3, h, w] in 0..255.
        others: the same shape; other parts.
        generator: where all random numbers come from.
        where: bool [n, 1, h, w], false where nothing may be changed; ``None`` cuts nothing.
        share: of which batch these images are a part.

    Returns:
        The changed images, float32 [n, 3, h, w] in 0..255 in the images' memory format and
        equal to them outside the masks; the masks, float32 [n, 1, h, w] of 0 and 1.
    """
    h, w = images.shape[-2:]
    n, mine = share or (len(images), slice(None))

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, n, low, high)[mine].to(images.device)

    cells = log_uniform(generator, 2 * n, *_CUTPASTE_CELLS).view(n, 2).to(images.device)
    angle = uniform(generator, n, -math.pi / 2, math.pi / 2).to(images.device)
    noise = perlin_noise(generator, cells, angle, (h, w), mine=mine, endless=True)  # [n, h, w]
    masks = largest(noise, draw(*_CUTPASTE_AREA))[:, None].to(torch.float32)
    if where is not None:
        masks = masks * where
    mirrored = torch.stack((draw(0, 1), draw(0, 1)), -1) < 0.5  # [n, 2]
    contrast, brightness, opacity = (
        draw(*limits).view(-1, 1, 1, 1)
        for limits in (_CUTPASTE_CONTRAST, _CUTPASTE_BRIGHTNESS, _CUTPASTE_OPACITY)
    )
    clean = images.to(torch.float32)
    drawn = torch.empty_like(clean)
    for one, other, turned in zip(drawn, others, mirrored.tolist(), strict=True):
        one.copy_(other.flip([axis for axis in (1, 2) if turned[axis - 1]]))
    mean = drawn.mean((2, 3), keepdim=True)
    drawn = ((drawn - mean) * contrast + mean * brightness).clamp_(0, 255)
    change = (blend(clean, drawn, masks, opacity) - clean).abs().mean(1, keepdim=True)
    masks = masks * (_mean_around(change, _SEEN_SIDE) >= _SEEN_LEVELS)
    return blend(clean, drawn, masks, opacity), masks


def blend(images: Tensor, textures: Tensor, masks: Tensor, opacity: Tensor) -> Tensor:
    """Lay textures over images where the masks are 1: the equation of section 3.1.

    Args:
        images: I, float32 [n, 3, h, w] in 0..255.
        textures: X, the same.
        masks: M, float32 [n, 1, h, w] of 0 and 1.
        opacity: o, float32 [n, 1, 1, 1] in 0..1: the texture's weight, the paper's 1 - beta.

    Returns:
        (1 - M) I + M (o X + (1 - o) I), float32 [n, 3, h, w]; exactly I where M is 0.
    """
    # The same as I + M o (X - I), which lerp computes without temporaries and exactly at 0.
    return torch.lerp(images, textures, masks * opacity)


def _mean_around(x: Tensor, side: int) -> Tensor:
    """Return the mean of a square around each pixel, as far as it lies inside: [n, c, h, w]."""
    # A column and then a row: 30 sums a pixel and not 225.
    columns = F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, side), 1, (0, side // 2), count_include_pad=False)
