"""Defects drawn on good images: six families of lines and shapes, each of any size and contrast.

They are vector drawings.  Nothing here is imported by, or taken from, what makes the synthetic
anomalies of training, so a model that finds them has not seen their like.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
"""Corners [n, 2] of x and y."""

MAX_CONTRAST = 127.0
"""Largest contrast: any grey level has room for it on one side."""

_FINEST = 4  # drawings are at most so many times as fine as the image, then averaged down
_CANVAS = 2048  # and at most of this side
_SUB_PIXEL_BITS = 8


@dataclass(frozen=True)
class Layer:
    """A defect before it lies on an image.

    Attributes:
        light: float32 [s, s] in [-1, 1], change of the level in units of the contrast; below 0 it
            goes the other way, as at the lit edge of a dark hole.
        hides: float32 [s, s] in [0, 1], how much of the surface's own texture is gone.
    """

    light: Floats
    hides: Floats


Draw = Callable[[float, int, tuple[float, float], np.random.Generator], Layer]


@dataclass(frozen=True)
class Family:
    """Defects that look alike.

    Attributes:
        what: in words, for people.
        draw: gives the layer from the size, the canvas' side and the centre, in pixels.
        always_dark: whether it is darker than the surface wherever that has room for it.
    """

    what: str
    draw: Draw
    always_dark: bool


def draw_defect(
    image: NDArray[np.uint8],
    family: str,
    size: float,
    contrast: float,
    centre: tuple[float, float],
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """Return an image with a drawn defect on it.

    Args:
        image: uint8 RGB [h, w, 3].
        family: a name of ``FAMILIES``.
        size: largest extent of the defect in pixels, from end to end.
        contrast: change of the level at its middle, in grey levels, in (0, 127].
        centre: (y, x) in pixels, from the middle of the first pixel.
        random: for its shape, its direction, and whether it is darker or brighter.

    Returns:
        uint8 RGB [h, w, 3]; the image is not written to.
    """
    chosen = FAMILIES[family]
    side = math.ceil(1.5 * size) + 6
    top, left = (math.floor(each - side / 2) for each in centre)
    layer = chosen.draw(size, side, (centre[1] - left, centre[0] - top), random)
    darker = chosen.always_dark or random.random() < 0.5
    drawn = image.copy()
    height, width = image.shape[:2]
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    inside = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    ground = image[rows, columns].astype(np.float32)  # [r, c, 3]
    light, hides = layer.light[inside][..., None], layer.hides[inside][..., None]
    touched = np.abs(light[..., 0]) + hides[..., 0] > 0.1
    if not touched.any():
        return drawn
    surface = np.median(ground[touched], axis=0)
    level = float(surface.mean())
    # The other way where there is no room: what is clipped away is no defect.
    darker = level >= contrast if darker else level + contrast > 255
    change = -contrast * light if darker else contrast * light
    placed = ground * (1 - hides) + surface * hides + change
    drawn[rows, columns] = np.rint(placed).clip(0, 255).astype(np.uint8)
    return drawn


def place(
    size: float,
    shape: tuple[int, int],
    inspected: NDArray[np.bool_] | None,
    random: np.random.Generator,
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> tuple[float, float] | None:
    """Return where a defect may lie: whole in the image, and in the region of interest.

    Args:
        size: of the defect in pixels.
        shape: (height, width) of the image.
        inspected: bool [height, width]; ``None`` is all of it.
        random: for the place.
        box: (top, left, bottom, right) of where the centre is to be, as fractions.

    Returns:
        (y, x) of its centre; ``None`` where there is no such place.
    """
    height, width = shape
    low = (max(box[0] * height, size / 2), max(box[1] * width, size / 2))
    high = (min(box[2] * height, height - size / 2), min(box[3] * width, width - size / 2))
    if low[0] > high[0] or low[1] > high[1]:
        return None
    reach = size / 2 * math.sqrt(0.5)
    for _ in range(200):
        y, x = (float(random.uniform(a, b)) for a, b in zip(low, high, strict=True))
        around = [(y, x), *((y + a * reach, x + b * reach) for a in (-1, 1) for b in (-1, 1))]
        if inspected is None or all(
            inspected[min(max(0, int(v)), height - 1), min(max(0, int(u)), width - 1)]
            for v, u in around
        ):
            return y - 0.5, x - 0.5
    return None


def _scratch(
    size: float, side: int, centre: tuple[float, float], random: np.random.Generator
) -> Layer:
    """Return a line, a little bent, of a sixteenth of its length or a pixel, brighter or darker."""
    width = max(1.0, size / 16)
    along = np.linspace(-1, 1, 17)
    bend = random.uniform(-0.25, 0.25)
    line = np.stack((along, bend * (1 - along**2)), axis=1)
    cover = _stroked([_fitted(line, max(size - width, 0.5), centre, random)], width, side)
    return Layer(cover, np.zeros_like(cover))


def _crack(
    size: float, side: int, centre: tuple[float, float], random: np.random.Generator
) -> Layer:
    """Return a jagged dark line with a branch, of a 24th of its length or a pixel."""
    width = max(1.0, size / 24)
    steps = 11
    along = np.linspace(-1, 1, steps)
    across = np.cumsum(random.normal(0, 0.12, steps))
    across -= np.linspace(across[0], across[-1], steps)
    line = np.stack((along, across), axis=1)
    fork = int(random.integers(3, steps - 3))
    towards = np.array([0.5, 0.35 * random.choice((-1, 1))]) * random.uniform(0.5, 0.8)
    branch = line[fork] + towards * np.array([[0.0], [0.45], [1.0]])
    both = np.concatenate((line, branch))
    fitted = _fitted(both, max(size - width, 0.5), centre, random)
    cover = _stroked([fitted[:steps], fitted[steps:]], width, side)
    return Layer(cover, np.zeros_like(cover))


def _pit(size: float, side: int, centre: tuple[float, float], random: np.random.Generator) -> Layer:
    """Return a round hole, dark, with a brighter edge where the light falls on its wall."""
    outline = _fitted(_round(random, 0.06), size, centre, random)
    middle = outline.mean(axis=0)
    cover = _filled(outline, side)
    towards = random.uniform(0, 2 * math.pi)
    shift = 0.16 * size * np.array([math.cos(towards), math.sin(towards)])
    floor = _filled(middle + 0.8 * (outline - middle) + 0.5 * shift, side)
    floor = np.minimum(floor, cover)
    return Layer(floor - 0.5 * (cover - floor), np.zeros_like(cover))


def _stain(
    size: float, side: int, centre: tuple[float, float], random: np.random.Generator
) -> Layer:
    """Return an irregular patch with soft edges through which the surface shows."""
    outline = _fitted(_round(random, 0.3), size, centre, random)
    cover = _filled(outline, side)
    soft = cv2.GaussianBlur(cover, (0, 0), max(0.3, 0.05 * size))
    return Layer(np.asarray(soft, np.float32), np.zeros_like(cover))


def _missing_piece(
    size: float, side: int, centre: tuple[float, float], random: np.random.Generator
) -> Layer:
    """Return a broken-out piece with corners: flat, dark, without the surface's texture."""
    angles = np.sort(random.uniform(0, 2 * math.pi, 6) * 0.35 + np.arange(6) * math.pi / 3)
    corners = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    corners *= random.uniform(0.65, 1.0, (6, 1))
    between = (corners + np.roll(corners, -1, axis=0)) / 2 + random.normal(0, 0.07, (6, 2))
    outline = np.stack((corners, between), axis=1).reshape(12, 2)
    cover = _filled(_fitted(outline, size, centre, random), side)
    return Layer(cover, cover)


def _particle(
    size: float, side: int, centre: tuple[float, float], random: np.random.Generator
) -> Layer:
    """Return a convex grain that lies on the surface, hides it, and throws a shadow."""
    angles = np.sort(random.uniform(0, 2 * math.pi, 9))
    angles = np.concatenate((angles, np.arange(4) * math.pi / 2))
    shape = np.stack((np.cos(angles), random.uniform(0.55, 0.9) * np.sin(angles)), axis=1)
    hull = cv2.convexHull(shape.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    outline = _fitted(hull, size, centre, random)
    cover = _filled(outline, side)
    towards = random.uniform(0, 2 * math.pi)
    shift = 0.08 * size * np.array([math.cos(towards), math.sin(towards)])
    middle = outline.mean(axis=0)
    # Within the grain's own extent, so that its size stays what was asked for.
    lit = np.minimum(_filled(middle + 0.85 * (outline - middle) + shift, side), cover)
    return Layer(lit + 0.5 * (cover - lit), cover)


FAMILIES: dict[str, Family] = {
    "scratch": Family("a bent line, a sixteenth as wide as long", _scratch, False),
    "crack": Family("a jagged dark line with a branch, a 24th as wide as long", _crack, True),
    "pit": Family("a round dark hole with a lit edge", _pit, True),
    "stain": Family("a soft patch through which the surface shows", _stain, False),
    "missing piece": Family("a flat dark area with corners", _missing_piece, True),
    "particle": Family("a grain that lies on the surface", _particle, False),
}
"""The families by name.  Lines are at least a pixel wide."""


def _round(random: np.random.Generator, roughness: float) -> Points:
    """Return a closed outline about a circle, with bumps of a fraction of its radius."""
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    radius = np.ones_like(angles)
    for waves in (2, 3, 4):
        radius += (
            roughness
            / waves
            * random.normal()
            * np.cos(waves * angles + random.uniform(0, 2 * math.pi))
        )
    radius = np.maximum(radius, 0.3)
    return np.asarray(radius[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1))


def _fitted(
    points: Points, extent: float, centre: tuple[float, float], random: np.random.Generator
) -> Points:
    """Return points turned at random, their largest distance the extent, about a centre."""
    angle = random.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    return np.asarray((points - middle) @ turn.T * (extent / distances.max()) + np.array(centre))


def _fineness(side: int) -> int:
    return max(1, min(_FINEST, _CANVAS // side))


def _filled(outline: Points, side: int) -> Floats:
    """Return how much of each pixel lies inside an outline, float32 [side, side]."""
    fine = _fineness(side)
    canvas = np.zeros((side * fine, side * fine), np.uint8)
    cv2.fillPoly(canvas, [_on_canvas(outline, fine)], 255, shift=_SUB_PIXEL_BITS)
    return _averaged(canvas, side)


def _stroked(lines: list[Points], width: float, side: int) -> Floats:
    """Return how much of each pixel lines of a width cover, float32 [side, side]."""
    fine = _fineness(side)
    canvas = np.zeros((side * fine, side * fine), np.uint8)
    places = [_on_canvas(line, fine) for line in lines]
    thick = max(1, round(width * fine))
    cv2.polylines(canvas, places, False, 255, thickness=thick, shift=_SUB_PIXEL_BITS)
    return _averaged(canvas, side)


def _on_canvas(points: Points, fine: int) -> NDArray[np.int32]:
    # Pixels' middles are whole numbers, on both scales.
    fine_points = (points + 0.5) * fine - 0.5
    return np.asarray(np.rint(fine_points * 2**_SUB_PIXEL_BITS), np.int32)


def _averaged(canvas: NDArray[np.uint8], side: int) -> Floats:
    small = cv2.resize(canvas.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)
