"""Perlin noise pixel by pixel and corner by corner, as its definition reads."""

import math

import numpy as np


def fade(t):
    return 6 * t**5 - 15 * t**4 + 10 * t**3


def noise_at(gradients, y, x):
    """Noise at one place of the lattice: the faded mean of its four corners' slopes."""
    total = 0.0
    for corner_y in (math.floor(y), math.floor(y) + 1):
        for corner_x in (math.floor(x), math.floor(x) + 1):
            # A corner counts fully at its own place and not at all one cell away.
            weight = fade(1 - abs(y - corner_y)) * fade(1 - abs(x - corner_x))
            if weight == 0:
                continue  # a place on the lattice's edge has no corner beyond it
            gradient_y, gradient_x = gradients[corner_y, corner_x]
            total += weight * (gradient_y * (y - corner_y) + gradient_x * (x - corner_x))
    return math.sqrt(2) * total


def perlin(gradients, cells, angle, size, centre=None):
    """Noise image [h, w] of one lattice [gy, gx, 2], turned counterclockwise about its centre.

    With a centre (y, x) on the lattice, the noise goes on as far as the lattice does.
    """
    h, w = size
    image = np.zeros(size)
    for i in range(h):
        for j in range(w):
            # As a complex number with the imaginary axis up, undoing a turn is one product.
            place = complex(j - (w - 1) / 2, (h - 1) / 2 - i) * complex(
                math.cos(angle), -math.sin(angle)
            )
            if centre is not None:
                y = centre[0] - place.imag * cells[0] / h
                x = centre[1] + place.real * cells[1] / w
                image[i, j] = noise_at(gradients, y, x)
                continue
            row, column = (h - 1) / 2 - place.imag, (w - 1) / 2 + place.real
            if -1e-3 <= row <= h - 1 + 1e-3 and -1e-3 <= column <= w - 1 + 1e-3:
                row, column = min(max(row, 0.0), h - 1), min(max(column, 0.0), w - 1)
                image[i, j] = noise_at(gradients, row * cells[0] / h, column * cells[1] / w)
    return image
