"""The metrics against scikit-learn, closed forms and the definition written out."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk
from sklearn.metrics import average_precision_score, roc_auc_score

from destseg.errors import DataError
from destseg.evaluation.counts import RankedCounts, ranked_counts
from destseg.evaluation.metrics import (
    auroc,
    average_precision,
    image_metrics,
    pr_curve,
    roc_curve,
    thinned,
)

METRICS = [auroc, average_precision]
# Few distinct values give ties in nearly every example; the others hit the ends of the range.
TIED = st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, 1.0])
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def labelled_scores(draw, score_values):
    """Labels with both classes and float32 or float64 scores for them."""
    rest = draw(st.lists(st.booleans(), max_size=30))
    labels = np.array(draw(st.permutations([True, False, *rest])))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return labels, draw(hnp.arrays(dtype, len(labels), elements=score_values))


@given(labelled_scores(TIED) | labelled_scores(ANY))
def test_equals_scikit_learn(case):
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@given(labelled_scores(TIED))
def test_counts_are_those_of_each_threshold(case):
    labels, scores = case
    counts = ranked_counts(labels, scores)
    assert counts.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    for threshold, found, alarms in zip(
        counts.thresholds, counts.true_positives, counts.false_positives, strict=True
    ):
        assert found == (labels & (scores >= threshold)).sum()
        assert alarms == (~labels & (scores >= threshold)).sum()
    assert (counts.positives, counts.negatives) == (labels.sum(), (~labels).sum())


def test_equals_scikit_learn_on_maps():
    rng = np.random.default_rng(3)
    labels = rng.random((4, 64, 64)) < 0.05
    scores = np.round(rng.random(labels.shape) + 0.4 * labels, 2).astype(np.float32)
    flat = labels.ravel(), scores.ravel()
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(
        average_precision_score(*flat), abs=1e-12
    )


@pytest.mark.parametrize(
    ("scores", "area", "precision"),
    [
        ([0.1, 0.2, 0.3, 0.8, 0.9], 1.0, 1.0),
        # The positives come last: precision 1/4 at the first of them and 2/5 at the second.
        ([0.7, 0.8, 0.9, 0.1, 0.2], 0.0, (1 / 4 + 2 / 5) / 2),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 0.5, 2 / 5),
        # Neighbours in float64 that float32 cannot tell apart.
        ([0.1, 0.1, 0.1, np.nextafter(0.1, 1), np.nextafter(0.1, 1)], 1.0, 1.0),
    ],
    ids=["perfect", "inverted", "constant", "float64 neighbours"],
)
def test_closed_forms(scores, area, precision):
    labels = [0, 0, 0, 1, 1]
    assert auroc(labels, scores) == area
    assert average_precision(labels, scores) == pytest.approx(precision, abs=1e-15)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("metric", METRICS)
def test_labels_of_any_type_and_strided_arrays(metric, dtype):
    rng = np.random.default_rng(0)
    labels, scores = rng.random((6, 8)) < 0.4, rng.random((6, 8))
    expected = metric(labels.ravel().tolist(), scores.ravel().tolist())
    assert metric(labels.astype(dtype).T, scores.T) == expected


@pytest.mark.parametrize("metric", METRICS)
def test_input_is_left_alone(metric):
    labels, scores = np.array([1, 0, 1]), np.array([0.3, 0.2, 0.1])
    metric(labels, scores)
    assert labels.tolist() == [1, 0, 1]
    assert scores.tolist() == [0.3, 0.2, 0.1]


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []], ids=["good", "defective", "none"])
@pytest.mark.parametrize("metric", METRICS)
def test_one_class_is_nan_without_a_warning(metric, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metric(labels, np.linspace(0, 1, len(labels))))


@pytest.mark.parametrize(
    ("labels", "scores", "text"),
    [
        ([0, 1], [0.1, math.nan], "1 of 2 that are NaN or infinite"),
        ([0, 1], [math.inf, -math.inf], "2 of 2 that are NaN or infinite"),
        ([0, 1], [0.1, 0.2, 0.3], r"same shape, got \(2,\) and \(3,\)"),
        ([[0, 1]], [0.1, 0.2], r"same shape, got \(1, 2\) and \(2,\)"),
        (np.array([0, 255], np.uint8), [0.1, 0.2], "only 0 and 1, got 255; .*mask > 0"),
        ([0, math.nan], [0.1, 0.2], "only 0 and 1, got nan"),
        ([0, -1], [0.1, 0.2], "only 0 and 1, got -1"),
        (["good", "bad"], [0.1, 0.2], "labels: expected an array of numbers, got dtype"),
        ([0, 1], np.ma.array([0.1, 0.2], mask=[0, 1]), "scores: .*masked array.*fill it first"),
        (np.array([[0, 1]]).view(np.matrix), [[0.1, 0.2]], "labels: .* got a matrix"),
        ([0, 1], [0.1, None], "scores: expected an array of numbers, got dtype object"),
        ([0, 1], [[0.1], [0.2, 0.3]], "scores: expected an array of numbers, got"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_errors_say_what_came(metric, labels, scores, text):
    with pytest.raises(DataError, match=text):
        metric(labels, scores)


@given(labelled_scores(TIED) | labelled_scores(ANY))
def test_image_metrics_equal_scikit_learn(case):
    labels, scores = case
    metrics = image_metrics(labels, scores)
    precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics.f1_max == pytest.approx(f1.max(), abs=1e-12)
    assert sk.f1_score(labels, scores >= metrics.f1_max_threshold) == pytest.approx(f1.max())
    # The highest of the thresholds that are as good.
    assert metrics.f1_max_threshold == thresholds[f1[:-1] >= f1.max() - 1e-12].max()
    assert (metrics.auroc, metrics.ap) == (
        auroc(labels, scores),
        average_precision(labels, scores),
    )
    assert metrics.reasons == {}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0], "there is no defective image"),
        ([1, 1], "there is no good image"),
        ([], "there is no defective and no good image"),
    ],
)
def test_image_metrics_of_one_class_are_nan_with_a_reason(labels, reason):
    metrics = image_metrics(labels, np.linspace(0, 1, len(labels)))
    names = ["auroc", "ap", "f1_max", "f1_max_threshold"]
    assert all(math.isnan(getattr(metrics, name)) for name in names)
    assert metrics.reasons == dict.fromkeys(names, reason)
    for curve in (roc_curve, pr_curve):
        assert curve(ranked_counts(labels, np.zeros(len(labels)))).x.size == 0


def test_constant_scores_give_the_answers_of_ties():
    metrics = image_metrics([0, 0, 0, 1], [0.5] * 4)
    assert (metrics.auroc, metrics.ap, metrics.f1_max_threshold) == (0.5, 0.25, 0.5)
    assert metrics.f1_max == pytest.approx(2 * 0.25 / 1.25)


def test_counts_of_ten_billion_pixels_do_not_overflow():
    # The same shares as in the small counts, whose area is a sum of whole numbers.
    small = RankedCounts(np.array([0.9, 0.5, 0.1]), np.array([3, 4, 5]), np.array([1, 2, 7]))
    big = RankedCounts(
        small.thresholds, small.true_positives * 10**9, small.false_positives * 10**9
    )
    assert 2 * big.positives * big.negatives > np.iinfo(np.int64).max
    assert big.auroc() == pytest.approx(small.auroc(), abs=1e-14)
    assert big.average_precision() == pytest.approx(small.average_precision(), abs=1e-14)
    assert big.f1_max() == pytest.approx(small.f1_max(), abs=1e-14)


@given(labelled_scores(TIED) | labelled_scores(ANY))
def test_curves_equal_scikit_learn(case):
    labels, scores = case
    counts = ranked_counts(labels, scores)
    roc, pr = roc_curve(counts), pr_curve(counts)
    fpr, tpr, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose([roc.x, roc.y], [fpr, tpr], atol=1e-12)
    assert roc.thresholds[1:].tolist() == thresholds[1:].astype(float).tolist()
    assert np.isfinite(roc.thresholds).all()
    assert roc.thresholds[0] > roc.thresholds[1]
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    np.testing.assert_allclose([pr.x, pr.y], [recall[-2::-1], precision[-2::-1]], atol=1e-12)


def test_thinned_curves_keep_ends_and_shape():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.1
    counts = ranked_counts(labels, rng.normal(size=labels.size) + labels)
    for curve, error in ((roc_curve, 5e-3), (pr_curve, 5e-2)):
        whole, thin = curve(counts, 10**6), curve(counts, 100)
        assert 50 < thin.x.size <= 100 < whole.x.size
        for column in ("x", "y", "thresholds"):
            assert getattr(thin, column)[0] == getattr(whole, column)[0]
            assert getattr(thin, column)[-1] == getattr(whole, column)[-1]
        assert np.abs(np.interp(whole.x, thin.x, thin.y) - whole.y).mean() < error
    with pytest.raises(DataError, match="points: expected 2 or more, got 1"):
        roc_curve(counts, 1)


def test_thinned_curves_keep_an_end_that_goes_nowhere():
    x = np.minimum(np.linspace(0, 2, 50), 1)
    curve = thinned(x, x, np.arange(50, 0, -1), 10)
    assert (curve.thresholds[0], curve.thresholds[-1]) == (50, 1)
