"""Backends against each other, with backends of one line whose differences are known."""

from dataclasses import replace

import numpy as np
import pytest

from destseg.data.noise import UsualNoise, noise_of
from destseg.errors import DataError
from destseg.inference import parity
from destseg.inference.calibration import TOLERANCE
from destseg.inference.parity import compare_backends, example_images


def grey(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, np.uint8)


def shifted(by: float):
    return lambda images: images[..., 0].astype(np.float32) / 255 + np.float32(by)


def test_differences_and_decisions_are_found(make_predictor):
    predictors = {"one": make_predictor(), "other": make_predictor(shifted(0.05))}
    images = [grey(0), grey(70), grey(200)]  # 0.2745 and 0.3245: on two sides of 0.3
    (first, second), unreadable = compare_backends(predictors, images)
    assert unreadable == []
    assert (first.map_difference, first.score_difference, first.decisions) == (0, 0, ())
    assert second.map_difference == pytest.approx(0.05, abs=1e-6)
    assert second.score_difference == pytest.approx(0.05, abs=1e-6)
    assert second.decisions == ("image 0",)
    assert second.borderline == ()
    assert second.nearest == pytest.approx(70 / 255 + 0.05 - 0.3 - TOLERANCE, abs=1e-6)
    assert first.seconds > 0


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (-0.4, 0.4, "borderline"),  # in tolerances from the threshold
        (0.4, -0.4, "borderline"),
        (-1.4, 0.4, "decisions"),
        (-0.4, 1.4, "decisions"),
        (0.1, 0.9, None),
        (-0.1, -0.9, None),
    ],
)
def test_a_decision_differs_only_beyond_the_tolerance(one, other, kind, make_predictor):
    base = make_predictor().calibration.threshold

    def level(by):
        return lambda x: np.full(x.shape[:3], base + by * TOLERANCE, np.float32)

    predictors = {"one": make_predictor(level(one)), "other": make_predictor(level(other))}
    (_, second), _ = compare_backends(predictors, [grey(0)])
    assert second.decisions == (("image 0",) if kind == "decisions" else ())
    assert second.borderline == (("image 0",) if kind == "borderline" else ())


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_difference_that_is_no_number_is_not_passed_over(broken, make_predictor, monkeypatch):
    differences = iter([np.nan if number == broken else 0.0 for number in range(3)])
    row = parity._row

    def measured(result, reference, seconds):
        found = row(result, reference, seconds)
        if result is reference:
            return found
        difference = next(differences)
        return replace(found, map_difference=difference, score_difference=difference)

    monkeypatch.setattr(parity, "_row", measured)
    predictors = {"one": make_predictor(), "other": make_predictor()}
    (_, other), _ = compare_backends(predictors, [grey(0), grey(1), grey(2)])
    assert np.isnan([other.map_difference, other.score_difference]).all()
    assert not other.agrees()


def test_images_that_cannot_be_read_are_told(make_predictor, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"words")
    images = [tmp_path / "bad.png", grey(10)]
    predictors = {"one": make_predictor(), "other": make_predictor()}
    (only, _), (error,) = compare_backends(predictors, images)
    assert str(tmp_path / "bad.png") in str(error)
    assert only.nearest == pytest.approx(0.3 + TOLERANCE - 10 / 255, abs=1e-6)
    with pytest.raises(DataError, match="none that can be read"):
        compare_backends({"one": make_predictor()}, [tmp_path / "bad.png"])


def test_example_images_are_the_same_every_time_and_no_two_alike():
    once, again = list(example_images(3, (64, 64))), list(example_images(3, (64, 64)))
    assert [image.shape for image in once] == [(64, 64, 3)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0], once[1])


def test_example_images_have_no_noise_that_is_filtered_out():
    images = [
        image for size in ((64, 64), (256, 256), (160, 416)) for image in example_images(4, size)
    ]
    assert [noise_of(image).beyond(UsualNoise(0, 0)) for image in images] == [None] * len(images)
