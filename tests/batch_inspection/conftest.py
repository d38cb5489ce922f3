"""A model whose map is the red channel, and images for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_red as write
from destseg.config import Settings
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import Calibration


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
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
    from batch_inspection.at_workers import brightness

    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: brightness)
