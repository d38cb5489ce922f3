"""Perlin noise, batched on the device and seeded: what the masks of anomalies are cut from."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

# Rotated coordinates are rounded; pixels of the border must not fall out of the noise for that.
_BORDER_TOLERANCE = 1e-3

Mine: TypeAlias = slice | list[int]
"""Which images of a batch are meant."""


def perlin_noise(
    generator: torch.Generator,
    cells: Tensor,
    angle: Tensor,
    size: tuple[int, int],
    *,
    mine: Mine = slice(None),
    endless: bool = False,
) -> Tensor:
    """Draw Perlin noise with random unit gradients; see ``perlin_from_gradients``.

    Args:
        generator: where the gradients come from.
        cells: float32 [n, 2], cells per side along y and x; above 0, need not be whole.
        angle: float32 [n] in radians.
        size: (h, w) of the noise in pixels.
        mine: which of the n are wanted.
        endless: let the noise go on beyond the unturned image, and begin anywhere in a cell.

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
    """Evaluate Perlin's gradient noise at every pixel of turned images.

    The lattice begins at the first pixel: without a turn, pixel (i, j) of an h x w image lies
    at (i cells_y / h, j cells_x / w).  With one, the pixel's place is first turned about the
    image's centre, ((h - 1) / 2, (w - 1) / 2), which moves what the noise shows by ``angle``
    counterclockwise; the noise is 0 beyond the centres of the unturned image's outer pixels.
    Corners are mixed with the fade 6t^5 - 15t^4 + 10t^3, and the sum is multiplied by sqrt(2) to
    fill -1..1.

    Args:
        gradients: float32 [n, gy, gx, 2], unit vectors (y, x) at the lattice's points;
            gy >= cells_y + 1 and gx >= cells_x + 1 for every image; the rest is not used.
        cells: float32 [n, 2], cells per side along y and x; above 0, need not be whole.
        angle: float32 [n] in radians.
        size: (h, w) of the noise in pixels.
        centre: float32 [n, 2], where the image's centre lies on the lattice (y, x) instead;
            nothing is 0 for being outside then, and the lattice must cover the turned image.

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
