"""Write the figures of docs/how-it-works.md from what ``destseg demo`` left in a folder.

destseg demo --output demo-output
python docs/make_figures.py demo-output
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from destseg.data.drawing import colour_map, contact_sheet
from destseg.data.images import read_image, resize, write_image
from destseg.data.samples import Sample, test_samples
from destseg.inference.backends.torch_ import load_model
from destseg.inference.predictor import Predictor, load
from destseg.model.destseg import DeSTSeg, compare
from destseg.synthesis.preview import preview

IMAGES = Path(__file__).parent / "images"


def main() -> int:
    """Write them all; return the exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    parts, predictor = folder / "parts", load(folder / "model", backend="torch")
    textured = predictor.bundle.settings.replace(cutpaste_probability=0.0)
    write_image(IMAGES / "anomalies.png", preview(parts, textured, 3))
    moved = predictor.bundle.settings.replace(cutpaste_probability=1.0)
    write_image(IMAGES / "cutpaste.png", preview(parts, moved, 3))
    samples = test_samples(parts)
    kinds = dict.fromkeys(sample.defect_type for sample in samples)
    first = [next(each for each in samples if each.defect_type == kind) for kind in kinds]
    write_image(IMAGES / "disagreement.png", disagreement_sheet(predictor, first))
    write_image(IMAGES / "misses.png", disagreement_sheet(predictor, worst(predictor, samples, 3)))
    write_image(IMAGES / "demo.png", read_image(folder / "sheet.png"))
    return 0


def disagreement_sheet(predictor: Predictor, samples: list[Sample]) -> NDArray[np.uint8]:
    """Return a sheet: image, defect, distance of teacher and student a stride, map."""
    model = load_model(predictor.bundle).eval()
    rows = [row(predictor, model, sample) for sample in samples]
    captions = ["image", "defect", "stride 4", "stride 8", "stride 16", "map"]
    return contact_sheet(rows, captions=captions, cell=(160, 160))


def row(predictor: Predictor, model: DeSTSeg, sample: Sample) -> list[NDArray[np.uint8]]:
    """Return a row of the sheet; distances 1 - cosine and map are drawn on the scale 0 to 1."""
    image = read_image(sample.path)
    mask = read_image(sample.mask) if sample.mask else np.zeros_like(image)
    size = predictor.bundle.settings.data.size
    pixels = torch.from_numpy(resize(image, size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        products = compare(*model.features(model.normalize(pixels)))
    distances = [1 - similar.sum(1)[0].numpy() for similar in products]
    maps = [*distances, predictor.predict(sample.path).heatmap]
    return [image, mask, *(colour_map(each) for each in maps)]


def worst(predictor: Predictor, samples: list[Sample], count: int) -> list[Sample]:
    """Return the defective images with the lowest scores."""
    defective = [sample for sample in samples if sample.is_defective]
    results = predictor.predict([sample.path for sample in defective])
    order = np.argsort([result.score for result in results])
    return [defective[k] for k in order[:count]]


if __name__ == "__main__":
    sys.exit(main())
