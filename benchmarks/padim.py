"""PaDiM on the same teacher and images, with and without training images that repeat test ones.

    python benchmarks/padim.py DATA [DATA …] [--repeats 0.95] [--results FILE]

PaDiM (Defard et al., 2020) keeps a Gaussian of the features at every place of the image; an
image's map is the Mahalanobis distance from it, smoothed, its score the highest value.  It is run
three times: with all training images, without those that correlate to R or more with a good test
image (as in ``nearest_image.py``), and with as many drawn at random.  What the second loses
more than the third was memory of images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from destseg.data.images import read_image, resize
from destseg.data.samples import Sample, good_samples, test_samples
from destseg.evaluation.metrics import auroc
from destseg.model.teacher import pretrained_teacher
from nearest_image import normalised
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "padim-cpu.json"
TEACHER = "tf_efficientnet_lite0"
SIZE, CHANNELS, REGULARISATION, SIGMA = 256, 100, 0.01, 4.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", nargs="+", help="data sets in MVTec layout")
    parser.add_argument("--repeats", type=float, default=0.95, metavar="R")
    parser.add_argument("--results", default=str(RESULTS))
    parsed = parser.parse_args()
    sets = {Path(data).resolve().name: measure(data, parsed.repeats) for data in parsed.data}
    versions = environment("torch", "timm", "numpy")
    result = {
        "commit": commit(),
        **versions,
        "teacher": TEACHER,
        "channels": CHANNELS,
        "sets": sets,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(sets, indent=1))
    return 0


def measure(data: str, repeats: float) -> dict[str, object]:
    """Return image AUROCs of a data set, by which training images were used."""
    training, test = good_samples(data), test_samples(data)
    defective = np.array([sample.defect_type != "good" for sample in test])
    likeness = likenesses(training, [sample for sample in test if sample.defect_type == "good"])
    others = np.flatnonzero(likeness < repeats)
    drawn = np.random.default_rng(0).permutation(len(training))[: len(others)]
    known, asked = embeddings(read(training)), embeddings(read(test))
    chosen = {"all": np.arange(len(training)), "without_repeats": others, "as_many_drawn": drawn}
    return {
        name: {
            "images": len(which),
            "image_auroc": auroc(defective, maps(fit(known[which]), asked).max((1, 2)))
            if len(which) > 1
            else None,
        }
        for name, which in chosen.items()
    }


def likenesses(training: list[Sample], good: list[Sample]) -> NDArray[np.float64]:
    """Return each training image's highest correlation with a good test image."""
    sides = [normalised([sample.path for sample in samples]) for samples in (training, good)]
    return np.asarray((sides[0] @ sides[1].T).max(1))


@torch.no_grad()
def embeddings(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return some channels of the teacher's taps, joined at stride 4: [n, h, w, CHANNELS]."""
    teacher, _ = pretrained_teacher(TEACHER, None, image_size=(SIZE, SIZE))
    chosen = torch.randperm(sum(teacher.channels), generator=torch.Generator().manual_seed(0))
    found = []
    for image in images:
        pixels = torch.from_numpy(resize(image, (SIZE, SIZE)))
        x = pixels.permute(2, 0, 1)[None] / 255
        x = (x - torch.tensor(teacher.mean).view(3, 1, 1)) / torch.tensor(teacher.std).view(3, 1, 1)
        taps = teacher.eval()(x)
        joined = torch.cat([F.interpolate(tap, size=taps[0].shape[-2:]) for tap in taps], 1)
        found.append(joined[0, chosen[:CHANNELS]].permute(1, 2, 0).numpy())
    return np.stack(found)


def read(samples: list[Sample]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of samples."""
    return (read_image(sample.path) for sample in samples)


class Gaussians(NamedTuple):
    """What good images are like at every place.

    Attributes:
        mean: [h, w, CHANNELS].
        inverse: of the covariance, [h, w, CHANNELS, CHANNELS].
    """

    mean: NDArray[np.float32]
    inverse: NDArray[np.float32]


def fit(known: NDArray[np.float32]) -> Gaussians:
    """Return the Gaussians of good images' embeddings."""
    height, width = known.shape[1:3]
    inverse = np.empty((height, width, CHANNELS, CHANNELS), np.float32)
    for place in np.ndindex(height, width):
        values = known[(slice(None), *place)]
        covariance = np.cov(values, rowvar=False) + REGULARISATION * np.eye(CHANNELS)
        inverse[place] = np.linalg.inv(covariance)
    return Gaussians(known.mean(0), inverse)


def maps(good: Gaussians, asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distances of images from the Gaussians, smoothed, [n, SIZE, SIZE]."""
    away = (asked - good.mean).transpose(1, 2, 0, 3)  # [h, w, n, CHANNELS]
    squares = ((away @ good.inverse) * away).sum(-1)  # [h, w, n]
    distances = np.sqrt(squares.clip(0)).transpose(2, 0, 1)
    # Smoothed at the image's size, as published.
    whole = (cv2.resize(each, (SIZE, SIZE)) for each in distances)
    return np.stack([cv2.GaussianBlur(each, (0, 0), SIGMA) for each in whole])


if __name__ == "__main__":
    sys.exit(main())
