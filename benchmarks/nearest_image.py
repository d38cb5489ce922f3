"""How far memory alone gets: the nearest training image as an anomaly score.

    python benchmarks/nearest_image.py DATA [DATA …] [--results FILE]

An image's score is 1 - its highest correlation with a training image, both 64 x 64 and grey.
That looks at no detail of a part.  Where it tells good from defective images all the same, good
test images show parts that the training has seen, or the defective ones come from elsewhere,
and an image AUROC on that set says how well a method remembers as much as how well it inspects.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.data.images import read_many
from destseg.data.samples import good_samples, test_samples
from destseg.errors import ImageError
from destseg.evaluation.metrics import auroc
from provenance import commit

RESULTS = Path(__file__).parent / "results" / "nearest-image.json"
SIDE = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", nargs="+", help="data sets in MVTec layout")
    parser.add_argument("--results", default=str(RESULTS))
    parsed = parser.parse_args()
    sets = {Path(data).resolve().name: measure(data) for data in parsed.data}
    result = {"commit": commit(), "side": SIDE, "sets": sets}
    text = json.dumps(result, indent=1)
    Path(parsed.results).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def measure(data: str) -> dict[str, object]:
    """Return the AUROC over all test images and by defect type, and the correlations themselves."""
    samples = test_samples(data)
    types = np.array([sample.defect_type for sample in samples])
    good = types == "good"
    training = normalised([sample.path for sample in good_samples(data)])
    found = (normalised([sample.path for sample in samples]) @ training.T).max(1)
    by_type = {}
    for name in sorted(set(types[~good])):
        which = good | (types == name)
        by_type[str(name)] = auroc(~good[which], 1 - found[which])
    return {
        "image_auroc": auroc(~good, 1 - found),
        "by_type": by_type,
        "quartiles_of_correlation": {
            str(name): quartiles(found[types == name]) for name in sorted(set(types))
        },
    }


def normalised(paths: list[Path]) -> NDArray[np.float64]:
    """Return images as grey vectors of mean 0 and length 1, [n, SIDE * SIDE]."""
    vectors = []
    for image in read_many(paths, size=(SIDE, SIDE)):
        if isinstance(image, ImageError):
            raise SystemExit(str(image))
        grey = image.mean(-1).reshape(-1)
        grey -= grey.mean()
        vectors.append(grey / max(float(np.linalg.norm(grey)), 1e-12))
    return np.stack(vectors)


def quartiles(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in np.percentile(values, (25, 50, 75))]


if __name__ == "__main__":
    sys.exit(main())
