"""Synthetic damage: Perlin masks, textures and blending, batched on the device and seeded.

The synthetic anomalies of section 3.1 of arXiv 2211.11317: a mask M is cut out of Perlin noise,
and where it lies a picture I is mixed with a texture X, ``I' = (1 - M) I + M (o X + (1 - o) I)``
with the opacity ``o`` (the paper's 1 - beta).

All random numbers come from the generator that is handed in and are drawn on its device, so the
same seed gives the same damage; only the few that a lattice needs are moved to the pictures'.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from destseg.config import DamageSettings
from destseg.errors import DataError

# Rotated coordinates are rounded; pixels of the border must not fall out of the noise for that.
_BORDER_TOLERANCE = 1e-3

Share: TypeAlias = tuple[int, slice]
"""How many pictures a batch has, and which of them are meant."""


def damage(
    pictures: Tensor,
    textures: Tensor,
    settings: DamageSettings,
    generator: torch.Generator,
    where: Tensor | None = None,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Damage a batch of good pictures (section 3.1).

    Args:
        pictures: uint8 or floating point [n, 3, h, w] in 0..255.
        textures: uint8 [t, 3, h, w], t >= 1, on the pictures' device; drawn with replacement.
        settings: how masks and opacities are drawn.
        generator: where all random numbers come from.
        where: bool [n, 1, h, w], false where nothing may be damaged: the masks are cut by it, so
            less than ``damage_area`` may be hit; ``None`` cuts nothing.
        share: of which batch these pictures are a part, where others have the rest; they are
            damaged as they would be in the whole.

    Returns:
        The damaged pictures, float32 [n, 3, h, w] in 0..255 in the pictures' memory format and
        equal to them outside the masks; the masks, float32 [n, 1, h, w], 1 where damaged, else 0.

    Raises:
        DataError: there are no textures, or they are of another size than the pictures.
    """
    h, w = pictures.shape[-2:]
    n, mine = share or (len(pictures), slice(None))
    if len(textures) == 0 or textures.shape[1:] != pictures.shape[1:]:
        raise DataError(
            f"textures: expected at least one of {list(pictures.shape[1:])}, the pictures' size, "
            f"got {list(textures.shape)}; load them at the pictures' size"
        )
    clean = pictures.to(torch.float32)
    chosen = torch.randint(len(textures), (n,), generator=generator, device=generator.device)  # [n]
    chosen = chosen[mine]
    # Into the pictures' own memory format: mixed formats would slow down the blending.
    drawn = torch.empty_like(clean).copy_(textures[chosen.to(textures.device)])  # [n, 3, h, w]
    masks = draw_masks(settings, n, (h, w), generator, pictures.device, mine)  # [n, 1, h, w]
    if where is not None:
        masks = masks * where
    opacity = _uniform(generator, n, *settings.opacity)[mine].to(pictures.device)  # [n]
    return blend(clean, drawn, masks, opacity[:, None, None, None]), masks


def blend(pictures: Tensor, textures: Tensor, masks: Tensor, opacity: Tensor) -> Tensor:
    """Lay textures over pictures where the masks are 1: the equation of section 3.1.

    Args:
        pictures: I, float32 [n, 3, h, w] in 0..255.
        textures: X, the same.
        masks: M, float32 [n, 1, h, w] of 0 and 1.
        opacity: o, float32 [n, 1, 1, 1] in 0..1: the texture's weight, the paper's 1 - beta.

    Returns:
        (1 - M) I + M (o X + (1 - o) I), float32 [n, 3, h, w]; exactly I where M is 0.
    """
    # The same as I + M o (X - I), which lerp computes without temporaries and exactly at 0.
    return torch.lerp(pictures, textures, masks * opacity)


def draw_masks(
    settings: DamageSettings,
    n: int,
    size: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | str,
    mine: slice = slice(None),
) -> Tensor:
    """Draw masks of damage from Perlin noise (section 3.1).

    ``cells`` is the paper's: 2^k cells along each side, k drawn per axis, the noise picture
    turned by up to 90 degrees either way with 0 in its new corners, damage where it is above the
    threshold.  Such a mask can be empty.  ``pixels`` draws one cell side in pixels and the share
    of the picture to hit, and puts the threshold at that quantile; here the noise goes on beyond
    the turned picture and begins anywhere in a cell, for filled corners would all tie.  A cell
    should be smaller than the picture: the noise is nearly a slope inside one, and its highest
    share lies along an edge.

    Args:
        settings: which way, and its ranges.
        n: number of masks.
        size: their (height, width) in pixels.
        generator: where all random numbers come from.
        device: where the masks are wanted.
        mine: which of the n are wanted; the others' random numbers are drawn and dropped.

    Returns:
        float32 [n, 1, h, w] of 0 and 1; all 0 with probability 1 - ``damage_probability``.
        With ``pixels``, round(area h w) pixels (at least one) of a damaged picture are 1; more
        only where two pixels' noise is the same number.
    """
    angle = _uniform(generator, n, -math.pi / 2, math.pi / 2).to(device)  # [n]
    if settings.damage == "cells":
        low, high = settings.damage_octaves
        octaves = torch.randint(
            low, high + 1, (n, 2), generator=generator, device=generator.device
        )  # [n, 2]
        cells = torch.exp2(octaves.to(torch.float32)).to(device)
        noise = perlin_noise(generator, cells, angle, size, mine=mine)  # [n, h, w]
        masks = noise > settings.damage_threshold
    else:
        side = _uniform(generator, n, *settings.damage_scale).to(device)  # [n]
        area = _uniform(generator, n, *settings.damage_area).to(device)  # [n]
        cells = torch.stack([extent / side for extent in size], -1)  # [n, 2]
        noise = perlin_noise(generator, cells, angle, size, mine=mine, endless=True)
        masks = _largest(noise, area[mine])  # [n, h, w]
    damaged = _uniform(generator, n, 0.0, 1.0).to(device) < settings.damage_probability  # [n]
    return (masks & damaged[mine, None, None]).to(torch.float32)[:, None]  # [n, 1, h, w]


def perlin_noise(
    generator: torch.Generator,
    cells: Tensor,
    angle: Tensor,
    size: tuple[int, int],
    *,
    mine: slice = slice(None),
    endless: bool = False,
) -> Tensor:
    """Draw Perlin noise with random unit gradients; see ``perlin_from_gradients``.

    Args:
        generator: where the gradients come from.
        cells: float32 [n, 2], cells per side along y and x; above 0, need not be whole.
        angle: float32 [n] in radians.
        size: (h, w) of the noise in pixels.
        mine: which of the n are wanted.
        endless: let the noise go on beyond the unturned picture, and begin anywhere in a cell.

    Returns:
        float32 [n, h, w] in -1..1, on the device of ``cells``.
    """
    n = len(cells)
    count, centre = cells, None
    if endless:
        reach = cells * (math.hypot(*size) / 2) / cells.new_tensor(size)  # [n, 2]
        phase = torch.rand(n, 2, generator=generator, device=generator.device)
        count, centre = 2 * reach + 1, reach + phase.to(cells.device)
    rows, columns = (math.ceil(most) + 1 for most in count.amax(0).tolist())
    turns = torch.rand(n, rows, columns, generator=generator, device=generator.device)
    direction = turns.to(cells.device) * (2 * math.pi)  # [n, gy, gx]
    gradients = torch.stack((direction.sin(), direction.cos()), -1)  # [n, gy, gx, 2]
    centre = None if centre is None else centre[mine]
    return perlin_from_gradients(gradients[mine], cells[mine], angle[mine], size, centre)


def perlin_from_gradients(
    gradients: Tensor,
    cells: Tensor,
    angle: Tensor,
    size: tuple[int, int],
    centre: Tensor | None = None,
) -> Tensor:
    """Evaluate Perlin's gradient noise at every pixel of turned pictures.

    The lattice begins at the first pixel: without a turn, pixel (i, j) of an h x w picture lies
    at (i cells_y / h, j cells_x / w).  With one, the pixel's place is first turned about the
    picture's centre, ((h - 1) / 2, (w - 1) / 2), which moves what the noise shows by ``angle``
    counterclockwise; the noise is 0 beyond the centres of the unturned picture's outer pixels.
    Corners are mixed with the fade 6t^5 - 15t^4 + 10t^3, and the sum is multiplied by sqrt(2) to
    fill -1..1.

    Args:
        gradients: float32 [n, gy, gx, 2], unit vectors (y, x) at the lattice's points;
            gy >= cells_y + 1 and gx >= cells_x + 1 for every picture; the rest is not used.
        cells: float32 [n, 2], cells per side along y and x; above 0, need not be whole.
        angle: float32 [n] in radians.
        size: (h, w) of the noise in pixels.
        centre: float32 [n, 2], where the picture's centre lies on the lattice (y, x) instead;
            nothing is 0 for being outside then, and the lattice must cover the turned picture.

    Returns:
        float32 [n, h, w] in -1..1.
    """
    n, rows, columns, _ = gradients.shape
    y, x, inside = _lattice_places(cells, angle, size, centre)  # [n, h, w]
    row, column = y.floor(), x.floor()
    first = torch.arange(n, dtype=torch.int32, device=y.device) * (rows * columns)  # [n]
    corner = row.to(torch.int32).mul_(columns).add_(column.to(torch.int32))
    corner = corner.add_(first[:, None, None]).view(-1)  # [n * h * w]
    y, x = y.sub_(row), x.sub_(column)
    along_y, along_x = _fade(y), _fade(x)
    planes = gradients.reshape(-1, 2).t().contiguous()  # [2, n * gy * gx]

    def slope(down: int, right: int) -> Tensor:
        # A shifted view of the lattice serves the other corners with the same indices.
        shifted = planes[:, down * columns + right :]
        dy = shifted[0].index_select(0, corner).view_as(y)
        dx = shifted[1].index_select(0, corner).view_as(x)
        return dy.mul_(y - down if down else y).addcmul_(dx, x - right if right else x)

    top = slope(0, 0).lerp_(slope(0, 1), along_x)
    bottom = slope(1, 0).lerp_(slope(1, 1), along_x)
    return top.lerp_(bottom, along_y).mul_(math.sqrt(2)).mul_(inside)


def _lattice_places(
    cells: Tensor, angle: Tensor, size: tuple[int, int], centre: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where pixels lie on the lattice along y and x, and whether that is in the noise."""
    h, w = size
    down = torch.arange(h, device=cells.device)[:, None] - (h - 1) / 2  # [h, 1]
    right = torch.arange(w, device=cells.device) - (w - 1) / 2  # [w]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]  # [n, 1, 1]
    turned = (cos * down + sin * right, cos * right - sin * down)  # each [n, h, w]
    step = (cells / cells.new_tensor(size))[:, :, None, None]  # [n, 2, 1, 1]
    inside = torch.ones((), dtype=torch.bool, device=cells.device)
    if centre is not None:
        y, x = (
            place.mul_(step[:, axis]).add_(centre[:, axis, None, None])
            for axis, place in enumerate(turned)
        )
        return y, x, inside
    places = []
    for axis, (place, extent) in enumerate(zip(turned, size, strict=True)):
        place.add_((extent - 1) / 2)
        kept = place.clamp(-_BORDER_TOLERANCE, extent - 1 + _BORDER_TOLERANCE)
        inside = inside & (kept == place)
        places.append(place.clamp_(0, extent - 1).mul_(step[:, axis]))
    return places[0], places[1], inside


def _fade(t: Tensor) -> Tensor:
    """Return 6t^5 - 15t^4 + 10t^3, whose first two derivatives vanish at 0 and 1."""
    return t.mul(6).sub_(15).mul_(t).add_(10).mul_(t).mul_(t).mul_(t)


def _largest(noise: Tensor, area: Tensor) -> Tensor:
    """Return a bool mask [n, h, w] of the share ``area`` [n] of each picture's largest values."""
    pixels = noise[0].numel()
    # One kthvalue a picture: it takes whole numbers only, and sorting costs six times as much.
    ranks = [pixels - min(max(round(share * pixels), 1), pixels) + 1 for share in area.tolist()]
    threshold = torch.stack(
        [one.kthvalue(rank).values for one, rank in zip(noise.flatten(1), ranks, strict=True)]
    )  # [n]
    return noise >= threshold[:, None, None]


def _uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Draw n float32 numbers of U(low, high) on the generator's device."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)
