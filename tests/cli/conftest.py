"""A model that was really trained, and one with a backend of one line that needs no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from destseg.cli.main import main
from destseg.config import Settings
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import Calibration


@pytest.fixture(scope="session")
def settings_file(
    tiny_settings: Settings, tiny_teacher_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Settings that train in a second, for ``--settings``."""
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    path.write_text(settings.to_yaml(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(parts: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that the command line trained; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    words = ["train", str(parts), "--output", str(folder), "--settings", str(settings_file)]
    assert main([*words, "--seed", "7", "--quiet"]) == 0
    return folder


@pytest.fixture
def brightness_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model whose map is the red channel; its threshold is 0.3."""
    folder = tmp_path / "model"
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25)
    saved = save_bundle(folder, settings, {}, {})
    scores = [0.1, 0.2, 0.3]
    calibration = Calibration.fit(scores, scores, ["a", "b", "c"], settings, saved.weights_sha256)
    save_calibration(saved, calibration)

    def open_backend(*_: object) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: images[..., 0].astype(np.float32) / 255

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    return folder
