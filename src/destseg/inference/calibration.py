"""From calibration images' scores to thresholds, p-values and decisions."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from destseg.config import ImageSize, Settings
from destseg.errors import BundleError, DataError, SettingsError
from destseg.fields import EACH_IMAGE
from destseg.inference.votes import Votes

TOLERANCE = 1e-4
"""Largest difference of map values, and so of scores, that is rounding between fp32 runtimes.

It is part of what a decision is: scores no further apart than this are a tie, and a tie counts for
the part.
"""

EARLIER = "earlier images"
"""The group of calibration images whose groups nobody knows, where others are added to them."""

_FAR = 0.5  # of the highest score: where the next one is lower, it stands alone
_SOME = 5  # images; of fewer one may well lie far from the others


def threshold_rank(
    n: int, max_false_alarm_rate: float, confidence: float = 0.0
) -> tuple[int, float]:
    """Return which of n calibration scores is the threshold, and the rate that it guarantees.

    Split conformal prediction (Vovk et al., 2005): a good part's p-value is at most a with
    probability at most a, and takes values k / (n + 1).

    Args:
        n: number of calibration images, or of their groups, at least 1.
        max_false_alarm_rate: the rate a asked for, in (0, 1].
        confidence: probability in [0, 1) over the draw of the calibration images with which the
            rate is to hold (``rate_bound``); 0 asks for it in the mean over all such draws.

    Returns:
        (rank, guaranteed false-alarm rate): an image is flagged when its score is above the rank-th
        highest calibration score, counted from 0, by more than ``TOLERANCE``.  Where n is too small
        for the rate asked for, the rank is 0 and the guarantee is 1 / (n + 1).  The guaranteed
        rate is that in the mean, whatever the confidence.
    """
    if confidence:
        # The bound rises with the rank; rank 0 is taken even where it is above the rate.
        rank = bisect.bisect_right(
            range(1, n), max_false_alarm_rate, key=lambda each: rate_bound(n, each, confidence)
        )
        return rank, (rank + 1) / (n + 1)
    # The small term keeps 0.1 * 10 from becoming 0.9999...
    allowed = math.floor(max_false_alarm_rate * (n + 1) + 1e-9)
    allowed = min(max(allowed, 1), n)
    return allowed - 1, allowed / (n + 1)


def rate_bound(n: int, rank: int, confidence: float) -> float:
    """Return the false-alarm rate that a threshold keeps with some confidence.

    The rate at the rank-th highest of n scores is distributed as Beta(rank + 1, n - rank), or lies
    below where scores tie, whatever the scores' distribution is (Wilks, 1941: tolerance limits).

    Args:
        n: number of calibration images, or of groups of which the highest scores are taken.
        rank: of the score that is the threshold, counted from 0 at the highest; below n.
        confidence: probability over the draw of the calibration images, in [0, 1).

    Returns:
        The rate in [0, 1] that is exceeded with a probability of 1 - confidence.

    >>> round(rate_bound(59, 0, 0.95), 3), round(rate_bound(299, 0, 0.95), 3)
    (0.05, 0.01)
    """
    if rank == 0:
        return _rounded(-math.expm1(math.log1p(-confidence) / n))
    k = np.arange(rank + 1)
    logs = np.cumsum(np.log([1.0, *((n - k[:-1]) / k[1:])]))  # of n over k
    low, high = 0.0, 1.0
    for _ in range(60):  # halving: at most so many parts of n are above, with 1 - confidence
        rate = (low + high) / 2
        inside, outside = math.log(rate), math.log1p(-rate)
        at_most = np.exp(logs + k * inside + (n - k) * outside).sum()
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return _rounded(high)


def _rounded(rate: float) -> float:
    # Its last digits hang on how a machine adds, and whether it is at most another must not.
    return float(f"{rate:.12g}")


def chance_of_flagged(n: int, rank: int, flagged: int, images: int) -> float:
    """Return how likely it is that so many of new good images, or more, are above the threshold.

    Where they come as the calibration images came, their number is beta-binomial with the
    parameters of ``rate_bound``, or smaller where scores tie.

    Args:
        n: number of calibration images.
        rank: of the score that is the threshold, counted from 0 at the highest; below n.
        flagged: of the new images.
        images: how many there are.

    Returns:
        A probability in [0, 1].

    >>> round(chance_of_flagged(19, 0, 1, 1), 3)
    0.05
    """

    def log_choose(upper: int, lower: int) -> float:
        return math.lgamma(upper + 1) - math.lgamma(lower + 1) - math.lgamma(upper - lower + 1)

    whole = log_choose(images + n, n)
    ways = (
        log_choose(k + rank, rank) + log_choose(images - k + n - rank - 1, n - rank - 1)
        for k in range(flagged, images + 1)
    )
    return min(1.0, math.fsum(math.exp(each - whole) for each in ways))


@dataclass(frozen=True)
class GroupScores:
    """The calibration scores of one group: a day, a folder, a part.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        group: its name.
        images: how many.
        median: of their scores.
        highest: of their scores.
    """

    group: str
    images: int
    median: float
    highest: float


@dataclass(frozen=True)
class Calibration:
    """Calibration images' scores, the thresholds from them, and all that they depend on.

    A score within ``TOLERANCE`` of one of them is a tie with it, which counts for the part: in
    every runtime an image gets at most the p-value, and the decision, of one that scored better.

    Images of one group have one vote together (``votes.py``), and what is guaranteed is for a new
    image of a new group.  With a confidence a group's vote is that of its highest score: these are
    independent, so order statistics hold for them, and that some image of a new group is above the
    threshold is more likely than that one is.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        scores: image scores of the calibration images, rising.
        peaks: highest map value of each, in the order of ``scores``.
        paths: of the images, in the order of ``scores``; of equal scores the first path first.
        max_false_alarm_rate: the rate asked for.
        image_size: side in pixels that images were resized to, or (height, width).
        score_fraction: fraction of the map that the score is the mean of.
        weights_sha256: of the weights that gave the scores.
        tile: whether images were cut into tiles.
        tile_overlap: of the tiles; 0 without them.
        roi_sha256: of the region of interest; ``None`` where whole images were inspected.
        bit_depth: bits that the values of 16-bit images were taken to use.
        padded: whether images of other shapes kept theirs.
        confidence: with which the rate asked for is to hold; 0 is in the mean.
        group_by: by what images were grouped, as the setting of that name says.
        groups: of the images, in the order of ``scores``; ``None``: each is one by itself.
        consensus: of the two heads, in the maps.
        image_sha256: of the files, in the order of ``scores``; ``None`` where it is not known.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    paths: tuple[str, ...]
    max_false_alarm_rate: float
    image_size: ImageSize
    score_fraction: float
    weights_sha256: str
    tile: bool
    tile_overlap: float
    roi_sha256: str | None
    bit_depth: int
    padded: bool = False
    confidence: float = 0.0
    group_by: str = EACH_IMAGE
    groups: tuple[str, ...] | None = None
    consensus: float = 0.0
    image_sha256: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.peaks) == len(self.paths) > 0:
            raise DataError("a calibration needs at least one calibration image, got none")
        if not 0 < self.max_false_alarm_rate <= 1:
            raise SettingsError(
                "--max-false-alarm-rate: expected a number in (0, 1], got "
                f"{self.max_false_alarm_rate!r}"
            )
        if not 0 <= self.confidence < 1:
            raise SettingsError(
                f"--confidence: expected a number in [0, 1), got {self.confidence!r}"
            )
        if list(self.scores) != sorted(self.scores):
            raise DataError("a calibration's scores are expected in rising order")
        if self.groups is not None:
            _require_groups(self.groups, len(self.scores))

    @classmethod
    def fit(
        cls,
        scores: Sequence[float],
        peaks: Sequence[float],
        paths: Sequence[str],
        settings: Settings,
        weights_sha256: str,
        roi_sha256: str | None = None,
        groups: Sequence[str] | None = None,
        image_sha256: Sequence[str] | None = None,
    ) -> Calibration:
        """Return the calibration from the scores, map peaks, paths and hashes of good images.

        Of groups, where they are given, ``settings`` say what they are by.
        """
        if not len(scores) == len(peaks) == len(paths):
            raise DataError(
                f"expected a score, a peak and a path of each good image, got {len(scores)}, "
                f"{len(peaks)} and {len(paths)}"
            )
        if groups is not None:
            _require_groups(groups, len(scores))
        return cls(
            **_in_order(scores, peaks, paths, groups, image_sha256),
            group_by=EACH_IMAGE if groups is None else settings.data.group_by,
            max_false_alarm_rate=settings.decision.max_false_alarm_rate,
            confidence=settings.decision.confidence,
            weights_sha256=weights_sha256,
            roi_sha256=roi_sha256,
            **_scored_with(settings),
        )

    def with_rate(self, max_false_alarm_rate: float, confidence: float = 0.0) -> Calibration:
        """Return the same calibration scores with another rate and confidence asked for.

        Raises:
            SettingsError: if the rate is not in (0, 1], or the confidence not in [0, 1).
        """
        return replace(self, max_false_alarm_rate=max_false_alarm_rate, confidence=confidence)

    def with_more(self, other: Calibration) -> Calibration:
        """Return the calibration of these images and of others, at the others' rate.

        Where these have no groups and the others do, these are one group: nobody knows better.

        Raises:
            SettingsError: if both have groups, by different things.
            DataError: if an image is in both.
        """
        before = self
        if self.groups is None and other.groups is not None:
            before = replace(self, group_by=other.group_by, groups=(EARLIER,) * len(self.scores))
        if before.group_by != other.group_by:
            raise SettingsError(
                f"--group-by: expected {before.group_by!r}, as in the calibration that is there, "
                f"got {other.group_by!r}; give that, or calibrate anew without --add"
            )
        if both := before.also_in(other):
            raise DataError(
                f"expected images that are not in the calibration yet, got {len(both)} that are: "
                f"{_listed(both)}. Give new ones, or calibrate anew without --add."
            )
        groups = hashes = None
        if before.groups is not None and other.groups is not None:
            groups = before.groups + other.groups
        if before.image_sha256 is not None and other.image_sha256 is not None:
            hashes = before.image_sha256 + other.image_sha256
        return replace(
            other,
            **_in_order(
                before.scores + other.scores,
                before.peaks + other.peaks,
                before.paths + other.paths,
                groups,
                hashes,
            ),
        )

    def also_in(self, other: Calibration) -> list[str]:
        """Return the other's paths of the images that are in both, by content where it is known."""
        names, contents = {*self.paths}, {*(self.image_sha256 or ())}
        hashes = other.image_sha256 or ("",) * len(other.paths)
        return sorted(
            path
            for path, content in zip(other.paths, hashes, strict=True)
            if content in contents or (path in names and not (content and contents))
        )

    @cached_property
    def threshold(self) -> float:
        """Image scores above this are defective: a calibration score and the tolerance."""
        return _tie(self._votes.values[self._place])

    @property
    def tie_limit(self) -> float:
        """Image scores below this are certainly better than the one that set the threshold."""
        return self._votes.values[self._place] - TOLERANCE

    @cached_property
    def pixel_threshold(self) -> float:
        """Map values above this are a region: as many good parts show none as are passed."""
        return _tie(self._deciding_peak)

    @property
    def threshold_images(self) -> tuple[str, ...]:
        """Paths of the images whose score set the threshold."""
        return self._named(self.scores, self._votes.values[self._place])

    @property
    def pixel_threshold_images(self) -> tuple[str, ...]:
        """Paths of the images whose peak set the pixel threshold."""
        return self._named(self.peaks, self._deciding_peak)

    @property
    def votes(self) -> tuple[float, ...]:
        """How much each calibration image counts, in the order of ``scores``; of each group 1."""
        parts = self._votes.at_or_above
        return tuple(
            (here - above) / self._votes.parts for here, above in itertools.pairwise(parts)
        )

    def by_group(self) -> tuple[GroupScores, ...]:
        """Return the scores of each group, by name; none where each image is one by itself."""
        scores: dict[str, list[float]] = {}
        for group, score in zip(self.groups or (), self.scores, strict=self.groups is not None):
            scores.setdefault(group, []).append(score)
        return tuple(
            GroupScores(group, len(each), statistics.median(each), max(each))
            for group, each in sorted(scores.items())
        )

    def set_by(self) -> str:
        """Return which images set the thresholds, in words."""
        image, pixel = map(_listed, (self.threshold_images, self.pixel_threshold_images))
        return f"set by {image}" + (f", that of regions by {pixel}" if pixel != image else "")

    @cached_property
    def _votes(self) -> Votes:
        return self._votes_of(self.scores)

    def _votes_of(self, values: Sequence[float]) -> Votes:
        groups = range(len(values)) if self.groups is None else self.groups
        return Votes.of(values, groups, highest=self.confidence > 0)

    @cached_property
    def _allowed(self) -> float:
        """How many votes may lie above the threshold."""
        k = self._votes.groups
        if self.confidence:
            return threshold_rank(k, self.max_false_alarm_rate, self.confidence)[0]
        # The small term keeps 0.1 * 10 from becoming 0.9999...
        return max(0.0, self.max_false_alarm_rate * (k + 1) + 1e-9 - 1)

    @cached_property
    def _place(self) -> int:
        return self._votes.lowest(self._allowed)

    @cached_property
    def _deciding_peak(self) -> float:
        votes = self._votes_of(self.peaks)
        return votes.values[votes.lowest(self._allowed)]

    def _named(self, values: Sequence[float], deciding: float) -> tuple[str, ...]:
        named = zip(values, self.paths, strict=True)
        return tuple(path for value, path in named if value == deciding)

    @property
    def guaranteed_false_alarm_rate(self) -> float:
        """Largest fraction of good parts flagged; above the rate asked for if n is small.

        With groups, the probability that a new image of a new group is flagged.
        """
        votes = self._votes
        highest = votes.p_value(self._place + 1)  # of those that are flagged
        if self.confidence or self._groups_are_equal:
            return highest
        # Which p-values there are hangs on the groups' sizes then, and the theorem is about a rate
        # that was given before.  Below 1: an image with a p-value of 1 is never flagged.
        below_1 = 1 - 1 / (votes.parts * (votes.groups + 1))
        return min(max(highest, self.max_false_alarm_rate), below_1)

    @cached_property
    def _groups_are_equal(self) -> bool:
        return len({group.images for group in self.by_group()}) <= 1

    def rate_with_confidence(self, confidence: float = 0.95) -> float | None:
        """Return the false-alarm rate that these calibration images keep with a confidence.

        Of groups the highest scores count, so the rate is a cautious one.

        Args:
            confidence: probability over their draw, in [0, 1); see ``rate_bound``.

        Returns:
            ``None`` with groups of several images whose threshold, asked for in the mean, is below
            a group's highest score: how many of these are above it hangs on the scores then, and
            the bound is about a number that does not.
        """
        groups = range(len(self.scores)) if self.groups is None else self.groups
        above = len(set(groups[self._place + 1 :]))
        k = self._votes.groups
        if above and not self.confidence and k < len(self.scores):
            return None
        return rate_bound(k, above, confidence)

    def chance_of_flagged(self, flagged: int, images: int) -> float | None:
        """Return how likely it is that so many of new good images, or more, are flagged.

        Args:
            flagged: how many are.
            images: of how many.

        Returns:
            A probability in [0, 1]; ``None`` with groups, whose images do not come one by one.
        """
        if self.groups is not None:
            return None
        return chance_of_flagged(
            len(self.scores), len(self.scores) - 1 - self._place, flagged, images
        )

    def guarantee(self) -> str:
        """Return which false-alarm rate the threshold keeps, in words."""
        confidence = self.confidence or 0.95
        told = f"at most {self.guaranteed_false_alarm_rate:.2%} false alarms in the mean"
        if (rate := self.rate_with_confidence(confidence)) is not None:
            told += f", {rate:.2%} with {100 * confidence:.4g}% confidence"
        return told + (f", {self.guaranteed_for}" if self.guaranteed_for else "")

    @property
    def guaranteed_for(self) -> str:
        """Of which images the guarantee is, in words; nothing where each counts by itself."""
        return "" if self.groups is None else "for a new image of a new group"

    def p_value(self, score: float) -> float:
        """Return (1 + number of calibration scores >= score - ``TOLERANCE``) / (n + 1), in (0, 1].

        With groups it is (1 + their votes at or above that) / (number of groups + 1).  It is at
        most ``guaranteed_false_alarm_rate`` exactly where ``is_defective`` is true.
        """
        return self._votes.p_value(bisect.bisect_left(self.scores, score, key=_tie))

    def is_defective(self, score: float) -> bool:
        """Return whether an image with this score is called defective."""
        return score > self.threshold

    def guarantee_note(self) -> str | None:
        """Return what guaranteeing the rate asked for takes; ``None`` where it is guaranteed.

        With groups also, in any case, that all calibration images are of one.
        """
        n, rate = self._votes.groups, self.max_false_alarm_rate
        given, how = self.guaranteed_false_alarm_rate, ""
        needed = math.ceil(1 / rate - 1e-9) - 1
        if self.confidence:
            given = rate_bound(n, int(self._allowed), self.confidence)
            how = f" with {100 * self.confidence:.4g}% confidence"
            needed = math.ceil(math.log1p(-self.confidence) / math.log1p(-min(rate, 1 - 1e-9)))
        if self.groups is not None:
            return _groups_note(self.by_group(), given, how, rate, needed)
        if given <= rate:
            return None
        return (
            f"with {n} calibration images the threshold guarantees a false-alarm rate of "
            f"{given:.2%}{how}, not of {rate:.2%}, which takes {needed}: "
            f"give {needed - n} more good images, or accept a higher --max-false-alarm-rate."
        )

    def lone_note(self) -> str | None:
        """Return that one image far above all others sets the threshold; ``None`` if none does.

        It may show a defect that nobody saw, and then real ones that are fainter are missed.
        """
        if len(self.scores) < _SOME:
            return None
        first, second, *_ = sorted(self.scores, reverse=True)
        if first > self.threshold or second >= _FAR * first:
            return None
        return (
            f"{self.threshold_images[0]} alone sets the threshold: its score is {first:.4f}, the "
            f"next {second:.4f}. Look at it. If it shows a defect, train without it, or calibrate "
            "with other good images."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the derived thresholds included for people to read."""
        derived = {
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "guaranteed_false_alarm_rate": self.guaranteed_false_alarm_rate,
            "threshold_images": list(self.threshold_images),
            "pixel_threshold_images": list(self.pixel_threshold_images),
            "tolerance": TOLERANCE,
        }
        values = {**derived, **asdict(self)}
        if self.groups is None:
            del values["group_by"], values["groups"]
        if self.image_sha256 is None:
            del values["image_sha256"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that ``to_dict`` described."""
        plain: dict[str, Any] = {
            item.name: values[item.name]
            for item in fields(cls)
            if item.default is MISSING or item.name in values  # what came later has a default
        }
        plain["paths"] = tuple(plain["paths"])
        if plain.get("groups") is not None:
            plain["groups"] = tuple(map(str, plain["groups"]))
        if isinstance(plain["image_size"], list):
            plain["image_size"] = tuple(plain["image_size"])
        if plain.get("image_sha256") is not None:
            plain["image_sha256"] = tuple(map(str, plain["image_sha256"]))
        for name in ("scores", "peaks"):
            plain[name] = tuple(map(float, plain[name]))
        return cls(**plain)

    def require_match(
        self,
        settings: Settings,
        weights_sha256: str,
        where: Path,
        roi_sha256: str | None = None,
    ) -> None:
        """Refuse to be used with other values than those it was fitted for.

        Raises:
            BundleError: naming every difference.
        """
        used = {
            **_scored_with(settings),
            "weights_sha256": weights_sha256,
            "roi_sha256": roi_sha256,
        }
        wrong = [
            f"  {name}: calibrated for {getattr(self, name)}, the model has {value}"
            for name, value in used.items()
            if getattr(self, name) != value
        ]
        if wrong:
            raise BundleError(
                f"{where}: the calibration was made for another model or other settings, so its "
                "threshold would mean nothing:\n" + "\n".join(wrong) + "\nTrain anew or copy the "
                "bundle again."
            )


def _tie(score: float) -> float:
    """Return the highest score that is a tie with this one; no score is above 1.

    All comparisons are with this sum.  It rises with the score in floating point too, so a p-value
    and a decision cannot disagree.
    """
    return min(1.0, score + TOLERANCE)


def _in_order(
    scores: Sequence[float],
    peaks: Sequence[float],
    paths: Sequence[str],
    groups: Sequence[str] | None,
    hashes: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what a calibration keeps of its images, by rising score and then by path."""
    none = [""] * len(paths)
    rows = sorted(zip(scores, paths, peaks, groups or none, hashes or none, strict=True))
    return {
        "scores": tuple(row[0] for row in rows),
        "paths": tuple(row[1] for row in rows),
        "peaks": tuple(row[2] for row in rows),
        "groups": None if groups is None else tuple(row[3] for row in rows),
        "image_sha256": None if hashes is None else tuple(row[4] for row in rows),
    }


def _require_groups(groups: Sequence[str], count: int) -> None:
    if len(groups) != count:
        raise DataError(
            f"expected a group of each of {count} calibration images, got {len(groups)}"
        )


def _groups_note(
    groups: Sequence[GroupScores], given: float, how: str, rate: float, needed: int
) -> str | None:
    k = len(groups)
    if k > 1 and given <= rate:
        return None
    what = (
        f"all calibration images are of one group, {groups[0].group}, so the threshold knows "
        "nothing of others: it"
        if k == 1
        else f"with calibration images of {k} groups the threshold"
    )
    short = f", not of {rate:.2%}, which takes {needed} groups" if given > rate else ""
    missing = needed - k
    others = "other groups" if missing < 1 else f"{missing} more groups"
    return (
        f"{what} guarantees a false-alarm rate of {given:.2%}{how}{short}. Add good images of "
        f"{'another group' if missing == 1 else others} as you get them (destseg calibrate MODEL "
        "GOOD --add), or accept a higher --max-false-alarm-rate."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _scored_with(settings: Settings) -> dict[str, Any]:
    """Return the settings that scores depend on; the overlap only where there are tiles."""
    data = settings.data
    return {
        "image_size": data.image_size,
        "padded": data.fit == "pad",
        "bit_depth": data.bit_depth,
        "score_fraction": settings.decision.score_fraction,
        "tile": data.tile,
        "tile_overlap": data.tile_overlap if data.tile else 0.0,
        "consensus": settings.model.consensus if settings.model.surface_width else 0.0,
    }
