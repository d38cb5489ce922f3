import dataclasses
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from destseg.config import Settings
from destseg.errors import DataError, SettingsError
from destseg.inference.calibration import TOLERANCE, Calibration
from destseg.monitoring.drift import Drift, load_state, save_state
from destseg.monitoring.martingale import Jumper, alarm_level
from reference import drift as reference

SCORES = st.lists(st.integers(0, 12).map(lambda k: k / 16), max_size=14)


def calibration(scores, weights: str = "abc", rate: float = 0.1) -> Calibration:
    settings = Settings.from_preset(max_false_alarm_rate=rate)
    return Calibration.fit(scores, scores, [str(i) for i in range(len(scores))], settings, weights)


def chances(seed: int, count: int) -> list[float]:
    return [random.Random(f"{seed}/{number}").random() for number in range(1, count + 1)]


def played(p_values) -> Jumper:
    jumper = Jumper()
    for p_value in p_values:
        jumper = jumper.bet(p_value)
    return jumper


def good_scores(rng: np.random.Generator, count: int) -> list[float]:
    return rng.beta(2, 8, count).tolist()


# --- the gambler


@how(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_the_capital_is_the_mean_of_simple_jumpers_that_begin_at_each_image(p_values):
    for count, expected in enumerate(reference.martingale(p_values), 1):
        got = played(p_values[:count]).log10_capital
        assert got == pytest.approx(math.log10(expected), abs=1e-12)


def test_the_capital_begins_at_one_and_the_first_bet_is_none():
    assert Jumper().log10_capital == pytest.approx(0, abs=1e-15)
    # Equal accounts for small and large p-values win and lose the same.
    for p_value in (0.0, 0.3, 1.0):
        assert played([p_value]).log10_capital == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("p_value", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_two_bets_in_closed_form(p_value):
    """The first gambler has 1/2; each side has won or lost 0.99 x at its second bet."""
    x = p_value - 0.5
    first = 1 + 0.99 * 2 / 3 * x * x
    # The second has 1/6 and does not win yet; 1/3 is not paid in.
    expected = first / 2 + 1 / 6 + 1 / 3
    assert 10 ** played([p_value, p_value]).log10_capital == pytest.approx(expected, rel=1e-14)


@how(max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_every_bet_is_fair(p_values):
    """Linear in p, so its mean over a uniform p is the mean of its two ends."""
    jumper = played(p_values)
    ends = [10 ** jumper.bet(p).log10_capital for p in (0.0, 1.0)]
    assert sum(ends) / 2 == pytest.approx(10**jumper.log10_capital, rel=1e-12)
    assert sum(jumper.accounts) == pytest.approx(1, abs=1e-12)


def test_a_gambler_who_always_wins_does_not_overflow():
    jumper = played([0.0] * 5000)
    # One who has all in one account wins 1.5 each time, less the 2/3 of a hundredth that jumps.
    assert 5000 * math.log10(1.48) < jumper.log10_capital < 5000 * math.log10(1.5)
    assert jumper.accounts[0] > 0.97
    assert math.isfinite(jumper.bet(1.0).log10_capital)


@pytest.mark.parametrize("count", [100, 3000])
def test_the_capital_never_falls_below_what_is_not_yet_paid_in(count):
    rng = np.random.default_rng(count)
    assert 10 ** played(rng.random(count)).log10_capital > 1 / (count + 2)
    worst = played([0.0, 1.0] * (count // 2))
    assert 10**worst.log10_capital > 1 / (count + 2)


@pytest.mark.parametrize(("rate", "level"), [(0.01, 2), (0.1, 1), (1e-6, 6)])
def test_the_level_is_one_over_the_rate(rate, level):
    assert alarm_level(rate) == pytest.approx(level, abs=1e-12)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(rate):
    with pytest.raises(SettingsError, match="--alarm-rate: expected a number between 0 and 1"):
        alarm_level(rate)


# --- the p-values


@how(max_examples=150)
@given(
    calibration_images=SCORES.filter(len),
    scores=SCORES,
    seed=st.integers(0, 5),
    rate=st.floats(0.05, 1),
)
def test_steps_are_those_of_the_definitions(calibration_images, scores, seed, rate):
    """Few different values, so that ties are the rule and some lie at the threshold."""
    fitted = calibration(calibration_images, rate=rate)
    start = Drift.start(fitted, seed)
    limit = fitted.threshold - 2 * TOLERANCE  # the steps of the scores are far larger
    assert list(start.scores) == sorted(s for s in calibration_images if s < limit)
    after, steps = start.extend(scores)
    compared = [score for score in scores if score < limit]
    expected = reference.p_values(start.scores, compared, chances(seed, len(compared)))
    assert [step.p_value for step in steps if step.p_value is not None] == pytest.approx(expected)
    assert [step.p_value is not None for step in steps] == [s < limit for s in scores]
    capital = iter(reference.martingale([Fraction(p) for p in expected]))
    now, highest, at = Fraction(1), Fraction(1), 0
    for number, step in enumerate(steps, 1):
        now = next(capital) if step.p_value is not None else now
        assert step.log10_martingale == pytest.approx(math.log10(now), abs=1e-12)
        if now > highest * (1 + Fraction(1, 10**9)):
            highest, at = now, number
    assert after.highest == pytest.approx(math.log10(highest), abs=1e-8)
    assert after.highest_at == at or highest == 1
    assert after.images == len(scores)
    assert after.jumper.played == len(compared)
    assert list(after.scores) == sorted([*start.scores, *compared])


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("calibration_images", [1, 8, 200])
def test_p_values_are_uniform_and_independent_without_a_change(calibration_images, levels):
    """Kolmogorov's and Smirnov's distance over many lines, also of neighbours' sums modulo 1."""
    rng = np.random.default_rng(calibration_images)
    rows = []
    for line in range(100):
        scores = rng.beta(2, 8, calibration_images + 40)
        scores = np.floor(scores * levels) / levels if levels else scores
        # The rate makes the threshold the highest calibration score.
        start = Drift.start(calibration(scores[:calibration_images].tolist(), rate=1e-3), seed=line)
        _, steps = start.extend(scores[calibration_images:].tolist())
        rows.append([step.p_value for step in steps if step.p_value is not None])
    single = [p for row in rows for p in row]
    pairs = [(a + b) % 1 for row in rows for a, b in zip(row[::2], row[1::2], strict=False)]
    for values in (single, pairs):
        assert len(values) > 100
        ordered = np.sort(values)
        ranks = np.arange(len(ordered) + 1) / len(ordered)
        distance = max(np.abs(ordered - ranks[1:]).max(), np.abs(ordered - ranks[:-1]).max())
        assert distance * math.sqrt(len(ordered)) < 1.8  # its chance is 0.3 %
    # A fixed bag would make all of a line's p-values lean one way: the lines' means would spread.
    long = [(np.mean(row) - 0.5) * math.sqrt(12 * len(row)) for row in rows if len(row) >= 5]
    assert len(long) > 40
    assert np.std(long) == pytest.approx(1, abs=0.25)


def test_the_seed_orders_equal_scores_and_nothing_else():
    start = calibration([0.1, 0.2, 0.3, 0.9])
    same = [Drift.start(start, seed).extend([0.2] * 5)[1] for seed in (1, 1, 2)]
    assert same[0] == same[1]
    assert same[0] != same[2]
    for seed in range(20):
        (step,) = Drift.start(start, seed).extend([0.25])[1]
        assert step.p_value is not None
        assert 1 / 4 <= step.p_value < 2 / 4  # one of three is higher


# --- alarms


@pytest.mark.parametrize("calibration_images", [5, 100])
def test_false_alarms_are_as_rare_as_guaranteed(calibration_images):
    rng = np.random.default_rng(calibration_images)
    lines, rate = 300, 0.1
    alarms = 0
    for line in range(lines):
        start = Drift.start(calibration(good_scores(rng, calibration_images)), seed=line)
        alarms += start.extend(good_scores(rng, 250))[0].is_alarm(rate)
    assert alarms / lines <= rate + 3 * math.sqrt(rate * (1 - rate) / lines)


@pytest.mark.parametrize(
    ("before", "factor", "within"),
    [(300, 1.5, 250), (300, 0.5, 80), (10_000, 1.5, 600), (10_000, 0.5, 150)],
)
def test_a_shift_is_found_soon_also_after_long_quiet(before, factor, within):
    """The middle one of five lines; one Simple Jumper from the start takes twice as long at last.

    With factor 1.5 a part of the images is above the threshold, and not seen here.
    """
    rng = np.random.default_rng(before)
    needed, single = [], []
    for line in range(5):
        start = Drift.start(calibration(good_scores(rng, 100), rate=0.01), seed=line)
        quiet, early = start.extend(good_scores(rng, before))
        assert not quiet.is_alarm(0.01)
        moved = [min(1, factor * score) for score in good_scores(rng, 3 * within)]
        shifted, late = quiet.extend(moved)
        assert shifted.highest_at > before
        assert (shifted.highest_lean > 0) == (factor > 1)
        needed.append(first_at(2, [step.log10_martingale for step in late]))
        p_values = [(i, s.p_value) for i, s in enumerate(early + late) if s.p_value is not None]
        capital = simple_jumper([p for _, p in p_values])
        when = first_at(2, capital)
        single.append(p_values[when][0] - before if when < len(capital) else math.inf)
    assert np.median(needed) < within
    assert before < 10_000 or np.median(single) > 1.5 * np.median(needed)


def first_at(level: float, values: list[float]) -> int:
    return next((i for i, value in enumerate(values) if value >= level), len(values))


def simple_jumper(p_values: list[float]) -> list[float]:
    """One that begins at the first image, as published; decimal logarithms."""
    accounts, log10, result = [1 / 3] * 3, 0.0, []
    for p in p_values:
        accounts = [0.99 * money + 0.01 / 3 for money in accounts]
        accounts = [accounts[0] * (1.5 - p), accounts[1], accounts[2] * (0.5 + p)]
        log10 += math.log10(sum(accounts))
        accounts = [money / sum(accounts) for money in accounts]
        result.append(log10)
    return result


def test_an_alarm_stays():
    rng = np.random.default_rng(0)
    start = Drift.start(calibration(good_scores(rng, 200)))
    alarmed, _ = start.extend([0.2 + score / 4 for score in good_scores(rng, 60)])
    assert alarmed.is_alarm(0.01)
    later, steps = alarmed.extend(good_scores(rng, 5000))
    assert steps[-1].log10_martingale < 2
    assert later.is_alarm(0.01)
    assert later.highest >= alarmed.highest


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_what_is_no_score_is_refused(score):
    with pytest.raises(DataError, match=r"expected image scores in \[0, 1\], got"):
        Drift.start(calibration([0.1, 0.2])).extend([0.1, score])


# --- going on after a restart


@how(max_examples=60)
@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 40), st.integers(0, 9))
def test_going_on_from_json_is_as_if_never_interrupted(scores, cut, seed):
    start = Drift.start(calibration([0.2, 0.4, 0.6, 0.9]), seed)
    whole, steps = start.extend(scores)
    first, early = start.extend(scores[:cut])
    again = Drift.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    assert again == first
    last, late = again.extend(scores[cut:])
    assert last == whole
    assert early + late == steps


def test_a_state_is_a_value_that_extending_leaves_alone():
    start = Drift.start(calibration([0.1, 0.2, 0.3]))
    before = dataclasses.asdict(start)
    start.extend([0.05, 0.15])
    assert dataclasses.asdict(start) == before
    assert start.extend([]) == (start, [])


def test_a_saved_state_is_loaded_for_its_own_model_and_threshold_only(tmp_path):
    fitted = calibration([0.1, 0.2, 0.3])
    path = tmp_path / "deep" / "line.json"
    drift, _ = Drift.start(fitted).extend([0.15, 0.12])
    save_state(path, drift)
    assert load_state(path, fitted) == drift
    with pytest.raises(DataError, match="weights_sha256: the state has abc, the model other") as no:
        load_state(path, calibration([0.1, 0.2, 0.3], "other"))
    assert "threshold:" not in str(no.value)
    assert str(path) in str(no.value)
    with pytest.raises(DataError, match=r"threshold: the state has 0\.3001, the model 0\.2001"):
        load_state(path, calibration([0.1, 0.2, 0.3], rate=0.5))


def test_a_state_is_of_one_calibration_though_another_has_room_up_to_the_same_threshold(tmp_path):
    one, other = (
        dataclasses.replace(calibration(scores), room="auto", anomalies=(0.9, 0.9))
        for scores in ([0.1, 0.2, 0.3], [0.1, 0.2, 0.4])
    )
    assert one.threshold == other.threshold
    save_state(tmp_path / "state.json", Drift.start(one))
    assert load_state(tmp_path / "state.json", one) == Drift.start(one)
    with pytest.raises(DataError, match="limit: the state has"):
        load_state(tmp_path / "state.json", other)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"format": 2},
        {"format": "x"},
        {"scores": [0.2, 0.1, 0.1, 0.15]},
        {"scores": [0.1, 0.2, 0.3, 0.9]},
        {"scores": [float("nan")] * 4},
        {"scores": []},
        {"scores": None},
        {"images": 1},
        {"highest_at": 7},
        {"highest": float("inf")},
        {"seed": float("inf")},
        {"jumper": {"played": 2, "log_invested": 0.0, "accounts": [1, 1, 1]}},
        {"jumper": {"played": 2, "log_invested": 0.0, "accounts": [1, 0]}},
        {"jumper": {"played": -1, "log_invested": 0.0, "accounts": [1, 0, 0]}},
        {"jumper": [1]},
    ],
)
def test_a_damaged_state_is_refused(change, tmp_path):
    fitted = calibration([0.1, 0.2, 0.3])
    drift, _ = Drift.start(fitted).extend([0.15, 0.12])
    path = tmp_path / "line.json"
    path.write_text(json.dumps({**drift.to_dict(), **change}), encoding="utf-8")
    with pytest.raises(DataError, match="expected a state that destseg drift wrote"):
        load_state(path, fitted)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b"\xff\xfe", b'{"format": 1}'])
def test_what_is_no_state_is_refused(content, tmp_path):
    path = tmp_path / "line.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected a state that destseg drift wrote"):
        load_state(path, calibration([0.1]))
