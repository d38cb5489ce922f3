"""A model whose map is how far the level is from 120: what it finds follows from the contrast."""

from pathlib import Path

import numpy as np
from PIL import Image

from destseg.config import Settings
from destseg.data.roi import Roi
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import Calibration

SIDE = 64
THRESHOLD = 0.2
FRACTION = 0.005  # of 64 x 64 pixels: the score is the mean of the highest 20


def off_level(images):
    return np.abs(images[..., 0].astype(np.float32) - 120) / 100


def save_model(folder: Path, roi=None) -> Path:
    settings = Settings.from_preset(
        image_size=SIDE, max_false_alarm_rate=0.25, score_fraction=FRACTION
    )
    bundle = save_bundle(folder, settings, {}, {}, None if roi is None else Roi(roi))
    scores = [0.05, 0.1, THRESHOLD - 1e-4]
    calibration = Calibration.fit(
        scores, scores, ["a", "b", "c"], settings, bundle.weights_sha256, bundle.roi_sha256
    )
    save_calibration(bundle, calibration)
    return folder


def write_good(folder: Path) -> Path:
    """Write five good images, of levels a little about 120."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        image = random.integers(117, 124, (SIDE, SIDE, 1), np.uint8).repeat(3, axis=2)
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder
