"""What changes that are no defect do to the decisions of a model, and of PaDiM beside it.

    python benchmarks/nuisances.py BUNDLE DATA [--limit N] [--no-padim] [--results FILE]

All test images are changed in one way after the other: light, white balance, focus, noise, JPEG,
place, dust.  For each way: false alarms and misses at the model's own threshold, image AUROC and
pixel AP.  PaDiM has the same images, and a threshold from the same calibration images at the same
guaranteed rate.  Masks move with what is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import destseg
import padim
from destseg.data.choice import evenly
from destseg.data.images import read_image, resize_map
from destseg.data.masks import read_mask
from destseg.data.samples import Sample, good_samples, test_samples
from destseg.metrics import auroc, average_precision
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "nuisances.jsonl"
Image = NDArray[np.uint8]
Change = Callable[[Image, np.random.Generator], Image]
DUST = "dust"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("data", help="data set in MVTec layout")
    parser.add_argument("--limit", type=int, default=10**9, help="test images, evenly spread")
    parser.add_argument("--padim", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--change", default="", help="what is new in this model, for the row")
    parser.add_argument("--results", default=str(RESULTS))
    parsed = parser.parse_args()
    predictor = destseg.load(parsed.bundle)
    samples = evenly(test_samples(parsed.data), parsed.limit)
    images = [read_image(sample.path) for sample in samples]
    masks = [mask_of(sample, image) for sample, image in zip(samples, images, strict=True)]
    rivals: dict[str, Rival] = {"destseg": Ours(predictor)}
    if parsed.padim:
        rivals["padim"] = Padim(parsed.data, predictor)
    rows: dict[str, dict[str, Any]] = {name: {} for name in rivals}
    for change, apply in CHANGES.items():
        random = np.random.default_rng(0)
        changed = [apply(image, random) for image in images]
        move = MOVES.get(change, lambda mask: mask)
        for name, rival in rivals.items():
            rows[name][change] = row = measured(rival, changed, [move(mask) for mask in masks])
            print(
                f"{name:8} {change:12} " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()),
                flush=True,
            )
    result = {
        "data": Path(parsed.data).resolve().name,
        "change": parsed.change,
        "commit": commit(),
        **environment("torch", "openvino", "onnxruntime", "numpy"),
        "backend": predictor.backend_name,
        "images": len(samples),
        "guaranteed_false_alarm_rate": predictor.calibration.guaranteed_false_alarm_rate,
        "mean": {name: mean(found) for name, found in rows.items()},
        "rows": rows,
    }
    with Path(parsed.results).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result["mean"], indent=1))
    return 0


class Ours:
    """The model that is asked about."""

    def __init__(self, predictor: destseg.Predictor) -> None:
        self.predictor = predictor
        self.threshold = predictor.calibration.threshold

    def __call__(self, images: list[Image]) -> tuple[list[float], list[NDArray[Any]]]:
        """Return scores, and maps of any size."""
        results = self.predictor.predict(images)
        return [each.score for each in results], [each.anomaly_map for each in results]


class Padim:
    """PaDiM on the images that the model was trained on, its threshold from the others."""

    def __init__(self, data: str, predictor: destseg.Predictor) -> None:
        samples = good_samples(data)
        calibration = set(predictor.calibration.paths)
        kept = [s for s in samples if s.path.relative_to(data).as_posix() in calibration]
        training = [s for s in samples if s not in kept]
        assert kept, "expected the data set that the model was trained on"
        self.good = padim.fit(padim.embeddings(padim.read(training)))
        scores = sorted(self([read_image(sample.path) for sample in kept])[0], reverse=True)
        allowed = round(predictor.calibration.guaranteed_false_alarm_rate * (len(kept) + 1))
        self.threshold = scores[allowed - 1]

    def __call__(self, images: list[Image]) -> tuple[list[float], list[NDArray[Any]]]:
        """Return scores, and maps of any size."""
        maps = padim.maps(self.good, padim.embeddings(images))
        return [float(each.max()) for each in maps], list(maps)


Rival = Ours | Padim


def measured(rival: Rival, images: list[Image], masks: list[NDArray[np.bool_]]) -> dict[str, float]:
    """Return what becomes of the decisions and the maps."""
    scores, maps = rival(images)
    defective = np.array([mask.any() for mask in masks])
    called = np.array(scores) > rival.threshold
    # Of one size, so that large images do not count for more.
    truth = [cv2.resize(m.astype(np.float32), (256, 256), interpolation=1) >= 0.5 for m in masks]
    shown = [resize_map(each.astype(np.float32), (256, 256)) for each in maps]
    return {
        "false_alarms": float(called[~defective].mean()),
        "misses": float((~called[defective]).mean()),
        "image_auroc": 100 * auroc(defective, np.array(scores)),
        "pixel_ap": 100 * average_precision(np.stack(truth).ravel(), np.stack(shown).ravel()),
    }


def mean(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the mean over all changes, the unchanged images aside."""
    changes = [row for name, row in rows.items() if name != "none"]
    return {key: float(np.mean([row[key] for row in changes])) for key in changes[0]}


def mask_of(sample: Sample, image: Image) -> NDArray[np.bool_]:
    """Return where an image is defective; all of it where that is not known."""
    if sample.mask is not None:
        return read_mask(sample.mask)
    return np.full(image.shape[:2], bool(sample.is_defective))


def levels(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    """Return what changes the values, 0 to 255, of an image."""
    return lambda image, _: np.rint(change(image.astype(float))).clip(0, 255).astype(np.uint8)


def noise(sigma: float) -> Change:
    """Return what a sensor adds in poor light."""

    def change(image: Image, random: np.random.Generator) -> Image:
        noisy = image + random.normal(0, sigma, image.shape)
        return np.rint(noisy).clip(0, 255).astype(np.uint8)

    return change


def ramp(image: Image, _: np.random.Generator) -> Image:
    """Return an image whose light falls by 15 % from left to right."""
    falling = np.linspace(1.075, 0.925, image.shape[1])[None, :, None]
    return np.rint(image * falling).clip(0, 255).astype(np.uint8)


def defocus(image: Image, _: np.random.Generator) -> Image:
    """Return an image out of focus: by a pixel of 256."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(image.shape) / 256), np.uint8)


def jpeg(image: Image, _: np.random.Generator) -> Image:
    """Return an image as JPEG of quality 60 keeps it."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


def dust(image: Image, random: np.random.Generator) -> Image:
    """Return an image with ten dark blurred specks, as dust on the lens leaves them."""
    height, width = image.shape[:2]
    shade = np.zeros((height, width), np.float32)
    for _ in range(10):
        place = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(shade, place, max(1, round(max(height, width) / 150)), 1.0, -1)
    shade = cv2.GaussianBlur(shade, (0, 0), max(height, width) / 200)
    return np.rint(image * (1 - 0.5 * shade[..., None])).astype(np.uint8)


def moved(image: NDArray[Any], *, shift: float = 0, degrees: float = 0, zoom: float = 1) -> Any:
    """Return an image that is shifted (a fraction of its width), turned or enlarged."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    turn[0, 2] += shift * width
    how = cv2.INTER_NEAREST if image.dtype == bool else cv2.INTER_LINEAR
    pixels = image.astype(np.uint8)
    warped = cv2.warpAffine(
        pixels, turn, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE
    )
    return warped.astype(image.dtype)


def _moving(**how: float) -> Change:
    return lambda image, _: moved(image, **how)


_PLACES = {"shift 2 %": {"shift": 0.02}, "turn of 1": {"degrees": 1.0}, "zoom 2 %": {"zoom": 1.02}}

CHANGES: dict[str, Change] = {
    "none": lambda image, _: image,
    "light -20 %": levels(lambda x: x * 0.8),
    "light -10 %": levels(lambda x: x * 0.9),
    "light +10 %": levels(lambda x: x * 1.1),
    "light +20 %": levels(lambda x: x * 1.2),
    "offset +10": levels(lambda x: x + 10),
    "gamma 0.8": levels(lambda x: 255 * (x / 255) ** 0.8),
    "gamma 1.25": levels(lambda x: 255 * (x / 255) ** 1.25),
    "warmer": levels(lambda x: x * np.array([1.06, 1.0, 0.92])),
    "colder": levels(lambda x: x * np.array([0.94, 1.0, 1.08])),
    "ramp 15 %": ramp,
    "defocus": defocus,
    "noise 4": noise(4),
    "noise 8": noise(8),
    "jpeg 60": jpeg,
    **{name: _moving(**how) for name, how in _PLACES.items()},
    DUST: dust,
}
MOVES: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    name: (lambda mask, how=how: moved(mask, **how)) for name, how in _PLACES.items()
}

if __name__ == "__main__":
    sys.exit(main())
