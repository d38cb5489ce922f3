"""Calibration by groups against the formula written out, and against simulated groups."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from destseg.config import Settings
from destseg.errors import DataError, SettingsError
from destseg.inference.calibration import EARLIER, TOLERANCE, Calibration
from destseg.inference.votes import Votes

DRAWS = 10_000


def fitted(scores, groups, rate=0.05, confidence=0.0, peaks=None) -> Calibration:
    settings = Settings.from_preset(
        max_false_alarm_rate=rate, confidence=confidence, group_by="folder"
    )
    paths = [f"{number:03}.png" for number in range(len(scores))]
    named = None if groups is None else [f"day {group}" for group in groups]
    peaks = scores if peaks is None else peaks
    return Calibration.fit(scores, peaks, paths, settings, "a" * 64, groups=named)


grouped = st.lists(
    st.tuples(st.sampled_from([0, 0.1, 0.2, 0.3, 0.5, 1]) | st.floats(0, 1), st.integers(0, 5)),
    min_size=1,
    max_size=30,
)


@given(images=grouped, score=st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_a_p_value_is_one_vote_a_group(images, score):
    """(1 + sum over groups of the fraction at or above) / (K + 1), in exact arithmetic."""
    scores, groups = zip(*images, strict=True)
    total = Fraction(1)
    for group in set(groups):
        own = [value for value, other in images if other == group]
        total += Fraction(sum(min(1, value + TOLERANCE) >= score for value in own), len(own))
    assert fitted(scores, groups).p_value(score) == float(total / (len(set(groups)) + 1))


@given(images=grouped, rate=st.floats(1e-6, 1), score=st.floats(0, 1), sure=st.booleans())
def test_decision_threshold_and_p_value_say_the_same(images, rate, score, sure):
    scores, groups = zip(*images, strict=True)
    calibration = fitted(scores, groups, rate, 0.8 if sure else 0.0)
    guaranteed = calibration.guaranteed_false_alarm_rate
    k = len(set(groups))
    assert guaranteed <= max(rate, 1 / (k + 1)) + 1e-9 or sure
    above = math.nextafter(calibration.threshold, 2)
    for each in (score, calibration.threshold, min(above, 1.0), *scores):
        defective = calibration.is_defective(each)
        assert defective == (each > calibration.threshold)
        assert defective == (calibration.p_value(each) <= guaranteed)


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    rate=st.floats(1e-6, 1),
    score=st.floats(0, 1),
    confidence=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_groups_of_one_image_are_as_no_groups(scores, rate, score, confidence):
    """To the last bit: one mechanism."""
    each, none = (fitted(scores, groups, rate, confidence) for groups in (range(len(scores)), None))
    for what in ("threshold", "pixel_threshold", "guaranteed_false_alarm_rate", "tie_limit"):
        assert getattr(each, what) == getattr(none, what)
    assert each.p_value(score) == none.p_value(score)
    assert each.threshold_images == none.threshold_images
    assert each.rate_with_confidence(0.9) == none.rate_with_confidence(0.9)


@given(images=grouped, rate=st.floats(0.01, 1))
def test_the_threshold_is_the_lowest_score_that_keeps_the_rate(images, rate):
    scores, groups = zip(*images, strict=True)
    calibration = fitted(scores, groups, rate)
    k = len(set(groups))
    keeps = [
        score
        for score in scores
        if 1 + sum(Fraction(other > score, groups.count(of)) for other, of in images)
        <= rate * (k + 1) + 1e-9
    ]
    expected = min(keeps, default=max(scores))
    # Of equal scores some may be above the place of the threshold, which is then no lower.
    assert calibration.threshold == min(1, expected + TOLERANCE) or scores.count(expected) > 1


def test_a_large_group_does_not_outvote_the_others():
    """99 images of one day say as much as one of another."""
    calibration = fitted([k / 1000 for k in range(99)] + [0.5], [0] * 99 + [1], 0.5)
    assert calibration.p_value(0.4) == pytest.approx((1 + 1) / 3)
    assert fitted([k / 1000 for k in range(99)] + [0.5], None, 0.5).p_value(0.4) == 2 / 101


def test_regions_are_calibrated_by_votes_too():
    peaks = [0.9, 0.2, 0.3, 0.4]
    calibration = fitted([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 0.5, peaks=peaks)
    # Allowed are 0.5 * 3 - 1 votes above: one image of a group of two.
    assert calibration.threshold == 0.3 + TOLERANCE
    assert calibration.pixel_threshold == 0.4 + TOLERANCE
    sure = calibration.with_rate(0.95, 0.5)
    assert sure.pixel_threshold == 0.4 + TOLERANCE  # the second group's highest
    assert sure.threshold == 0.2 + TOLERANCE


def test_votes_are_exact_whatever_the_sizes():
    sizes = range(1, 60)
    groups = [group for group in sizes for _ in range(group)]
    votes = Votes.of(list(range(len(groups))), groups)
    assert votes.at_or_above[0] == votes.parts * len(sizes)
    assert votes.p_value(0) == 1


# --- what is guaranteed, simulated: groups with levels of their own, as days have


def drawn(rng, sizes, levels=None, draws=DRAWS):
    """Scores [draws, n] of calibration images, and [draws] of a new image of a new group."""
    spread = rng.normal(0, 1, (draws, len(sizes) + 1))  # the day's
    groups = np.repeat(np.arange(len(sizes)), sizes)
    own = rng.normal(0, 0.5, (draws, len(groups) + 1))
    # One day in ten is a bad one: all of its images score high.
    spread += 5 * (rng.random(spread.shape) < 0.1)
    scores = own + np.hstack([spread[:, groups], spread[:, -1:]])
    if levels:
        scores = np.floor(scores * levels) / levels
    return scores[:, :-1], scores[:, -1], groups


def p_values(scores, new, groups):
    """The formula with NumPy alone: one vote a group."""
    sizes = np.bincount(groups)
    votes = ((scores >= new[:, None]) / sizes[groups]).sum(axis=1)
    return (1 + votes) / (len(sizes) + 1)


SIZES = {
    "20 groups of 5": [5] * 20,
    "25 groups of 1 to 50": [1, 2, 3, 5, 50] * 5,
    "19 of 1, one of 200": [1] * 19 + [200],
    "4 groups of 30": [30] * 4,
    "3 groups of 1, 1 and 2": [1, 1, 2],
    "one group of 40": [40],
    "30 images by themselves": [1] * 30,
}


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_new_image_of_a_new_group_is_flagged_no_more_often_than_guaranteed(sizes, rate, levels):
    rng = np.random.default_rng(len(sizes))
    scores, new, groups = drawn(rng, sizes, levels)
    guaranteed = fitted(np.zeros(len(groups)).tolist(), groups, rate).guaranteed_false_alarm_rate
    alarms = (p_values(scores, new, groups) <= guaranteed + 1e-12).mean()
    assert alarms <= guaranteed + 3 * math.sqrt(guaranteed * (1 - guaranteed) / DRAWS)


def test_images_that_count_one_by_one_would_not_keep_it():
    """What groups are for: the same draws, each image with a vote of its own."""
    scores, new, _ = drawn(np.random.default_rng(0), [50] * 4)
    alarms = ((1 + (scores >= new[:, None]).sum(axis=1)) / 201 <= 0.05).mean()
    assert alarms > 0.1


def test_groups_whose_sizes_go_with_their_scores_keep_it_too():
    """Bad days have more images: sizes are part of what is exchangeable."""
    rng = np.random.default_rng(5)
    alarms = []
    for _ in range(2000):
        bad = rng.random(13) < 0.3
        sizes = np.where(bad, rng.integers(5, 20, 13), 1)[:12]
        level = rng.normal(0, 1, 13) + 3 * bad
        groups = np.repeat(np.arange(12), sizes)
        scores = rng.normal(level[groups], 0.5)[None]
        alarms.append(p_values(scores, rng.normal(level[12:], 0.5), groups)[0] <= 0.2)
    assert np.mean(alarms) <= 0.2 + 3 * math.sqrt(0.16 / 2000)


@pytest.mark.parametrize("name", ["20 groups of 5", "25 groups of 1 to 50", "4 groups of 30"])
def test_the_simulations_p_value_is_the_calibrations(name):
    rng = np.random.default_rng(1)
    scores, new, groups = drawn(rng, SIZES[name], draws=20)
    low, high = min(scores.min(), new.min()), max(scores.max(), new.max())
    scores, new = (scores - low) / (high - low), (new - low) / (high - low)
    for row, each, expected in zip(scores, new, p_values(scores, new, groups), strict=True):
        calibration = fitted(row.tolist(), groups, 0.1)
        if np.abs(row - each).min() > TOLERANCE:
            assert calibration.p_value(each) == pytest.approx(expected)
            assert calibration.is_defective(each) == (
                expected <= calibration.guaranteed_false_alarm_rate
            )


@pytest.mark.parametrize("rate", [0.1, 0.3])
@pytest.mark.parametrize("sizes", [[4] * 30, [1, 2, 9] * 20, [7]], ids=["30", "60", "1"])
def test_with_a_confidence_that_many_lines_keep_the_rate(sizes, rate):
    """10,000 draws of groups whose true rate above any threshold is known.

    A group has an image above t with the chance that its level is, and each of its images then
    half of the time: the rate of a new image of a new group is half of 1 - t.
    """
    rng = np.random.default_rng(len(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    level = rng.random((DRAWS, len(sizes)))
    scores = np.where(rng.random((DRAWS, len(groups))) < 0.5, level[:, groups], 0.0)
    calibration = fitted(np.linspace(0, 1, len(groups)).tolist(), groups, rate, 0.95)
    rank = int(calibration._allowed)
    highest = np.stack([scores[:, groups == g].max(axis=1) for g in range(len(sizes))], axis=1)
    threshold = np.sort(highest, axis=1)[:, -1 - rank]
    bound = calibration.rate_with_confidence(0.95)
    true_rate = (1 - threshold) / 2
    assert (true_rate <= bound).mean() >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / DRAWS)
    assert (bound <= rate) == (calibration.guarantee_note() is None)
    # The same through the calibration itself.
    for row, expected in zip(scores[:20], threshold, strict=False):
        own = fitted(row.tolist(), groups, rate, 0.95)
        assert own.threshold == pytest.approx(min(1, expected + TOLERANCE))
        assert own.rate_with_confidence(0.95) == bound


def test_with_a_confidence_images_that_are_all_of_the_day_keep_the_bound_and_no_more():
    """The hardest case: a day's images all score alike, so its highest is as good as any."""
    rng = np.random.default_rng(2)
    calibration = fitted([k / 180 for k in range(180)], [k // 3 for k in range(180)], 0.05, 0.95)
    level = np.sort(rng.random((DRAWS, 60)), axis=1)
    true_rate = 1 - level[:, -1 - int(calibration._allowed)]
    kept = (true_rate <= calibration.rate_with_confidence(0.95)).mean()
    assert kept == pytest.approx(0.95, abs=0.01)


def test_a_bound_whose_number_hangs_on_the_scores_is_not_claimed():
    images = [(0.9, 0), *((k / 1000, 0) for k in range(9)), *((k / 100, k) for k in range(1, 10))]
    scores, groups = zip(*images, strict=True)
    calibration = fitted(scores, groups, 0.2)
    assert calibration.threshold == 0.08 + TOLERANCE  # 1.1 votes above, of 1.2
    assert calibration.rate_with_confidence(0.95) is None
    assert calibration.guarantee() == (
        "at most 20.00% false alarms in the mean, for a new image of a new group"
    )
    highest = calibration.with_rate(0.05)  # nothing is above the highest score, whatever the scores
    assert highest.rate_with_confidence(0.95) == pytest.approx(1 - 0.05 ** (1 / 10))
    assert "with 95% confidence, for a new image of a new group" in highest.guarantee()
    assert calibration.with_rate(0.2, 0.95).rate_with_confidence(0.95) is not None


# --- what is said of groups


def test_few_groups_are_told_with_the_numbers():
    note = fitted([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 2], 0.05).guarantee_note()
    assert note is not None
    assert "with calibration images of 3 groups" in note
    assert "guarantees a false-alarm rate of 25.00%, not of 5.00%, which takes 19 groups" in note
    assert "images of 16 more groups" in note
    assert fitted([0.1] * 38, [k // 2 for k in range(38)], 0.05).guarantee_note() is None
    sure = fitted([0.1] * 58, range(58), 0.05, 0.95).guarantee_note()
    assert "with 95% confidence, not of 5.00%, which takes 59 groups" in sure
    assert "images of another group as" in sure


def test_one_group_is_told_in_plain_words_even_where_the_rate_is_kept():
    for rate in (0.05, 0.9):
        note = fitted([0.1, 0.2], [1, 1], rate).guarantee_note()
        assert "all calibration images are of one group, day 1, so the threshold knows" in note
        assert "--add" in note


def test_the_scores_of_each_group_by_name():
    calibration = fitted([0.4, 0.1, 0.2, 0.3], [2, 1, 1, 1])
    assert [dataclasses.astuple(each) for each in calibration.by_group()] == [
        ("day 1", 3, 0.2, 0.3),
        ("day 2", 1, 0.4, 0.4),
    ]
    assert fitted([0.1], None).by_group() == ()


def test_groups_go_into_the_file_and_an_older_file_has_none():
    calibration = fitted([0.4, 0.1, 0.2], [2, 1, 1])
    text = json.dumps(calibration.to_dict())
    assert Calibration.from_dict(json.loads(text)) == calibration
    assert json.loads(text)["groups"] == ["day 1", "day 1", "day 2"]
    none = fitted([0.4, 0.1], None).to_dict()
    assert not {"groups", "group_by"} & set(none)
    assert Calibration.from_dict(none).group_by == "image"


def test_a_group_of_each_image_is_expected():
    with pytest.raises(DataError, match="a group of each of 2 calibration images, got 1"):
        dataclasses.replace(fitted([0.1, 0.2], [1, 1]), groups=("a",))
    with pytest.raises(DataError, match="a group of each of 2 calibration images, got 1"):
        fitted([0.1, 0.2], [1])


# --- another occasion is added


def renamed(calibration: Calibration, prefix: str) -> Calibration:
    return dataclasses.replace(
        calibration, paths=tuple(prefix + path for path in calibration.paths)
    )


def test_adding_is_as_fitting_to_all():
    first = fitted([0.1, 0.5, 0.3], [0, 0, 1], 0.4, peaks=[0.6, 0.7, 0.5])
    more = renamed(fitted([0.2, 0.4], [2, 2], 0.4, peaks=[0.3, 0.9]), "new/")
    both = fitted([0.1, 0.5, 0.3, 0.2, 0.4], [0, 0, 1, 2, 2], 0.4, peaks=[0.6, 0.7, 0.5, 0.3, 0.9])
    added = first.with_more(more)
    for what in ("scores", "peaks", "groups", "threshold", "pixel_threshold", "group_by"):
        assert getattr(added, what) == getattr(both, what)
    assert added.paths == ("000.png", "new/000.png", "002.png", "new/001.png", "001.png")


def test_images_of_unknown_groups_have_one_vote_together():
    added = fitted([0.1, 0.2], None).with_more(renamed(fitted([0.3], [4]), "new/"))
    assert added.groups == (EARLIER, EARLIER, "day 4")
    none = fitted([0.1, 0.2], None).with_more(renamed(fitted([0.3], None), "new/"))
    assert none.groups is None
    assert none.scores == (0.1, 0.2, 0.3)


def test_what_cannot_be_added_is_refused():
    first = fitted([0.1, 0.2], [0, 1])
    with pytest.raises(DataError, match=r"got 2 that are: 000\.png, 001\.png"):
        first.with_more(fitted([0.3, 0.4], [2, 2]))
    other = dataclasses.replace(renamed(fitted([0.3], [2]), "new/"), group_by="day")
    with pytest.raises(SettingsError, match=r"--group-by: expected 'folder', .* got 'day'"):
        first.with_more(other)
    with pytest.raises(SettingsError, match=r"--group-by: expected 'folder', .* got 'image'"):
        first.with_more(renamed(fitted([0.3], None), "new/"))


@pytest.mark.parametrize(
    ("before", "more"), [("mon/cam", "cam"), ("cam", "mon/cam"), ("lots/mon/cam", "mon/cam")]
)
def test_a_folder_that_may_be_there_under_another_name_gets_no_second_vote(before, more):
    """As seen from days/ it is mon/cam, and given by itself cam."""

    def called(name, scores, group_by="folder"):
        some = dataclasses.replace(
            fitted(scores, [0] * len(scores)), groups=(name,) * len(scores), group_by=group_by
        )
        return renamed(some, f"{name}/")

    first = called(before, [0.1, 0.2])
    with pytest.raises(DataError, match=rf"--group-by folder: .* got {more}, .* be {before} in it"):
        first.with_more(called(more, [0.3, 0.4]))
    assert len(first.with_more(renamed(called(before, [0.3]), "new/")).by_group()) == 1
    assert len(first.with_more(called("tue/cam2", [0.3])).by_group()) == 2
    # What a column or a pattern says is a name, and no path.
    lots = called(before, [0.1], "column:lot").with_more(called(more, [0.3], "column:lot"))
    assert len(lots.by_group()) == 2
