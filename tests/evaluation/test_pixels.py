"""Pixel metrics, exact and bounded, against literal versions, others' code and closed forms."""

import dataclasses
import math
import time
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from destseg.errors import DataError
from destseg.evaluation.pixels import (
    PixelCounts,
    aupro,
    iap,
    iap_at,
    pixel_curves,
    pixel_metrics,
)
from destseg.evaluation.score_bins import BINS, bins_of, lowest_scores
from reference import metrics as literal

NAMES = ["auroc", "ap", "f1_max", "aupro", "iap", "iap_90"]
BOTH = pytest.mark.parametrize("exact", [True, False], ids=["exact", "bounded"])
# Far enough apart for every bin, with ties, the ends, and neighbours of the ends.
VALUES = st.sampled_from([0.0, -0.0, 1e-30, 1e-6, 0.25, 0.5, 0.75, 1 - 2**-20, 1 - 2**-24, 1.0])


@st.composite
def tiny_sets(draw, values=VALUES):
    """A few small maps with masks that touch borders and corners; both classes are present."""
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
        mask = draw(hnp.arrays(bool, shape))
        pairs.append((draw(hnp.arrays(np.float32, shape, elements=values)), mask))
    two = np.array([draw(VALUES), draw(VALUES)], dtype=np.float32)[None]
    return [*pairs, (two, np.array([[True, False]]))]


def realistic(kind, count=16, size=128, seed=0):
    """Maps as a network gives them: a sigmoid of smooth noise and of blurred, shifted defects."""
    bias, scale = {"plain": (-3, 1), "near 0": (-12, 2), "near 1": (9, 2), "both": (-10, 8)}[kind]
    rng, pairs = np.random.default_rng(seed), []
    for index in range(count):
        mask = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(1, 4) if index % 4 else 0):
            centre, axes = rng.integers(0, size, 2).tolist(), rng.integers(2, size // 6, 2).tolist()
            cv2.ellipse(mask, centre, axes, int(rng.integers(180)), 0, 360, 1, -1)
        noise = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 3) * 8
        signal = cv2.GaussianBlur(np.roll(mask, 2, axis=1).astype(np.float32), (0, 0), 3)
        logits = bias + scale * (noise + 8 * rng.uniform(0.2, 1) * signal)
        pairs.append(((1 / (1 + np.exp(-logits))).astype(np.float32), mask > 0))
    return pairs


def flat(pairs):
    maps, masks = zip(*pairs, strict=True)
    return np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])


def close(one, other, tolerance=1e-12):
    for name in NAMES:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours == pytest.approx(theirs, abs=tolerance, nan_ok=True), name
    assert (one.instances, one.reasons) == (other.instances, other.reasons)


@BOTH
def test_what_is_not_inspected_does_not_count(exact):
    """Half of each image: the metrics are those of the other halves alone."""
    pairs = realistic("plain", count=6)
    counts = PixelCounts.empty(exact=exact)
    inspected = np.zeros((128, 128), bool)
    inspected[:, 40:] = True
    for anomaly_map, mask in pairs:
        counts.add(anomaly_map * inspected, mask, inspected)
    inside = [(np.ascontiguousarray(m[:, 40:]), np.ascontiguousarray(d[:, 40:])) for m, d in pairs]
    close(counts.metrics(), pixel_metrics(inside, exact=exact))
    labels, scores = flat(inside)
    assert counts.metrics().auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-4)


# The values are all in bins of their own, so that bounded counts must be exact, too.
@BOTH
@given(pairs=tiny_sets())
def test_equals_the_definitions(exact, pairs):
    metrics = pixel_metrics(pairs, exact=exact)
    _, _, regions = literal.collected(pairs)
    assert metrics.instances == len(regions)
    assert metrics.auroc == pytest.approx(literal.auroc(pairs), abs=1e-12)
    assert metrics.ap == pytest.approx(literal.average_precision(pairs), abs=1e-12)
    assert metrics.f1_max == pytest.approx(literal.f1_max(pairs), abs=1e-12)
    assert metrics.aupro == pytest.approx(literal.aupro(pairs), abs=1e-12)
    assert metrics.iap == pytest.approx(literal.iap(pairs), abs=1e-12)
    assert metrics.iap_90 == pytest.approx(literal.iap_at(pairs, 9), abs=1e-12)
    assert metrics.reasons == {}


@BOTH
@given(pairs=tiny_sets(), tenths=st.integers(1, 10))
def test_other_limits_and_recalls(exact, pairs, tenths):
    metrics = pixel_metrics(pairs, exact=exact, fpr_limit=tenths / 10, recall=tenths / 10)
    assert metrics.aupro == pytest.approx(literal.aupro(pairs, tenths / 10), abs=1e-12)
    assert metrics.iap_90 == pytest.approx(literal.iap_at(pairs, tenths), abs=1e-12)


@given(tiny_sets(st.floats(-(2.0**99), 2.0**99, width=32)))
def test_exact_takes_any_finite_values(pairs):
    metrics = pixel_metrics(pairs)
    assert metrics.auroc == pytest.approx(literal.auroc(pairs), abs=1e-12)
    assert metrics.aupro == pytest.approx(literal.aupro(pairs), abs=1e-12)
    assert metrics.iap == pytest.approx(literal.iap(pairs), abs=1e-12)
    assert (aupro(pairs), iap(pairs), iap_at(pairs)) == pytest.approx(
        (metrics.aupro, metrics.iap, metrics.iap_90), nan_ok=True
    )


def test_equals_scikit_learn():
    pairs = realistic("plain")
    labels, scores = flat(pairs)
    metrics = pixel_metrics(pairs)
    assert metrics.auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.ap == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics.f1_max == pytest.approx(f1.max(), abs=1e-12)


@pytest.mark.parametrize("kind", ["plain", "near 0"])
def test_aupro_equals_adeval(kind):
    au_pro = pytest.importorskip("adeval.au_pro", reason="adeval is not installed")
    pairs = realistic(kind, count=6, size=64)
    # Its curve has points at good pixels only; with fewer than all of them it is an estimate.
    good = sum(int((~mask).sum()) for _, mask in pairs)
    theirs, _ = au_pro.calculate_au_pro(
        [mask for _, mask in pairs],
        [maps for maps, _ in pairs],
        integration_limit=0.3,
        num_thresholds=good,
    )
    assert pixel_metrics(pairs).aupro == pytest.approx(theirs, abs=2 / good / 0.3)


@pytest.mark.parametrize("kind", ["plain", "near 0", "near 1", "both"])
@pytest.mark.parametrize("seed", range(3))
def test_bounded_is_within_1e4_of_exact(kind, seed):
    pairs = realistic(kind, count=32, size=192, seed=seed)
    exact, bounded = pixel_metrics(pairs), pixel_metrics(pairs, exact=False)
    assert exact.auroc < 0.9999  # a perfect set would show nothing
    for name in NAMES:
        assert abs(getattr(exact, name) - getattr(bounded, name)) <= 1e-4, name
    assert exact.instances == bounded.instances


@BOTH
def test_closed_forms(exact):
    # Two regions of 1 and 4 pixels that touch only the border, and 11 good pixels.
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = mask[2:, 2:] = True
    perfect = pixel_metrics([(mask.astype(np.float32), mask)], exact=exact)
    assert [getattr(perfect, name) for name in NAMES] == [1.0] * 6
    assert perfect.instances == 2
    inverted = pixel_metrics([((~mask).astype(np.float32), mask)], exact=exact)
    assert (inverted.auroc, inverted.aupro) == (0, 0)
    assert (inverted.ap, inverted.iap, inverted.iap_90) == (5 / 16, 5 / 16, 5 / 16)
    # Only the small region is found: half of the regions, though a fifth of the pixels; from
    # there the curve is straight to (1, 1), and at 0.3 it is at 0.65.
    one = np.zeros((4, 4), np.float32)
    one[0, 0] = 1
    half = pixel_metrics([(one, mask)], exact=exact)
    assert half.aupro == pytest.approx((0.5 + 0.65) / 2)
    assert half.auroc == pytest.approx((0.2 + 1) / 2)
    # The score of the larger region is 0: precisions 5/16 and 1.
    assert half.iap == pytest.approx((5 / 16 + 1) / 2)
    assert half.iap_90 == pytest.approx(5 / 16)


@BOTH
def test_constant_maps_give_the_answers_of_ties(exact):
    mask = np.zeros((4, 5), bool)
    mask[1, 1:3] = True
    for value in (0.0, 0.3, 0.5, 1.0):
        metrics = pixel_metrics([(np.full(mask.shape, value, np.float32), mask)], exact=exact)
        assert metrics.auroc == 0.5
        assert metrics.aupro == pytest.approx(0.15)
        assert metrics.ap == metrics.iap == metrics.iap_90 == pytest.approx(0.1)
        assert metrics.f1_max == pytest.approx(2 * 0.1 / 1.1)


@BOTH
def test_an_instance_is_scored_by_the_middle_of_its_pixels(exact):
    # Falling, index 4 // 2: the third of 4 pixels and the second of 3.
    maps = np.array([[0.9, 0.7, 0.4, 0.2, 0.05, 0.8, 0.6, 0.1, 0.5, 0.65]], np.float32)
    mask = np.array([[1, 1, 1, 1, 0, 1, 1, 1, 0, 0]], bool)
    metrics = pixel_metrics([(maps, mask)], exact=exact)
    # At 0.4: defective 0.9 0.7 0.4 0.8 0.6, good 0.5 0.65.  At 0.6: four and one.
    assert metrics.iap == pytest.approx((5 / 7 + 4 / 5) / 2)
    assert metrics.iap_90 == pytest.approx(5 / 7)


@BOTH
def test_iap_is_monotone_over_rising_scores(exact):
    # The two instances at 0.8 and 0.3; a good pixel of 0.9 makes the higher one less precise.
    maps = np.array([[0.8, 0.0, 0.3, 0.0, 0.9, 0.3]], np.float32)
    mask = np.array([[1, 0, 1, 0, 0, 1]], bool)
    metrics = pixel_metrics([(maps, mask)], exact=exact)
    assert metrics.iap == pytest.approx(3 / 4)  # not (3/4 + 3/4 + 1/2) / 3


@BOTH
@pytest.mark.parametrize("instances", [10, 20, 30, 70])
def test_nine_of_ten_instances_are_ninety_per_cent(exact, instances):
    # Single defective pixels with rising values, and two good ones above each of the lower half:
    # the precision rises with every instance, so that one more or less would show.
    half, ninth = instances // 2, instances // 10
    defective = np.linspace(0.1, 0.9, instances)
    values = np.concatenate([defective, np.repeat(defective[:half] + 1e-4, 2)]).astype(np.float32)
    mask = np.zeros((2 * values.size, 1), bool)
    mask[: 2 * instances : 2] = True  # every other row, so that each is a region
    maps = np.zeros(mask.shape, np.float32)
    maps[::2, 0] = values
    above = instances - ninth
    expected = above / (above + 2 * (half - ninth))
    metrics = pixel_metrics([(maps, mask)], exact=exact)
    assert metrics.instances == instances
    assert metrics.iap_90 == pytest.approx(expected, abs=1e-12)


@BOTH
def test_regions_touching_at_a_corner_are_one(exact):
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    assert pixel_metrics([(np.zeros(mask.shape, np.float32), mask)], exact=exact).instances == 3


@BOTH
@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([np.zeros((2, 3), bool)] * 2, "there is no defective pixel"),
        ([np.ones((2, 3), bool)], "there is no good pixel"),
        ([], "there is no defective and no good pixel"),
    ],
    ids=["good", "defective", "none"],
)
def test_one_class_is_nan_with_a_reason(exact, masks, reason):
    pairs = [(np.full(mask.shape, 0.5, np.float32), mask) for mask in masks]
    metrics = pixel_metrics(pairs, exact=exact)
    assert all(math.isnan(getattr(metrics, name)) for name in NAMES)
    assert metrics.reasons == dict.fromkeys(NAMES, reason)
    assert metrics.instances == sum(bool(mask.any()) for mask in masks)
    assert all(curve.x.size == 0 for curve in pixel_curves(pairs, exact=exact).values())


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "got nan at row 1, column 2"), (-math.inf, r"got -inf at .* \(1 of 6 in all\)")],
)
def test_values_that_are_not_finite_are_named(exact, value, text):
    counts = PixelCounts.empty(exact=exact)
    good = np.zeros((2, 3), np.float32)
    mask = np.array([[True, False, False]] * 2)
    counts.add(good, mask)
    before = counts.metrics()
    wrong = good.copy()
    wrong[1, 2] = value
    with pytest.raises(DataError, match="map 1: expected finite values, " + text):
        counts.add(wrong, mask)
    assert counts.metrics() == before


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounded_refuses_values_out_of_range(value, dtype):
    maps, mask = np.full((1, 2), value, dtype), np.array([[True, False]])
    with pytest.raises(DataError, match=r"map 0: expected values in \[0, 1\], got some from"):
        pixel_metrics([(maps, mask)], exact=False)
    assert pixel_metrics([(maps, mask)]).auroc == 0.5


@BOTH
@pytest.mark.parametrize(
    ("maps", "mask", "text"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), r"one shape \[h, w\], got \(2, 3\) and \(3, 2"),
        (np.ma.array(np.zeros((2, 2))), np.zeros((2, 2), bool), "masked array.*fill it first"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool).view(np.matrix), "got a matrix"),
        (np.zeros(3), np.zeros(3, bool), r"one shape \[h, w\]"),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), r"one shape \[h, w\]"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), r"\(mask > 0\), got float64 and uint8"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool), "map of floats .* got uint8 and bool"),
    ],
)
def test_other_shapes_and_types_are_refused(exact, maps, mask, text):
    with pytest.raises(DataError, match="map 0: .*" + text):
        pixel_metrics([(maps, mask)], exact=exact)


@pytest.mark.parametrize("name", ["fpr_limit", "recall"])
@pytest.mark.parametrize("value", [0, -0.1, 1.1, math.nan])
def test_limits_out_of_range_are_refused(name, value):
    with pytest.raises(DataError, match=f"{name}: expected a number above 0 and at most 1"):
        pixel_metrics([], **{name: value})


@BOTH
def test_merged_equals_all_at_once_in_any_order(exact):
    pairs = realistic("plain", count=9, size=48)
    parts = [PixelCounts.empty(exact=exact) for _ in range(3)]
    for index, pair in enumerate(pairs):
        parts[index % 3].add(*pair)
    before = [part.metrics() for part in parts]
    whole = PixelCounts.merged(reversed(parts))
    assert whole.maps == 9
    close(whole.metrics(), pixel_metrics(pairs, exact=exact))
    close(whole.metrics(), pixel_metrics(pairs[::-1], exact=exact))
    # The parts stay as they were, also when the whole goes on.
    whole.add(*pairs[0])
    assert [part.metrics() for part in parts] == before
    assert [part.maps for part in parts] == [3, 3, 3]


def test_merging_exact_with_bounded_is_refused():
    parts = [PixelCounts.empty(exact=True), PixelCounts.empty(exact=False)]
    with pytest.raises(DataError, match="all exact or all bounded"):
        PixelCounts.merged(parts)
    assert PixelCounts.merged([]).metrics().instances == 0


@BOTH
def test_maps_may_be_reused_turned_and_of_other_floats(exact):
    pairs = realistic("plain", count=4, size=48)
    counts = PixelCounts.empty(exact=exact)
    buffer = np.empty((48, 48), np.float32)
    for maps, mask in pairs:
        buffer[...] = maps
        marks = mask.copy()
        counts.add(buffer, marks)
        buffer[...], marks[...] = 7, True
    expected = pixel_metrics(pairs, exact=exact)
    assert counts.metrics() == expected
    close(pixel_metrics([(m.T, k.T) for m, k in pairs], exact=exact), expected)
    close(pixel_metrics([(m.astype(float), k) for m, k in pairs], exact=exact), expected)


@BOTH
def test_curves_hold_what_the_metrics_say(exact):
    counts = PixelCounts.empty(exact=exact)
    for pair in realistic("plain"):
        counts.add(*pair)
    metrics, curves = counts.metrics(fpr_limit=1), counts.curves(points=10**7)
    assert list(curves) == ["roc", "pr", "pro"]
    for name, area in (("roc", metrics.auroc), ("pro", metrics.aupro)):
        curve = curves[name]
        steps = np.diff(curve.x) @ (curve.y[1:] + curve.y[:-1]) / 2
        assert steps == pytest.approx(area, abs=1e-9)
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    pr = curves["pr"]
    assert (2 * pr.x * pr.y / (pr.x + pr.y + 1e-300)).max() == pytest.approx(metrics.f1_max)
    assert all(curve.x.size <= 500 for curve in counts.curves().values())
    for curve in curves.values():
        assert (np.diff(curve.thresholds) < 0).all()


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(0, 1, width=32)))
def test_bins_rise_with_scores(scores):
    scores = np.sort(scores)
    bins = bins_of(scores)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < BINS
    lowest = lowest_scores(bins)
    assert (lowest <= scores).all()
    assert (bins_of(lowest) == bins).all()
    below = np.nextafter(lowest, np.float32(-1))
    assert (bins_of(below[lowest > 0]) < bins[lowest > 0]).all()
    # Wide in terms of the nearer end by 1/16384 at most (twice that across a power of two).
    distance = np.minimum(lowest, 1 - lowest.astype(float))
    assert (scores - lowest <= np.maximum(distance / 2**13, 2**-126)).all()


def test_ends_of_the_range_have_bins_of_their_own():
    inner = np.array([np.nextafter(np.float32(0), np.float32(1)), 1 - 2**-24, 0.5], np.float32)
    assert bins_of(np.array([1], np.float32)) == BINS - 1
    assert bins_of(np.array([0, -0.0], np.float32)).tolist() == [0, 0]
    assert (bins_of(inner) < BINS - 1).all()


def test_bounded_memory_does_not_grow():
    rng = np.random.default_rng(0)
    maps = rng.random((1024, 1024), dtype=np.float32)
    mask = maps > 0.9  # thousands of regions
    tracemalloc.start()
    try:
        counts = PixelCounts.empty(exact=False)
        held = []
        for _ in range(3):
            counts.add(maps, mask)
            held.append(tracemalloc.get_traced_memory()[0])
        counts.metrics()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts.nbytes < 80e6
    assert max(held) - min(held) < 1e5
    assert held[0] < counts.nbytes + 1e6
    assert peak < 500e6


def test_bounded_counts_of_ten_thousand_megapixel_maps():
    # Doubling by merging stands for the maps: 2**14 of them.
    rng = np.random.default_rng(0)
    maps = rng.random((1024, 1024), dtype=np.float32) ** 2
    mask = cv2.GaussianBlur(maps, (0, 0), 8) > 0.36
    counts = PixelCounts.empty(exact=False)
    counts.add(maps, mask)
    expected, held = counts.metrics(), counts.nbytes
    for _ in range(14):
        counts = PixelCounts.merged([counts, counts])
    assert counts.maps == 2**14
    assert counts.ranked().positives + counts.ranked().negatives == 2**34
    instances = expected.instances * 2**14
    close(counts.metrics(), dataclasses.replace(expected, instances=instances), 1e-9)
    assert counts.nbytes == held


@pytest.mark.slow
def test_exact_metrics_of_83_maps_take_less_than_two_seconds():
    pairs = realistic("plain", count=83, size=256)
    begun = time.process_time()  # what others do with this machine does not count
    pixel_metrics(pairs)
    assert time.process_time() - begun < 2


def test_what_is_no_pair_is_refused():
    mask = np.eye(3, dtype=bool)
    for pairs in ((mask.astype(float), mask), [mask], np.zeros((2, 3, 3)), [(mask,)]):
        with pytest.raises(DataError, match="expected pairs of a map and a mask"):
            pixel_metrics(pairs)
