"""A backend of four lines and a bundle for it, so that nothing here needs torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from destseg.config import Settings
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor


def brightness(images: np.ndarray) -> np.ndarray:
    """The map of an image is its red channel, of 0 to 1."""
    assert images.dtype == np.uint8
    assert images.ndim == 4
    return images[..., 0].astype(np.float32) / 255


def make_bundle(
    scores: tuple[float, ...] = (0.1, 0.2, 0.3), noise: float | None = None, **changes: Any
) -> Bundle:
    """A bundle that is nowhere on the disk, with calibration scores."""
    settings = Settings.from_preset(**{"image_size": 64, "max_false_alarm_rate": 0.25, **changes})
    names = [str(number) for number in range(len(scores))]
    calibration = Calibration.fit(scores, scores, names, settings, "abc")
    facts = {} if noise is None else {"noise": {"typical": noise, "most": noise}}
    return Bundle(Path("nowhere"), settings, "abc", calibration, facts)


@pytest.fixture
def make_predictor() -> Callable[..., Predictor]:
    """Returns a predictor whose maps are the red channel: threshold 0.3 for score and pixels."""

    def make(backend: Any = brightness, *, batch_size: int = 8, **changes: Any) -> Predictor:
        return Predictor(make_bundle(**changes), backend, batch_size=batch_size)

    return make


@pytest.fixture
def predictor(make_predictor: Callable[..., Predictor]) -> Predictor:
    return make_predictor()
