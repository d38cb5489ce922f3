"""Changes of an image that are no defect, each with a strength from 0 to a largest one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.qualification.trials import Change

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Nuisance:
    """A change that can be stronger or weaker.

    Attributes:
        name: of it, as a row of a table begins.
        unit: of its strength.
        strengths: that are tried one after another, rising.
        says: "light may fall by {}", with a place for the strength and its unit.
        at: gives the change at a strength.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    says: str
    at: Callable[[float], Change]


def light(image: Image, _: np.random.Generator, *, factor: float) -> Image:
    """Return an image with more or less light: all levels times a factor."""
    return _levels(image.astype(np.float32) * np.float32(factor))


def white(image: Image, _: np.random.Generator, *, shift: float) -> Image:
    """Return an image in warmer (above 0) or colder light: red up and blue down by a fraction."""
    return _levels(image.astype(np.float64) * np.array([1 + shift, 1, 1 - shift]))


def noise(image: Image, random: np.random.Generator, *, sigma: float) -> Image:
    """Return an image with a sensor's noise: normal, of a standard deviation in grey levels."""
    return _levels(image + random.standard_normal(image.shape, np.float32) * np.float32(sigma))


def defocus(image: Image, _: np.random.Generator, *, sigma: float) -> Image:
    """Return an image out of focus: blurred by a Gaussian of a standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def moved(
    image: Image, _: np.random.Generator, *, x: float = 0, y: float = 0, degrees: float = 0
) -> Image:
    """Return an image that is shifted by pixels or rotated about its middle; borders go on."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    matrix[:, 2] += np.array([x, y])
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.uint8)


def shifted(image: Image, random: np.random.Generator, *, fraction: float) -> Image:
    """Return an image that is shifted by a fraction of its longer side, in any direction."""
    way = random.uniform(0, 2 * np.pi)
    reach = fraction * max(image.shape)
    return moved(image, random, x=reach * float(np.cos(way)), y=reach * float(np.sin(way)))


def rotated(image: Image, random: np.random.Generator, *, degrees: float) -> Image:
    """Return an image that is rotated to one side or the other."""
    return moved(image, random, degrees=degrees if random.random() < 0.5 else -degrees)


def _with(change: Callable[..., Image], name: str, value: float) -> Change:
    return functools.partial(change, **{name: value})


_PER_CENT = (2, 5, 10, 20, 30, 50)
_SOME = (1, 2, 5, 10, 20, 30)

NUISANCES: tuple[Nuisance, ...] = (
    Nuisance(
        "less light", "%", _PER_CENT, "light may fall by {}",
        lambda s: _with(light, "factor", 1 - s / 100),
    ),
    Nuisance(
        "more light", "%", _PER_CENT, "light may rise by {}",
        lambda s: _with(light, "factor", 1 + s / 100),
    ),
    Nuisance(
        "warmer white", "%", _SOME, "red may rise and blue fall by {}",
        lambda s: _with(white, "shift", s / 100),
    ),
    Nuisance(
        "colder white", "%", _SOME, "blue may rise and red fall by {}",
        lambda s: _with(white, "shift", -s / 100),
    ),
    Nuisance(
        "noise", "grey levels", (1, 2, 4, 8, 16, 32), "noise may have a standard deviation of {}",
        lambda s: _with(noise, "sigma", s),
    ),
    Nuisance(
        "defocus", "pixels", (0.3, 0.6, 1, 2, 4, 8), "the image may be blurred by {}",
        lambda s: _with(defocus, "sigma", s),
    ),
    Nuisance(
        "shift", "% of the longer side", (0.5, 1, 2, 4, 8, 16), "the part may be off by {}",
        lambda s: _with(shifted, "fraction", s / 100),
    ),
    Nuisance(
        "rotation", "degrees", (0.5, 1, 2, 4, 8, 16), "the part may be rotated by {}",
        lambda s: _with(rotated, "degrees", s),
    ),
)  # fmt: skip


def _levels(values: NDArray[np.floating[Any]]) -> Image:
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)
