"""A model whose answers can be worked out, and good images for it."""

from pathlib import Path

import pytest

from qualification.qualification_model import off_level, save_model, write_good


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """The folder of the model."""
    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: off_level)
    return save_model(tmp_path / "model")


@pytest.fixture
def good(tmp_path) -> Path:
    """Five good images, of levels a little about 120."""
    return write_good(tmp_path / "good")
