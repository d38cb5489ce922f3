"""A stored model says of stored images what it said before its code was moved and renamed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import destseg

REFERENCE = Path(__file__).parent / "reference"
# Other processors have other kernels, which round otherwise; a sigmoid of some hundred
# float32 terms is moved by less than this.  On the processor that made them all bits are equal.
ROUNDING = 1e-5


def test_a_stored_model_says_what_it_said():
    said = json.loads((REFERENCE / "model_said.json").read_text())
    maps = np.load(REFERENCE / "model_maps.npz")["maps"]
    predictor = destseg.load(REFERENCE / "model", backend="torch", device="cpu")
    results = predictor.predict([REFERENCE / f"model_{name}" for name in said["images"]])
    for result, expected in zip(results, maps, strict=True):
        np.testing.assert_allclose(result.anomaly_map, expected, rtol=0, atol=ROUNDING)
    assert [result.score for result in results] == pytest.approx(said["scores"], abs=ROUNDING)
    assert [result.p_value for result in results] == said["p_values"]
    assert {result.threshold for result in results} == {said["threshold"]}
