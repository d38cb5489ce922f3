"""Two fake models on made images: one's map is the red channel, the other's the green one."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from destseg.config import Settings
from destseg.errors import BundleError
from destseg.evaluation.agreement import Agreement
from destseg.evaluation.agreement import agreement as agreement_within
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor

SIDE = 64


def channel(number, scores=(0.25, 0.5, 0.75), rate=0.25):
    """A predictor whose map is a channel, of 0 to 1, and whose score is the map's mean."""
    settings = Settings.from_preset(image_size=SIDE, score_fraction=1.0, max_false_alarm_rate=rate)
    calibration = Calibration.fit(scores, scores, ["a", "b", "c"], settings, "abc")
    bundle = Bundle(Path("nowhere"), settings, "abc", calibration, {})
    return Predictor(bundle, lambda x: x[..., number].astype(np.float32) / 255)


def flat(*values):
    """Images of one colour each, from pairs of red and green."""
    return [np.full((SIDE, SIDE, 3), (red, green, 0), np.uint8) for red, green in values]


def where(*anomalous):
    """Masks with a anomalous corner or none."""
    masks = [np.zeros((SIDE, SIDE), bool) for _ in anomalous]
    for mask, is_anomalous in zip(masks, anomalous, strict=True):
        mask[:8, :8] = is_anomalous
    return masks


def agreement(before, after, images, masks):
    """All of each image is inspected."""
    return agreement_within(before, after, images, masks, [np.ones_like(mask) for mask in masks])


@pytest.mark.parametrize("steps", [256, 3])
def test_figures_are_those_of_scipy_and_scikit_learn(steps):
    random = np.random.default_rng(steps)
    # Of three steps many scores are equal, between the classes too.
    scores = (random.integers(0, steps, (20, 2)) * (255 // (steps - 1))).tolist()
    masks = where(*[number % 3 == 0 for number in range(20)])
    images = flat(*scores)
    for image, mask in zip(images, masks, strict=True):
        image[mask] = random.integers(0, 256, 3)
    maps = np.stack(images)[..., :2].astype(np.float32) / 255
    means = maps.mean((1, 2), dtype=np.float64)
    if steps == 3:
        assert len(np.unique(means[:, 0])) < 20
    agreed = agreement(channel(0), channel(1), images, masks)
    labels = [mask.any() for mask in masks]
    assert agreed.score_correlation == pytest.approx(spearmanr(means[:, 0], means[:, 1])[0])
    truth = np.stack(masks).ravel()
    for number in range(2):
        expected = roc_auc_score(labels, means[:, number].round(9))
        assert agreed.image_auroc[number] == pytest.approx(expected)
        expected = average_precision_score(truth, maps[..., number].ravel())
        assert agreed.pixel_ap[number] == pytest.approx(expected)
    losses = np.subtract(agreed.image_auroc, agreed.pixel_ap)
    assert losses.any()
    assert agreed.drop == max(
        agreed.image_auroc[0] - agreed.image_auroc[1], agreed.pixel_ap[0] - agreed.pixel_ap[1]
    )


def test_p_values_and_decisions_in_closed_form():
    # Calibrated with 64, 128, 191 of 255: p-values 1, 3/4, 2/4, 1/4, defective is the last.
    images = flat((0, 0), (100, 150), (150, 200), (250, 10))
    agreed = agreement(channel(0), channel(1), images, where(False, False, True, True))
    assert agreed.p_value_difference == (0 + 1 / 4 + 1 / 4 + 3 / 4) / 4
    assert agreed.other_decisions == 2 / 4
    # Defective are 150 and 250 by red, against 0 and 100; by green 200 and 10, against 0 and 150.
    assert agreed.image_auroc == (1.0, 0.75)
    assert agreed.drop >= 0.25


def test_each_model_is_asked_with_its_own_calibration():
    images = flat((100, 100), (150, 150))
    after = channel(1, scores=(0.3, 0.35, 0.38))
    agreed = agreement(channel(0), after, images, where(False, True))
    # By red no score is above 0.75; by green both are above 0.38.
    assert agreed.other_decisions == 1.0
    assert agreed.p_value_difference == ((3 / 4 - 1 / 4) + (2 / 4 - 1 / 4)) / 2


def test_the_same_model_loses_nothing():
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8))
    agreed = agreement(channel(0), channel(0), images, where(*[True, False] * 3))
    assert agreed.drop == agreed.p_value_difference == agreed.other_decisions == 0
    assert agreed.score_correlation == pytest.approx(1)
    values = agreed.to_json()
    assert values["image_auroc"] == agreed.image_auroc
    assert set(values) == set(Agreement.__dataclass_fields__)


def test_what_is_not_inspected_of_an_image_does_not_count():
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8))
    masks = where(*[True, False] * 6)
    inspected = list(random.random((12, SIDE, SIDE)) < 0.1)
    for place in (0, 4):  # anomalous where nobody looks
        inspected[place] &= ~masks[place]
    agreed = agreement_within(channel(0), channel(1), images, masks, inspected)
    maps = np.stack(images)[..., :2].astype(np.float32) / 255
    truth = np.concatenate([mask[there] for mask, there in zip(masks, inspected, strict=True)])
    labels = [number % 2 == 0 and number not in (0, 4) for number in range(12)]
    for number in range(2):
        seen = [each[there, number] for each, there in zip(maps, inspected, strict=True)]
        expected = average_precision_score(truth, np.concatenate(seen))
        assert agreed.pixel_ap[number] == pytest.approx(expected)
        means = [each.mean(dtype=np.float64) for each in seen]
        assert agreed.image_auroc[number] == pytest.approx(roc_auc_score(labels, means))


def test_the_drop_is_the_larger_loss_and_a_gain_is_negative():
    assert Agreement((1.0, 0.75), (0.5, 0.5), 1, 0, 0).drop == 0.25
    assert Agreement((0.5, 0.5), (1.0, 0.75), 1, 0, 0).drop == 0.25
    assert Agreement((0.5, 0.75), (0.5, 1.0), 1, 0, 0).drop == -0.25


@pytest.mark.parametrize("unknown", ["image", "pixel", "both"])
def test_a_drop_that_is_not_known_is_not_0(unknown):
    known, nothing = (0.5, 0.5), (math.nan, math.nan)
    image = known if unknown == "pixel" else nothing
    pixel = known if unknown == "image" else nothing
    assert math.isnan(Agreement(image, pixel, 1, 0, 0).drop)


def test_without_anomalies_nothing_is_known():
    images = flat((1, 1), (2, 2))
    assert math.isnan(agreement(channel(0), channel(0), images, where(False, False)).drop)


def test_a_model_that_says_the_same_of_everything_correlates_with_nothing():
    images = flat((1, 7), (2, 7), (3, 7), (4, 7))
    agreed = agreement(channel(0), channel(1), images, where(False, False, True, True))
    assert math.isnan(agreed.score_correlation)
    assert agreed.image_auroc == (1.0, 0.5)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(BundleError, match="made image"):
        agreement(channel(0), channel(1), [np.zeros((4, 4, 7), np.uint8)], where(True))
