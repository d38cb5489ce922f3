import dataclasses
import functools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from destseg.config import Settings
from destseg.errors import BundleError, DataError, SettingsError
from destseg.inference.calibration import TOLERANCE, Calibration
from destseg.inference.order_statistics import allowed_above, chance_of_flagged, rate_bound

RATES = ["0.001", "0.01", "0.02", "0.05", "0.07", "0.1", "0.15", "0.25", "0.3", "0.5", "0.9", "1"]


@functools.cache
def settings_with(rate: float, fraction: float) -> Settings:
    return Settings.from_preset(max_false_alarm_rate=rate, score_fraction=fraction)


def fitted(scores, rate=0.01, peaks=None, fraction=0.5) -> Calibration:
    settings = settings_with(rate, fraction)
    names = [f"{number}.png" for number in range(len(scores))]
    return Calibration.fit(scores, scores if peaks is None else peaks, names, settings, "a" * 64)


def rank_of(n: int, rate: float) -> int:
    """Return which of n different scores is the threshold, counted from 0 at the highest."""
    return min(int(allowed_above(n, rate)), n - 1)


# --- p-values and thresholds

scores_with_ties = st.lists(st.sampled_from([0, 0.1, 0.2, 0.3, 0.5, 1]), min_size=1, max_size=40)


@given(
    calibration_images=scores_with_ties,
    score=st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)
def test_a_p_value_counts_the_calibration_scores_that_are_at_least_as_high(
    calibration_images, score
):
    literal = (1 + sum(other + TOLERANCE >= score for other in calibration_images)) / (
        len(calibration_images) + 1
    )
    assert fitted(calibration_images).p_value(score) == literal
    assert 0 < literal <= 1


close = st.floats(0, 1) | st.builds(
    lambda level, by: min(1.0, max(0.0, level + by * TOLERANCE)),
    st.sampled_from([0, 0.1, 0.3, 1]),
    st.sampled_from([-2, -1, 0, 1, 2]) | st.floats(-3, 3),
)


def nudged(value: float, steps: int) -> float:
    for _ in range(abs(steps)):
        value = math.nextafter(value, math.copysign(math.inf, steps))
    return min(1.0, max(0.0, value))


@given(
    calibration_images=st.lists(close, min_size=1, max_size=40),
    rate=st.floats(1e-6, 1),
    score=close,
    steps=st.integers(-2, 2),
)
def test_decision_threshold_and_p_value_say_the_same_to_the_last_bit(
    calibration_images, rate, score, steps
):
    calibration = fitted(calibration_images, rate)
    for each in (score, nudged(calibration.threshold, steps), nudged(score, steps)):
        defective = calibration.is_defective(each)
        assert defective == (each > calibration.threshold)
        assert defective == (calibration.p_value(each) <= calibration.guaranteed_false_alarm_rate)


@given(
    calibration_images=st.lists(close, min_size=1, max_size=40),
    rate=st.floats(1e-6, 1),
    by=st.lists(st.floats(-1, 1), min_size=40, max_size=40),
)
def test_ties_within_the_tolerance_count_for_the_part(calibration_images, rate, by):
    """Another runtime's scores of the very calibration images: no worse than their own place."""
    calibration = fitted(calibration_images, rate)
    rank = rank_of(len(calibration_images), rate)
    deciding = sorted(calibration_images, reverse=True)[rank]
    for score, times in zip(calibration_images, by, strict=False):
        elsewhere = min(1.0, max(0.0, score + times * TOLERANCE))
        exact = (1 + sum(other >= score for other in calibration_images)) / (
            len(calibration_images) + 1
        )
        assert calibration.p_value(elsewhere) >= exact  # the guarantee is about the exact one
        if score <= deciding:
            assert not calibration.is_defective(elsewhere)
            assert elsewhere <= calibration.pixel_threshold  # peaks are the scores here
            assert elsewhere >= calibration.tie_limit or score < deciding


@given(
    calibration_images=st.lists(close, min_size=1, max_size=40),
    rate=st.floats(1e-6, 1),
    score=close,
)
def test_what_turns_within_the_tolerance_is_borderline(calibration_images, rate, score):
    """Two runtimes that contradict each other both see that they are near the threshold."""
    calibration = fitted(calibration_images, rate)
    other = score + TOLERANCE * 0.999
    if calibration.is_defective(score) != calibration.is_defective(other):
        for each in (score, other):
            assert abs(each - calibration.threshold) <= TOLERANCE


@pytest.mark.parametrize("rate", RATES)
def test_an_image_is_flagged_exactly_where_its_p_value_keeps_the_guaranteed_rate(rate):
    """In exact arithmetic, for every n to 60, at, between and beside all calibration scores."""
    exact = Fraction(rate)
    for n in range(1, 61):
        achievable = exact >= Fraction(1, n + 1)
        # p = 1 is every image: the threshold cannot lie below all scores.
        guaranteed = min(exact, Fraction(n, n + 1)) if achievable else Fraction(1, n + 1)
        may_count = [Fraction(1 + count, n + 1) <= guaranteed for count in range(n + 1)]
        for calibration_images in (
            np.arange(n) / 64,
            np.arange(n) // 3 / 64,  # ties of three
            np.full(n, 0.5),
        ):
            threshold = fitted(calibration_images.tolist(), float(rate)).threshold
            ties = np.minimum(calibration_images + TOLERANCE, 1)
            scores = np.union1d(np.arange(-1, 2 * n + 2) / 128, [*calibration_images, *ties])
            counts = (ties[:, None] >= scores).sum(axis=0)
            keeps = np.array(may_count)[counts]
            assert ((scores > threshold) == keeps).all(), (n, rate, threshold)
            assert threshold in ties


@pytest.mark.parametrize("rate", RATES)
def test_the_guaranteed_rate_is_the_highest_p_value_that_is_flagged(rate):
    exact = Fraction(rate)
    for n in range(1, 400):
        achievable = [k for k in range(1, n + 1) if Fraction(k, n + 1) <= exact]
        expected = max(achievable, default=1)
        assert rank_of(n, float(rate)) == expected - 1
        if n % 20 == 1:
            different = fitted([k / n for k in range(n)], float(rate))
            guaranteed = different.guaranteed_false_alarm_rate
            assert guaranteed == expected / (n + 1)
            assert (guaranteed > float(rate)) == (not achievable)


def test_the_threshold_is_a_calibration_score_and_the_tolerance_whatever_their_order():
    calibration_images = [0.4, 0.1, 0.3, 0.2]
    for rate, deciding in ((0.2, 0.4), (0.4, 0.3), (0.6, 0.2), (1.0, 0.1), (0.001, 0.4)):
        calibration = fitted(calibration_images, rate)
        assert calibration.threshold == deciding + TOLERANCE
        assert calibration.threshold_images == (f"{calibration_images.index(deciding)}.png",)
    assert fitted(sorted(calibration_images), 0.4).threshold == 0.3 + TOLERANCE


def test_no_threshold_is_above_1():
    assert fitted([1.0]).threshold == fitted([1.0]).pixel_threshold == 1
    assert fitted([1 - TOLERANCE / 2]).threshold == 1
    assert not fitted([1 - TOLERANCE / 2]).is_defective(1.0)
    assert fitted([1 - TOLERANCE / 2]).p_value(1.0) == 1


def test_the_pixel_threshold_comes_from_the_peaks_in_the_same_way():
    calibration = fitted([0.1, 0.2, 0.3, 0.4], 0.4, peaks=[0.9, 0.6, 0.8, 0.7])
    assert calibration.threshold == 0.3 + TOLERANCE
    assert calibration.threshold_images == ("2.png",)
    assert calibration.pixel_threshold == 0.8 + TOLERANCE
    assert calibration.pixel_threshold_images == ("2.png",)
    loose = calibration.with_rate(0.6)
    assert (loose.threshold_images, loose.pixel_threshold_images) == (("1.png",), ("3.png",))


def test_scores_peaks_and_names_stay_together():
    settings = settings_with(0.5, 0.5)
    scores, peaks, names = [0.3, 0.1, 0.3, 0.2], [0.9, 0.8, 0.6, 0.7], ["d", "c", "b", "a"]
    calibration = Calibration.fit(scores, peaks, names, settings, "a" * 64)
    assert calibration.scores == (0.1, 0.2, 0.3, 0.3)
    assert calibration.peaks == (0.8, 0.7, 0.6, 0.9)
    assert calibration.paths == ("c", "a", "b", "d")  # of equal scores by name
    assert calibration.threshold_images == ("b", "d")
    assert calibration.pixel_threshold_images == ("c",)
    assert calibration.to_dict()["threshold_images"] == ["b", "d"]
    assert calibration.to_dict()["pixel_threshold_images"] == ["c"]
    assert calibration.set_by() == "set by b, d, that of regions by c"
    assert fitted([0.5] * 5).set_by() == "set by 0.png, 1.png, 2.png and 2 more"


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (99, 0.01), (30, 0.1), (5, 0.01), (50, 0.02)])
@pytest.mark.parametrize("levels", [None, 7])
def test_good_parts_are_flagged_no_more_often_than_guaranteed(n, rate, levels):
    """Simulated: calibration and new scores from one distribution, with and without ties."""
    rng = np.random.default_rng(n)
    trials = 4000
    scores = rng.beta(2, 8, (trials, n + 1))
    if levels:
        scores = np.floor(scores * levels) / levels
    guaranteed = fitted([0.0] * n, rate).guaranteed_false_alarm_rate
    alarms = sum(row[-1] > fitted_threshold(row[:-1], rate) for row in scores)
    noise = 4 * math.sqrt(guaranteed * (1 - guaranteed) / trials)
    assert alarms / trials <= guaranteed + noise
    if levels is None:
        assert alarms / trials >= guaranteed - noise  # neither is it wastefully strict


def fitted_threshold(calibration_images: np.ndarray, rate: float) -> float:
    rank = rank_of(len(calibration_images), rate)
    return float(np.sort(calibration_images)[::-1][rank]) + TOLERANCE


def test_the_simulations_threshold_is_the_calibrations():
    rng = np.random.default_rng(3)
    for n in (1, 5, 40):
        calibration_images = rng.random(n)
        for rate in (0.01, 0.1, 0.5, 1.0):
            assert fitted(calibration_images.tolist(), rate).threshold == fitted_threshold(
                calibration_images, rate
            )


# --- what is said when there are too few


def test_enough_calibration_images_need_no_note():
    assert fitted([0.1] * 99, 0.01).guarantee_note() is None
    assert fitted([0.1] * 9, 0.1).guarantee_note() is None
    assert fitted([0.1], 0.5).guarantee_note() is None


def test_too_few_calibration_images_are_told_with_the_numbers():
    note = fitted([0.1] * 10, 0.01).guarantee_note()
    assert note is not None
    assert "with 10 calibration images" in note
    assert "not of 1.00%, which takes 99:" in note
    assert "guarantees a false-alarm rate of 9.09%," in note
    assert "--calibration-fraction" not in note  # which only training has
    assert "--max-false-alarm-rate" in note
    assert fitted([0.1] * 10, 0.01).guaranteed_false_alarm_rate == 1 / 11


def test_an_image_that_sets_the_threshold_far_above_all_others_is_named():
    note = fitted([0.1, 0.7, 0.3, 0.2, 0.1], 0.2).lone_note()
    assert note is not None
    assert note.startswith("1.png alone sets the threshold: its score is 0.7000, the next 0.3000.")


@pytest.mark.parametrize(
    ("scores", "rate"),
    [
        ([0.1, 0.5, 0.3, 0.2, 0.1], 0.2),  # not far above
        ([0.1, 0.7, 0.3, 0.2, 0.1], 0.4),  # passed over: the next one sets the threshold
        ([0.7, 0.7, 0.1, 0.2, 0.1], 0.2),  # not alone
        ([0.1, 0.7, 0.3, 0.2], 0.2),  # too few to say so
        ([0.0] * 5, 0.2),
    ],
)
def test_no_other_is(scores, rate):
    assert fitted(scores, rate).lone_note() is None


@pytest.mark.parametrize("rate", [0.001, 0.003, 0.01, 0.03, 0.07, 0.1, 1 / 49, 1 / 98, 1 / 3])
def test_the_number_that_it_takes_is_the_smallest_that_is_enough(rate):
    note = fitted([0.1], rate).guarantee_note()
    assert note is not None
    takes = int(note.split("takes ")[1].split(":")[0])
    assert fitted([0.1] * takes, rate).guaranteed_false_alarm_rate <= rate * (1 + 1e-12)
    assert fitted([0.1] * (takes - 1), rate).guaranteed_false_alarm_rate > rate


# --- what may be a calibration


def test_no_calibration_images_is_an_error():
    with pytest.raises(DataError, match="at least one calibration image"):
        fitted([])


def test_as_many_scores_as_images():
    with pytest.raises(DataError):
        Calibration.fit([0.1, 0.2], [0.1], ["a", "b"], Settings(), "a")
    with pytest.raises(DataError):
        Calibration.fit([0.1], [0.1], ["a", "b"], Settings(), "a")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1.5, -0.1])
def test_what_is_no_score_is_refused(wrong):
    said = {**fitted([0.1, 0.2, 0.3]).to_dict(), "scores": [0.1, 0.2, wrong]}
    for make in (
        lambda: fitted([0.1, wrong, 0.2]),
        lambda: fitted([0.1, 0.2], peaks=[wrong, 0.5]),
        lambda: Calibration.from_dict(json.loads(json.dumps(said))),
    ):
        with pytest.raises(DataError, match=r"in \[0, 1\], got"):
            make()


def test_of_no_number_nothing_is_said():
    calibration = fitted([0.1, 0.2, 0.3])
    for ask in (calibration.is_defective, calibration.p_value):
        with pytest.raises(DataError, match="got NaN"):
            ask(math.nan)


def test_scores_out_of_order_are_refused():
    with pytest.raises(DataError, match="rising"):
        dataclasses.replace(fitted([0.1, 0.2]), scores=(0.2, 0.1))


@pytest.mark.parametrize("rate", [0, -0.1, 1.1, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(rate):
    with pytest.raises(SettingsError, match="--max-false-alarm-rate"):
        dataclasses.replace(fitted([0.1]), max_false_alarm_rate=rate)


def test_the_rate_can_be_changed_without_fitting_again():
    strict = fitted([k / 100 for k in range(99)], 0.01)
    loose = dataclasses.replace(strict, max_false_alarm_rate=0.1)
    assert strict.threshold == 0.98 + TOLERANCE
    assert loose.threshold == 0.89 + TOLERANCE
    assert loose.scores == strict.scores


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    rate=st.floats(1e-6, 1),
    fraction=st.floats(1e-6, 1),
)
def test_json_gives_the_very_same_calibration_back(scores, rate, fraction):
    calibration = fitted(scores, rate, fraction=fraction, peaks=[s / 3 for s in scores])
    text = json.dumps(calibration.to_dict(), allow_nan=False)
    again = Calibration.from_dict(json.loads(text))
    assert again == calibration
    assert again.threshold == calibration.threshold
    shown = json.loads(text)
    assert shown["threshold"] == calibration.threshold
    assert shown["pixel_threshold"] == calibration.pixel_threshold
    assert shown["guaranteed_false_alarm_rate"] == calibration.guaranteed_false_alarm_rate


def test_another_model_or_other_settings_are_refused_naming_every_difference():
    settings = Settings.from_preset(image_size=128, score_fraction=0.01)
    calibration = Calibration.fit([0.1], [0.1], ["a"], settings, "a" * 64)
    calibration.require_match(settings, "a" * 64, Path("here"))
    # What does not enter into scores may differ.
    calibration.require_match(settings.replace(seed=3, cache_gib=1.0), "a" * 64, Path("here"))
    cases = {
        "image_size": (settings.replace(image_size=256), "a" * 64),
        "score_fraction": (settings.replace(score_fraction=0.02), "a" * 64),
        "weights_sha256": (settings, "b" * 64),
        "tile": (settings.replace(tile=True, tile_overlap=0), "a" * 64),
    }
    for name, (used, weights) in cases.items():
        with pytest.raises(BundleError) as caught:
            calibration.require_match(used, weights, Path("here"))
        assert str(caught.value).startswith("here: ")
        assert [other for other in cases if other in str(caught.value)] == [name]
    with pytest.raises(BundleError, match="roi_sha256: calibrated for None, the model has ccc"):
        calibration.require_match(settings, "a" * 64, Path("here"), "ccc")
    # Without tiles their overlap means nothing.
    calibration.require_match(settings.replace(tile_overlap=0.5), "a" * 64, Path("here"))
    everything = settings.replace(image_size=64, score_fraction=1.0, tile=True)
    with pytest.raises(BundleError) as caught:
        calibration.require_match(everything, "c", Path("here"))
    assert all(name in str(caught.value) for name in cases)
    assert "128" in str(caught.value)
    assert "64" in str(caught.value)


def test_a_calibration_for_tiles_and_a_region_fits_those_only():
    settings = Settings.from_preset(tile=True, tile_overlap=0.25)
    calibration = Calibration.fit([0.1], [0.1], ["a"], settings, "a", "roi")
    assert (calibration.tile, calibration.tile_overlap, calibration.roi_sha256) == (
        True,
        0.25,
        "roi",
    )
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    calibration.require_match(settings, "a", Path("here"), "roi")
    cases = {
        "tile_overlap": (settings.replace(tile_overlap=0.5), "roi"),
        "tile": (settings.replace(tile=False), "roi"),
        "roi_sha256": (settings, "other"),
        "the model has None": (settings, None),
    }
    for name, (used, roi) in cases.items():
        with pytest.raises(BundleError, match=name):
            calibration.require_match(used, "a", Path("here"), roi)


def test_a_calibration_for_a_bit_depth_fits_that_only():
    settings = Settings.from_preset(bit_depth=12)
    calibration = Calibration.fit([0.1], [0.1], ["a"], settings, "a")
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    calibration.require_match(settings, "a", Path("here"))
    with pytest.raises(BundleError, match="bit_depth: calibrated for 12, the model has 16"):
        calibration.require_match(Settings(), "a", Path("here"))


# --- a rate with confidence


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("n", "rank"), [(1, 0), (19, 0), (19, 3), (100, 1), (100, 99), (2000, 40)])
def test_the_bound_is_the_quantile_of_the_beta_distribution(n, rank, confidence):
    expected = scipy.stats.beta.ppf(confidence, rank + 1, n - rank)
    assert rate_bound(n, rank, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "rank"), [(1, 0), (19, 0), (19, 3), (100, 99), (2000, 40)])
@pytest.mark.parametrize(("flagged", "images"), [(0, 0), (0, 9), (1, 1), (3, 40), (12, 103)])
def test_the_number_of_flagged_images_is_beta_binomial(n, rank, flagged, images):
    expected = scipy.stats.betabinom.sf(flagged - 1, images, rank + 1, n - rank)
    assert chance_of_flagged(n, rank, flagged, images) == pytest.approx(expected, rel=1e-6)


def test_a_calibration_says_the_chance_of_its_own_threshold():
    scores = [0.01 * k for k in range(1, 30)]
    paths = [f"{k}.png" for k in range(29)]
    settings = Settings.from_preset("fast", max_false_alarm_rate=0.1)
    calibration = Calibration.fit(scores, scores, paths, settings, "a")
    expected = scipy.stats.betabinom.sf(11, 103, 3, 27)  # of 29 scores two are above it
    assert calibration.chance_of_flagged(12, 103) == pytest.approx(expected)
    by_days = Calibration.fit(scores, scores, paths, settings, "a", groups=["a", *["b"] * 28])
    assert by_days.chance_of_flagged(12, 103) is None


@pytest.mark.parametrize(("n", "rate"), [(59, 0.05), (299, 0.01), (93, 0.05), (124, 0.05)])
def test_the_known_numbers_of_images_are_enough_and_one_less_is_not(n, rate):
    """Order statistics for 95 % (the tables of non-parametric tolerance limits)."""
    rank = {59: 0, 299: 0, 93: 1, 124: 2}[n]
    assert allowed_above(n, rate, 0.95) == rank
    assert rate_bound(n, rank, 0.95) <= rate < rate_bound(n - 1, rank, 0.95)


@pytest.mark.parametrize("n", [1, 2, 19, 59, 60, 299, 300, 2000, 20_000])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 0.95, 0.999])
def test_the_rank_is_the_highest_with_which_the_rate_holds(n, rate, confidence):
    """The binomial test: so many parts of n, or fewer, are above with 1 - confidence at most."""
    chances = scipy.stats.binom.cdf(np.arange(n), n, rate)
    holds = np.flatnonzero(chances <= (1 - confidence) * (1 + 1e-9))
    assert allowed_above(n, rate, confidence) == max(holds, default=0)


@pytest.mark.parametrize(
    ("n", "rate"), [(59, 0.05), (60, 0.1), (200, 0.05), (400, 0.01), (1000, 0.02)]
)
def test_the_rate_holds_with_the_confidence_asked_for(n, rate):
    """10,000 draws of calibration scores, whose true false-alarm rates are known."""
    rank = int(allowed_above(n, rate, 0.95))
    scores = np.sort(np.random.default_rng(n).random((10_000, n)), axis=1)
    true_rates = 1 - scores[:, -1 - rank]
    kept = (true_rates <= rate).mean()
    assert kept >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 10_000)
    following = 1 - scores[:, -2 - rank]
    assert (following <= rate).mean() < 0.95  # a lower threshold would not keep it


def test_equal_scores_keep_it_all_the_more():
    scores = np.sort(np.random.default_rng(0).integers(0, 10, (2000, 100)), axis=1)
    rank = int(allowed_above(100, 0.1, 0.95))
    true_rates = 1 - (scores[:, -1 - rank] + 1) / 10  # above the threshold, not at it
    assert (true_rates <= 0.1).mean() >= 0.95


def test_a_confidence_raises_the_threshold_and_is_said():
    scores = [k / 100 for k in range(100)]
    mean = fitted(scores, rate=0.05)
    sure = mean.with_rate(0.05, 0.95)
    assert mean.threshold == pytest.approx(0.95 + 1e-4)
    assert sure.threshold == pytest.approx(0.98 + 1e-4)
    assert sure.rate_with_confidence(0.95) <= 0.05 < mean.rate_with_confidence(0.95)
    assert "95% confidence" in sure.guarantee()
    assert Calibration.from_dict(json.loads(json.dumps(sure.to_dict()))) == sure
    assert sure.guarantee_note() is None
    few = fitted(scores[:40], rate=0.05).with_rate(0.05, 0.95)
    assert "which takes 59: give 19 more good images" in few.guarantee_note()


def test_the_highest_confidence_that_there_is_has_a_bound_and_is_no_certainty():
    confidence = float(np.nextafter(1, 0))
    assert 0.999 < rate_bound(2, 1, confidence) <= 1
    sure = fitted([0.1, 0.2, 0.3]).with_rate(1.0, confidence)
    assert "with 99.99999999999999% confidence" in sure.guarantee()


@pytest.mark.parametrize("confidence", [-0.1, 1.0, float("nan")])
def test_a_confidence_out_of_its_range_is_refused(confidence):
    with pytest.raises(SettingsError, match=r"--confidence: expected a number in \[0, 1\)"):
        fitted([0.1, 0.2]).with_rate(0.1, confidence)


# --- room above the calibration images


def with_room(scores, room, anomalies, rate=0.01):
    return dataclasses.replace(fitted(scores, rate), room=room, anomalies=(anomalies, anomalies))


@given(
    scores=scores_with_ties,
    room=st.floats(0, 1),
    anomalies=st.floats(0, 1),
    rate=st.sampled_from(RATES).map(float),
    score=close,
)
def test_room_raises_the_threshold_alone_and_decision_and_p_value_still_agree(
    scores, room, anomalies, rate, score
):
    without, with_it = fitted(scores, rate), with_room(scores, room, anomalies, rate)
    assert with_it.good_limit == without.threshold
    top = max(without.threshold, anomalies)
    assert without.threshold <= with_it.threshold <= top + 1e-12
    assert with_it.threshold == pytest.approx(
        without.threshold + room * (top - without.threshold), abs=1e-12
    )
    guaranteed = with_it.guaranteed_false_alarm_rate
    assert guaranteed == without.guaranteed_false_alarm_rate
    assert with_it.is_defective(score) == (with_it.p_value(score) <= guaranteed)
    assert with_it.p_value(score) >= without.p_value(score)  # so the guarantee still holds
    if not without.is_defective(score) or with_it.is_defective(score):
        assert with_it.p_value(score) == without.p_value(score)


def test_half_of_the_way_from_the_good_images_to_the_anomalies():
    calibration = with_room([0.1, 0.2, 0.3], 0.5, 0.7)
    assert calibration.threshold == pytest.approx(0.5, abs=TOLERANCE)
    assert calibration.pixel_threshold == pytest.approx(0.5, abs=TOLERANCE)
    assert not calibration.is_defective(0.4)
    assert calibration.is_defective(0.6)
    assert "raised from 0.3001" in calibration.set_by()
    assert "--room" not in with_room([0.1, 0.2, 0.3], 0.0, 0.7).set_by()


def test_there_is_no_room_where_anomalies_score_as_good_images_do():
    calibration = with_room([0.1, 0.9], 1.0, 0.5)
    assert calibration.threshold == fitted([0.1, 0.9]).threshold
    assert "--room 1 changes nothing" in calibration.set_by()


@pytest.mark.parametrize(
    ("good", "anomalies", "threshold"),
    [
        (0.3, 0.5, 0.4),  # half of the way
        (0.3, 0.7, 0.5),
        (0.3, 1.0, 0.5),  # but not above what is as likely a defect as none
        (0.6, 1.0, 0.6),  # which good images may already be
        (0.3, 0.2, 0.3),
    ],
)
def test_auto_is_half_of_the_way_but_not_above_a_half(good, anomalies, threshold):
    calibration = with_room([0.1, good], "auto", anomalies)
    assert calibration.threshold == pytest.approx(threshold, abs=TOLERANCE)
    assert calibration.pixel_threshold == pytest.approx(threshold, abs=TOLERANCE)
    assert calibration.good_limit == pytest.approx(good, abs=TOLERANCE)
    assert ("(--room auto)" in calibration.set_by()) == (threshold > good)
    assert ("--room" in calibration.set_by()) == (threshold > good)


@pytest.mark.parametrize("room", [0.5, "auto"])
def test_room_is_kept_with_a_calibration(room):
    calibration = with_room([0.1, 0.2], room, 0.7)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    assert calibration.with_rate(0.5).room == room


def test_another_room_is_taken():
    calibration = with_room([0.1, 0.2], 0.5, 0.7)
    assert calibration.with_rate(0.5, room=0.25).room == 0.25
    assert calibration.with_rate(0.5, room="auto").room == "auto"


def test_a_calibration_of_before_has_no_room():
    values = fitted([0.1, 0.2]).to_dict()
    del values["room"]
    assert "anomalies" not in values
    assert Calibration.from_dict(values).threshold == values["threshold"] + 0
    assert Calibration.from_dict(values).room == 0


@pytest.mark.parametrize("room", [-0.1, 1.1, float("nan"), "half", True])
def test_room_is_a_fraction_or_auto(room):
    with pytest.raises(SettingsError, match=r"--room: expected auto, or a number in \[0, 1\], got"):
        with_room([0.1], room, 0.5)
