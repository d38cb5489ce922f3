"""Masks of synthetic anomalies, cut out of Perlin noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from destseg.config import SynthesisSettings
from destseg.synthesis.perlin import Mine, perlin_noise

# Cells a side of the noise whose zeros are lines; how much of the image they may run through.
_LINE_CELLS = (1.5, 8.0)
_LINE_AREA = (0.03, 0.5)
_LINE_WIDTH = (1.0, 5.0)  # pixels


def draw_masks(
    settings: SynthesisSettings,
    n: int,
    size: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | str,
    mine: Mine = slice(None),
) -> Tensor:
    """Draw masks of anomalies from Perlin noise (section 3.1).

    ``cells`` is the paper's: 2^k cells along each side, k drawn per axis, the noise image
    turned by up to 90 degrees either way with 0 in its new corners, an anomaly where it is
    above the threshold.  Such a mask can be empty.  ``pixels`` draws one cell side in pixels and
    the fraction of the image to hit, and puts the threshold at that quantile; here the noise goes
    on beyond the turned image and begins anywhere in a cell, for filled corners would all tie.  A
    cell should be smaller than the image: the noise is nearly a slope inside one, and its highest
    values lie along an edge.

    Args:
        settings: which way, and its ranges.
        n: number of masks.
        size: their (height, width) in pixels.
        generator: where all random numbers come from.
        device: where the masks are wanted.
        mine: which of the n are wanted; the others' random numbers are drawn and dropped.

    Returns:
        float32 [n, 1, h, w] of 0 and 1; all 0 with probability 1 - ``anomaly_probability``.
        With ``pixels``, round(area h w) pixels (at least one) of an anomalous image are 1; more
        only where two pixels' noise is the same number.
    """
    angle = uniform(generator, n, -math.pi / 2, math.pi / 2).to(device)  # [n]
    if settings.perlin_units == "cells":
        low, high = settings.perlin_octaves
        octaves = torch.randint(
            low, high + 1, (n, 2), generator=generator, device=generator.device
        )  # [n, 2]
        cells = torch.exp2(octaves.to(torch.float32)).to(device)
        noise = perlin_noise(generator, cells, angle, size, mine=mine)  # [n, h, w]
        masks = noise > settings.perlin_threshold
    else:
        side = uniform(generator, n, *settings.perlin_scale).to(device)  # [n]
        area = uniform(generator, n, *settings.anomaly_area).to(device)  # [n]
        cells = torch.stack([extent / side for extent in size], -1)  # [n, 2]
        noise = perlin_noise(generator, cells, angle, size, mine=mine, endless=True)
        masks = largest(noise, area[mine])  # [n, h, w]
    anomalous = uniform(generator, n, 0.0, 1.0).to(device) < settings.anomaly_probability  # [n]
    return (masks & anomalous[mine, None, None]).to(torch.float32)[:, None]  # [n, 1, h, w]


def largest(noise: Tensor, area: Tensor) -> Tensor:
    """Return a bool mask [n, h, w] of the fraction ``area`` [n] of each image's largest values."""
    pixels = noise[0].numel()
    # One kthvalue an image: it takes whole numbers only, and sorting costs six times as much.
    ranks = [pixels - min(max(round(part * pixels), 1), pixels) + 1 for part in area.tolist()]
    threshold = torch.stack(
        [one.kthvalue(rank).values for one, rank in zip(noise.flatten(1), ranks, strict=True)]
    )  # [n]
    return noise >= threshold[:, None, None]


def uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Draw n float32 numbers of U(low, high) on the generator's device."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def log_uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Draw n float32 numbers of which each octave from low to high has as many."""
    return uniform(generator, n, math.log(low), math.log(high)).exp()


def draw_lines(
    n: int,
    size: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | str,
    mine: Mine = slice(None),
) -> Tensor:
    """Draw masks of thin lines: cracks, scratches and hairs.

    The lines are where coarse endless noise is 0, as far as that lies in the largest values of
    other noise.  A pixel belongs to one if it is nearer than half of the line's width, the distance
    being the noise by its slope.

    Args:
        n: number of masks.
        size: their (height, width) in pixels.
        generator: where all random numbers come from.
        device: where the masks are wanted.
        mine: which of the n are wanted; the others' random numbers are drawn and dropped.

    Returns:
        float32 [n, 1, h, w] of 0 and 1; one can be empty.
    """
    cells = log_uniform(generator, 4 * n, *_LINE_CELLS).view(2, n, 2).to(device)
    angles = uniform(generator, 2 * n, -math.pi / 2, math.pi / 2).view(2, n).to(device)
    width = log_uniform(generator, n, *_LINE_WIDTH).to(device)[mine]
    area = log_uniform(generator, n, *_LINE_AREA).to(device)[mine]
    noise, blobs = (
        perlin_noise(generator, each, angle, size, mine=mine, endless=True)
        for each, angle in zip(cells, angles, strict=True)
    )  # [n, h, w]
    down, right = torch.gradient(noise, dim=(1, 2))
    near = noise.abs() <= width[:, None, None] / 2 * torch.hypot(down, right)
    return (near & largest(blobs, area)).to(torch.float32)[:, None]
