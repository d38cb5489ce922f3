"""Draw a data set of thin, long, faint cracks in coarse grain, in MVTec layout.

    python benchmarks/made_up_cracks.py FOLDER [--seed N]

It stands in for real ones, such as the cracks of commutators: grey images of 500 x 1250, of which
150 good ones are for training, 30 good and 30 cracked ones for testing.  All have a coarse grain,
streaks, a shade, a few bright specks and a torn border; a crack is dark, 1 to 4 pixels wide, 60 to
150 long and 25 to 60 levels darker.  Nothing is shared with the anomalies of training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 500, 1250
TRAINING, TESTED = 150, 30
FloatImage = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    parsed.folder.mkdir(parents=True)
    counts = {"train/good": TRAINING, "test/good": TESTED, "test/crack": TESTED}
    for kind, (name, count) in enumerate(counts.items()):
        for number in range(count):
            random = np.random.default_rng([parsed.seed, kind, number])
            image = surface(random)
            if name == "test/crack":
                image, mask = cracked(image, random)
                write(parsed.folder / f"ground_truth/crack/{number:03d}_mask.png", mask)
            noisy = image + random.normal(0, 2, image.shape)
            write(parsed.folder / name / f"{number:03d}.png", noisy)
    return 0


def write(path: Path, pixels: NDArray[np.floating]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(pixels.clip(0, 255)).astype(np.uint8))


def surface(random: np.random.Generator) -> FloatImage:
    """Return a good part's surface in grey levels, [500, 1250]."""
    image = np.full((HEIGHT, WIDTH), random.uniform(110, 140), np.float32)
    for sigma, levels in ((1.5, 9.0), (4.0, 7.0), (12.0, 5.0)):
        image += levels * smooth_noise(random, sigma, sigma)
    image += 5 * smooth_noise(random, 40.0, 0.8)  # streaks along the part, as turning leaves them
    image += random.uniform(-12, 12) * np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    for _ in range(int(random.integers(3, 9))):
        place = (int(random.integers(WIDTH)), int(random.integers(HEIGHT)))
        spot = np.zeros_like(image)
        cv2.circle(spot, place, int(random.integers(1, 4)), 1.0, -1)
        image += random.uniform(30, 70) * cv2.GaussianBlur(spot, (0, 0), 1.0)
    border = random.uniform(8, 16) + 4 * smooth_noise(random, 6.0, 0.0)[0]
    below = np.arange(HEIGHT, dtype=np.float32)[:, None] - (HEIGHT - border[None])
    return image * (1 - 0.7 * np.clip(below, 0, 1))


def smooth_noise(random: np.random.Generator, across: float, down: float) -> FloatImage:
    """Return noise with a standard deviation of 1, smooth over so many pixels."""
    grain = random.standard_normal((HEIGHT, WIDTH)).astype(np.float32)
    sigmas = {"sigmaX": across, "sigmaY": max(down, 1e-3)}
    grain = cv2.GaussianBlur(grain, (0, 0), **sigmas, borderType=cv2.BORDER_REFLECT)
    return np.asarray(grain / grain.std(), np.float32)


def cracked(image: FloatImage, random: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Return a surface with a crack, and its mask, 0 or 255."""
    length, step = random.uniform(60, 150), 3.0
    turns = np.cumsum(random.normal(0, 0.18, int(length / step))) + random.uniform(0, np.pi)
    path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * step, 0)
    low, high = path.min(0), path.max(0)
    room = np.array([WIDTH, HEIGHT - 20]) - (high - low) - 20
    path += random.uniform(10, 10 + room) - low
    width = random.uniform(1, 4)
    fine = 8  # drawn larger, so that widths need not be whole
    drawn = np.zeros((HEIGHT * 2, WIDTH * 2), np.uint8)
    points = np.rint(path * 2 * 2**fine).astype(np.int32)
    cv2.polylines(drawn, [points], False, 255, max(1, round(2 * width)), cv2.LINE_8, fine)
    covered = cv2.resize(drawn, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    covered /= 255
    depth = random.uniform(25, 60)
    uneven = 1 + 0.3 * smooth_noise(random, 5.0, 5.0)
    mask = np.where(covered >= 0.5, 255, 0).astype(np.float32)
    return image - depth * covered * uneven.clip(0.3, 1.6), mask


if __name__ == "__main__":
    sys.exit(main())
