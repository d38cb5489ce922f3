"""A model whose map is the red channel, and pictures for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.scoring import Calibration


def write(path: Path, red: int = 0, size: tuple[int, int] = (20, 30)) -> Path:
    """Write a picture whose score is red / 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), 50, np.uint8)
    image[..., 0] = red
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="session")
def write_picture() -> Callable[..., Path]:
    return write


@pytest.fixture(scope="session")
def red_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model whose threshold is 0.3; its backend is ``at_workers.brightness``."""
    folder = tmp_path_factory.mktemp("red") / "model"
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25)
    saved = save_bundle(folder, settings, {}, {})
    scores = [0.1, 0.2, 0.3]
    calibration = Calibration.fit(scores, scores, ["a", "b", "c"], settings, saved.weights_sha256)
    save_calibration(saved, calibration)
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The red model's backend, where no worker is begun."""
    from batch.at_workers import brightness

    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: brightness)
