"""From hits and misses to a curve of detection over size, with bounds that always exist.

A logistic curve over the logarithm of the size, and bounds by the likelihood ratio, as
MIL-HDBK-1823A has them for hits and misses.  Where all of one size and larger are found and none
below (complete separation), the likelihood has no highest point and a Wald interval does not
exist; the likelihood ratio still says which curves the trials rule out.  It is the handbook's own
method, which is why it is here and not Firth's penalised likelihood, whose penalty rules out the
steep curves that a sharp limit of detection has.

Its quantile is one of many trials.  With 60 of them simulated intervals cover too little (92 of 100
where hardly one is missed), so that it is made larger by 1 + 20 / trials: then they cover 95 of
100 or more whatever the curve, which a test holds.

The slope is not below 0: a larger defect of the same family is never harder to see.  A set of
trials that says otherwise gives a flat curve, and ``fit_probability`` tells that it does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOUND = 0.9
"""The probability of detection that a90 is about."""

CONFIDENCE = 0.95
"""Of both bounds together; of each by itself it is more."""

_QUANTILE = 3.841458820694124  # of chi-squared with one degree, 95 %
_FEW = 20  # trials that the quantile's correction is for
_FURTHEST = 40.0  # logits beyond which a probability is 0 or 1
_HALVINGS = 40
_RESAMPLINGS = 100


@dataclass(frozen=True)
class DetectionCurve:
    """How the probability of detection rises with size.

    Attributes:
        sizes: that were tried, in pixels, rising.
        hits: how many were found, by size.
        trials: of how many.
        a90: size in pixels found nine times in ten; ``None`` is larger than the largest tried.
            The smallest size tried stands for all below it.
        a90_95: size of which that is so with 95 % confidence; else as ``a90``.
        is_separated: whether there is a size with all found from there on, and none below.
        fit_probability: probability of trials that are as far from a curve as these are, if there
            is such a curve; a small one says that there is none.
        at: sizes of the curve's points.
        pod: the probability of detection there, in [0, 1].
        lower, upper: its bounds; it lies between them with 95 % confidence, at each size.
    """

    sizes: tuple[float, ...]
    hits: tuple[int, ...]
    trials: tuple[int, ...]
    a90: float | None
    a90_95: float | None
    is_separated: bool
    fit_probability: float
    at: tuple[float, ...]
    pod: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def probability(self, size: float) -> float:
        """Return the probability of detection at a size between the smallest and the largest."""
        return float(np.interp(math.log(size), np.log(self.at), self.pod))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }


def fit_curve(
    sizes: Sequence[float], hits: Sequence[int], trials: Sequence[int], *, seed: int = 0
) -> DetectionCurve:
    """Return the curve of detection over size, and how sure it is.

    Args:
        sizes: in pixels, above 0, rising; at least two.
        hits: how many were found, by size.
        trials: of how many; at least 1 each.
        seed: of the resampling behind ``fit_probability``.
    """
    ground = Trials(np.log(sizes), np.asarray(hits, float), np.asarray(trials, float))
    intercept, slope, best = ground.best()
    at = np.linspace(ground.x[0], ground.x[-1], 41)
    pod = _probability(intercept + slope * at)
    lower, upper = (_probability(ground.bound(at, intercept, slope, best, way)) for way in (-1, 1))
    found = np.asarray(hits) == np.asarray(trials)
    missed = np.asarray(hits) == 0
    first = int(np.argmax(found)) if found.any() else len(found)
    separated = bool(0 < first < len(found) and found[first:].all() and missed[:first].all())
    wanted = math.log(FOUND / (1 - FOUND))
    estimate = _first(lambda x: intercept + slope * x - wanted, ground.x)
    if separated:
        estimate = float(ground.x[first])  # anywhere below it would do; this size was tried
    bound = _first(lambda x: ground.evidence(x, wanted, intercept, slope, best), ground.x)
    return DetectionCurve(
        sizes=tuple(map(float, sizes)),
        hits=tuple(map(int, hits)),
        trials=tuple(map(int, trials)),
        a90=_size(estimate),
        a90_95=_size(bound),
        is_separated=separated,
        fit_probability=ground.fit_probability(intercept, slope, seed),
        at=tuple(np.exp(at).tolist()),
        pod=tuple(pod.tolist()),
        lower=tuple(np.minimum(lower, pod).tolist()),
        upper=tuple(np.maximum(upper, pod).tolist()),
    )


@dataclass(frozen=True)
class Trials:
    """Hits of trials at some sizes; the arithmetic of many such sets at once.

    Attributes:
        x: logarithms of the sizes [k].
        hits, trials: [..., k]; the leading dimensions are sets of their own.
    """

    x: Floats
    hits: Floats
    trials: Floats

    @property
    def steepest(self) -> float:
        """A slope at which the next size tried is certain, one way or the other."""
        return 2 * _FURTHEST / float(np.diff(self.x).min())

    @property
    def ruled_out(self) -> Any:
        """How far below the best a curve is that the trials rule out, doubled."""
        return _QUANTILE * (1 + _FEW / self.trials.sum(-1))

    def best(self) -> tuple[Floats, Floats, Floats]:
        """Return intercept, slope and log-likelihood of the likeliest curve, each [...]."""
        middle = (self.x[0] + self.x[-1]) / 2
        shape = np.broadcast_shapes(self.hits.shape[:-1], self.trials.shape[:-1])
        hits, trials = (
            np.broadcast_to(each, (*shape, len(self.x))).reshape(-1, len(self.x))
            for each in (self.hits, self.trials)
        )
        flat = Trials(self.x - middle, hits, trials)
        level, slope, is_top = flat._climbed()
        if not is_top.all():  # at a slope of 0, or without a top: separated, all or none found
            rest = Trials(flat.x, hits[~is_top], trials[~is_top])
            level[~is_top], slope[~is_top] = rest._halved()
        fit = flat._log_likelihood(level[:, None] + slope[:, None] * flat.x)
        level, slope, fit = (each.reshape(shape) for each in (level, slope, fit))
        return level - slope * middle, slope, fit

    def _climbed(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return levels, slopes and where they are the top, by Newton's method, each [m]."""
        level, slope = np.zeros(len(self.hits)), np.ones(len(self.hits))
        for _ in range(25):
            chance = _probability(level[:, None] + slope[:, None] * self.x)
            pull = self.hits - self.trials * chance
            weight = self.trials * chance * (1 - chance) + 1e-12
            up, along = pull.sum(-1), (pull * self.x).sum(-1)
            a, b, c = weight.sum(-1), (weight * self.x).sum(-1), (weight * self.x**2).sum(-1)
            scale = a * c - b * b
            steps = np.stack(((c * up - b * along) / scale, (a * along - b * up) / scale))
            steps /= np.maximum(1, np.abs(steps).max(axis=0) / 2)
            level, slope = level + steps[0], slope + steps[1]
        pull = self._pull(level[:, None] + slope[:, None] * self.x)
        still = np.abs(pull.sum(-1)) + np.abs((pull * self.x).sum(-1))
        return level, slope, (still < 1e-8) & (slope > 0) & (slope < 30)

    def _halved(self) -> tuple[Floats, Floats]:
        """Return levels and slopes of the top, or as far as it goes, each [m].

        The likelihood is concave, so each derivative changes its sign once.
        """
        count, steepest = len(self.hits), self.steepest
        furthest = _FURTHEST + steepest * float(np.abs(self.x).max())

        def level(slope: Floats) -> Floats:
            return _root(
                lambda level: self._pull(level[:, None] + slope[:, None] * self.x).sum(-1),
                np.full(count, -furthest),
                np.full(count, furthest),
            )

        slope = _root(
            lambda slope: (
                self.x * self._pull(level(slope)[:, None] + slope[:, None] * self.x)
            ).sum(-1),
            np.zeros(count),
            np.full(count, steepest),
        )
        return level(slope), slope

    def deviance(self, x: Any, logit: Any, best: Any) -> Floats:
        """Return how far below the best the likeliest curve through a point is, doubled, [...]."""
        x, logit = np.broadcast_arrays(np.asarray(x, float), np.asarray(logit, float))
        shape = np.broadcast_shapes(x.shape, self.hits.shape[:-1])
        apart = self.x - np.broadcast_to(x, shape)[..., None]
        through = np.broadcast_to(logit, shape)[..., None]
        slope = _root(
            lambda slope: (apart * self._pull(through + slope[..., None] * apart)).sum(-1),
            np.zeros(shape),
            np.full(shape, self.steepest),
        )
        fit = self._log_likelihood(through + slope[..., None] * apart)
        return np.maximum(0.0, 2 * (np.asarray(best) - fit))

    def bound(self, x: Floats, intercept: Any, slope: Any, best: Any, way: int) -> Floats:
        """Return the logits that 95 % confidence leaves at points of one set, [n].

        Args:
            x: logarithms of sizes [n].
            intercept: of ``best``.
            slope: so.
            best: so.
            way: -1 for the lower bound, 1 for the upper one.
        """
        likeliest = np.clip(intercept + slope * x, -_FURTHEST, _FURTHEST)
        off = _root(
            lambda off: self.ruled_out - self.deviance(x, likeliest + way * off, best),
            np.zeros_like(x),
            np.full_like(x, 2 * _FURTHEST),
        )
        return np.asarray(likeliest + way * off)

    def evidence(self, x: Any, logit: float, intercept: Any, slope: Any, best: Any) -> Floats:
        """Return a number that is positive where the curve is above a logit with confidence."""
        above = np.sign(intercept + slope * np.asarray(x) - logit)
        return np.asarray(above * self.deviance(x, logit, best) - self.ruled_out)

    def fit_probability(self, intercept: Any, slope: Any, seed: int) -> float:
        """Return how often trials of the curve itself lie as far from their own curve (one set)."""
        curve = _probability(intercept + slope * self.x)
        random = np.random.default_rng(seed)
        counts = self.trials.astype(np.int64)
        drawn = random.binomial(counts, curve, (_RESAMPLINGS, len(counts))).astype(float)
        again = Trials(self.x, drawn, self.trials)
        as_far = again._distance() >= self._distance() - 1e-9
        return float((1 + as_far.sum()) / (1 + _RESAMPLINGS))

    def _distance(self) -> Floats:
        """Return the deviance between the likeliest curve and the rates themselves, [...]."""
        rate = self.hits / self.trials
        inside = np.clip(rate, 1e-12, 1 - 1e-12)
        full = self._log_likelihood(np.log(inside / (1 - inside)))
        return np.asarray(2 * (full - self.best()[2]))

    def _pull(self, logits: Floats) -> Floats:
        return np.asarray(self.hits - self.trials * _probability(logits))

    def _log_likelihood(self, logits: Floats) -> Floats:
        each = self.hits * logits - self.trials * np.logaddexp(0.0, logits)
        return np.asarray(each.sum(-1))


def _probability(logit: Any) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(logit) / 2)))


def _root(falling: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """Return where falling functions pass 0, each between two values, by halving."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = falling(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)


def _first(rising: Callable[[Any], Any], x: Floats) -> float | None:
    """Return the first x from which on a rising function is not negative; ``None`` if it is."""
    low, high = float(x[0]), float(x[-1])
    if float(rising(high)) < 0:
        return None
    if float(rising(low)) >= 0:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if float(rising(middle)) >= 0 else (middle, high)
    return high


def _size(log: float | None) -> float | None:
    return None if log is None else float(f"{math.exp(log):.6g}")
