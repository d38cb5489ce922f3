"""Images that set a threshold, in every runtime: good, whatever the rounding."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from destseg.inference.backends import Runtime, open_backend
from destseg.inference.bundle import save_calibration
from destseg.inference.calibrate import fit_calibration
from destseg.inference.calibration import TOLERANCE
from destseg.inference.predictor import Predictor, load

RUNTIMES = ("torch", "onnx", "openvino")


@pytest.fixture(scope="module")
def calibrated(quantisable_bundle, parts, tmp_path_factory):
    """Makes a bundle that PyTorch calibrated on some images at some rate."""

    def make(paths, rate):
        folder = tmp_path_factory.mktemp("tied") / "model"
        shutil.copytree(quantisable_bundle.folder, folder)
        predictor = load(folder, backend="torch", device="cpu")
        settings = quantisable_bundle.settings.replace(max_false_alarm_rate=rate)
        names = [path.name for path in paths]
        weights = quantisable_bundle.weights_sha256
        calibration = fit_calibration(predictor, paths, names, settings, weights)
        save_calibration(predictor.bundle, calibration)
        return folder, calibration

    return make


def shifted(predictor, calibration, by):
    """The same runtime with another rounding, as far off as another may be."""
    run = open_backend(predictor.bundle, Runtime(predictor.backend_name, "cpu"))
    bundle = replace(predictor.bundle, calibration=calibration)
    return Predictor(bundle, lambda x: (run(x) + np.float32(by)).clip(0, 1))


@pytest.mark.parametrize("backend", RUNTIMES)
def test_equal_good_images_are_all_good(backend, calibrated, parts, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths:
        shutil.copy(parts / "003.png", path)
    folder, calibration = calibrated(paths, 0.01)
    assert calibration.threshold_images == tuple(sorted(path.name for path in paths))
    predictor = load(folder, backend=backend, device="cpu")
    for by in (0, 0.99 * TOLERANCE, -0.99 * TOLERANCE):
        for result in shifted(predictor, calibration, by).predict(paths):
            assert not result.is_defective
            assert result.p_value == 1
            assert result.regions == ()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_calibration_images_are_no_worse_than_their_own_place(backend, calibrated, parts):
    paths = sorted(parts.glob("*.png"))
    folder, calibration = calibrated(paths, 0.25)
    predictor = load(folder, backend=backend, device="cpu")
    for rate in (0.05, 0.25, 0.5, 1.0):
        for by in (0, 0.99 * TOLERANCE, -0.99 * TOLERANCE):
            elsewhere = shifted(predictor, calibration.with_rate(rate), by)
            require_no_worse(elsewhere.predict(paths), elsewhere.calibration)


def require_no_worse(results, calibration):
    scores = dict(zip(calibration.paths, calibration.scores, strict=True))
    peaks = dict(zip(calibration.paths, calibration.peaks, strict=True))
    (deciding,) = {scores[name] for name in calibration.threshold_images}
    (highest,) = {peaks[name] for name in calibration.pixel_threshold_images}
    for result in results:
        score, peak = (values[Path(result.path).name] for values in (scores, peaks))
        exact = (1 + sum(other >= score for other in scores.values())) / (1 + len(scores))
        assert result.p_value >= exact
        assert result.score == pytest.approx(score, abs=TOLERANCE)
        assert not result.is_defective or score > deciding
        assert result.regions == () or peak > highest


def test_the_stored_calibration_names_the_image_that_set_the_threshold(calibrated, parts):
    paths = sorted(parts.glob("*.png"))
    folder, _ = calibrated(paths, 0.25)
    stored = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    results = load(folder, backend="torch", device="cpu").predict(paths)
    names = [path.name for path in paths]
    peaks = [float(result.anomaly_map.max()) for result in results]
    by_score = sorted(zip([result.score for result in results], names, strict=True))
    by_peak = sorted(zip(peaks, names, strict=True))
    # At 3 in 13 the third highest of 12 decides.
    assert stored["threshold_images"] == [by_score[-3][1]]
    assert stored["threshold"] == min(1, by_score[-3][0] + TOLERANCE)
    assert stored["pixel_threshold_images"] == [by_peak[-3][1]]
    assert stored["pixel_threshold"] == min(1, by_peak[-3][0] + TOLERANCE)
