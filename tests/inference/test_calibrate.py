import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings
from destseg.errors import DataError, ImageError
from destseg.inference.calibrate import fit_calibration
from destseg.inference.calibration import TOLERANCE

SETTINGS = Settings.from_preset(image_size=64, max_false_alarm_rate=0.4, score_fraction=1 / 64)


def part(path, red, spot=0):
    """An image of one red, with a spot of 4 of its 64 x 64 pixels."""
    image = np.full((64, 64, 3), (red, 0, 0), np.uint8)
    image[:2, :2, 0] = max(red, spot)
    Image.fromarray(image).save(path)
    return path


def test_scores_and_peaks_in_closed_form(make_predictor, tmp_path):
    paths = [
        part(tmp_path / "a.png", 51, 255),
        part(tmp_path / "b.png", 0),
        part(tmp_path / "c.png", 102),
    ]
    counted = []
    predictor = make_predictor(score_fraction=1 / 64, batch_size=2)
    fitted = fit_calibration(
        predictor, paths, ["a", "b", "c"], SETTINGS, "f00d", lambda: counted.append(1)
    )
    # The score is the mean of the 64 highest values: of a 4 of 1 and 60 of 0.2.
    assert fitted.scores == pytest.approx([0, (4 + 60 * 0.2) / 64, 0.4])
    # In the order of the scores, all three: which image set a threshold can be said.
    assert fitted.peaks == pytest.approx([0, 1, 0.4])
    assert fitted.paths == ("b", "a", "c")
    assert fitted.weights_sha256 == "f00d"
    assert (fitted.image_size, fitted.score_fraction) == (64, 1 / 64)
    # The settings' rate, not the predictor's: one of four may be above the highest score.
    assert (fitted.max_false_alarm_rate, fitted.guaranteed_false_alarm_rate) == (0.4, 0.25)
    assert fitted.threshold == pytest.approx(0.4 + TOLERANCE)
    assert fitted.pixel_threshold == pytest.approx(1)
    assert len(counted) == 3


def test_the_calibration_image_is_at_the_threshold_later(make_predictor, tmp_path):
    paths = [part(tmp_path / f"{red}.png", red) for red in (10, 20, 30)]
    predictor = make_predictor()
    fitted = fit_calibration(predictor, paths, list("abc"), SETTINGS, "f00d")
    assert [predictor.predict(path).score for path in paths] == list(fitted.scores)


def test_an_unreadable_image_is_named(make_predictor, tmp_path):
    paths = [part(tmp_path / "a.png", 51), tmp_path / "torn.png"]
    paths[1].write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"torn\.png") as caught:
        fit_calibration(make_predictor(), paths, ["a", "b"], SETTINGS, "f00d")
    assert caught.value.path == str(paths[1])


def test_without_images_there_is_no_threshold(make_predictor):
    with pytest.raises(DataError, match="at least one"):
        fit_calibration(make_predictor(), [], [], SETTINGS, "f00d")
