"""A model whose answers can be worked out, and good images for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qualification.qualification_model import SIDE, off_level, save_model


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """The folder of the model."""
    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: off_level)
    return save_model(tmp_path / "model")


@pytest.fixture
def good(tmp_path) -> Path:
    """Five good images, of levels a little about 120."""
    folder = tmp_path / "good"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        image = random.integers(117, 124, (SIDE, SIDE, 1), np.uint8).repeat(3, axis=2)
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder
