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

from destseg.config import ImageSize, Room, Settings
from destseg.data.lists import some
from destseg.data.names import may_be_one
from destseg.errors import BundleError, DataError, SettingsError
from destseg.fields import BY_FOLDER, EACH_IMAGE, EVEN
from destseg.inference import calibration_words as words
from destseg.inference.order_statistics import allowed_above, chance_of_flagged, rate_bound
from destseg.inference.votes import Votes
from destseg.validation import ROOM, problem

TOLERANCE = 1e-4
"""Largest difference of map values, and so of scores, that is rounding between fp32 runtimes.

It is part of what a decision is: scores no further apart than this are a tie, and a tie counts for
the part.
"""

EARLIER = "earlier images"
"""The group of calibration images whose groups nobody knows, where others are added to them."""

_FAR = 0.5  # of the highest score: where the next one is lower, it stands alone
_SOME = 5  # images; of fewer one may well lie far from the others


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
        image_sha256: of the files, in the order of ``scores``, ``""`` of those where it is not
            known; ``None`` where it is known of none.
        room: how far the thresholds rise from the calibration images towards the anomalies, in
            [0, 1], or ``auto``: half of the way, but not above what is as likely a defect as none.
        anomalies: the score, and the highest map value, that 19 of 20 synthetic anomalies on the
            first calibration images reach; ``None``: not known, and the thresholds do not rise.
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
    room: Room = 0.0
    anomalies: tuple[float, float] | None = None

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
        if wrong := problem(self.room, Room, ROOM):
            raise SettingsError(f"--room: {wrong}")
        others = [value for value in (*self.scores, *self.peaks) if not 0 <= value <= 1]
        if others:  # with NaN or a value above 1 no image would ever be defective
            raise DataError(
                f"a calibration's scores and peaks are expected in [0, 1], got {others[0]}"
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
            room=settings.decision.room,
            weights_sha256=weights_sha256,
            roi_sha256=roi_sha256,
            **_scored_with(settings),
        )

    def with_rate(
        self, max_false_alarm_rate: float, confidence: float = 0.0, room: Room | None = None
    ) -> Calibration:
        """Return the same calibration scores with another rate and confidence asked for.

        Args:
            max_false_alarm_rate: in (0, 1].
            confidence: in [0, 1); 0 is in the mean.
            room: in [0, 1], or ``auto``; ``None`` keeps it.

        Raises:
            SettingsError: if the rate is not in (0, 1], the confidence not in [0, 1), or the room
                neither ``auto`` nor in [0, 1].
        """
        return replace(
            self,
            max_false_alarm_rate=max_false_alarm_rate,
            confidence=confidence,
            room=self.room if room is None else room,
        )

    def with_more(self, other: Calibration) -> Calibration:
        """Return the calibration of these images and of others, at the others' rate.

        Where these have no groups and the others do, these are one group: nobody knows better.

        Raises:
            SettingsError: if both have groups, by different things.
            DataError: if an image is in both, or it is not known whether a folder is.
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
                f"{some(both)}. Give new ones, or calibrate anew without --add."
            )
        groups = hashes = None
        if before.groups is not None and other.groups is not None:
            if other.group_by == BY_FOLDER:
                _require_told_apart(before.groups, other.groups)
            groups = before.groups + other.groups
        if before.image_sha256 is not None or other.image_sha256 is not None:
            hashes = before.contents + other.contents
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
        known = {content for content in self.contents if content}
        unknown = {
            path for path, content in zip(self.paths, self.contents, strict=True) if not content
        }
        return sorted(
            path
            for path, content in zip(other.paths, other.contents, strict=True)
            if content in known or path in unknown or (path in self.paths and not content)
        )

    @property
    def contents(self) -> tuple[str, ...]:
        """SHA-256 of each image's file; ``""`` where it is not known."""
        return self.image_sha256 or ("",) * len(self.paths)

    @cached_property
    def threshold(self) -> float:
        """Image scores above this are defective: ``good_limit``, or higher where there is room."""
        return self._raised(self.good_limit, 0)

    @property
    def good_limit(self) -> float:
        """The lowest threshold that keeps the rate: a calibration score and the tolerance."""
        return _tie(self._votes.values[self._place])

    def _raised(self, limit: float, kind: int) -> float:
        if self.anomalies is None:
            return limit
        gap = max(0.0, self.anomalies[kind] - limit)
        if self.room == "auto":
            return max(limit, min(limit + gap / 2, EVEN))
        return limit + self.room * gap

    @property
    def tie_limit(self) -> float:
        """Image scores below this are certainly better than the one that set the threshold."""
        return self._votes.values[self._place] - TOLERANCE

    @cached_property
    def pixel_threshold(self) -> float:
        """Map values above this are a region: as many good parts show none as are passed."""
        return self._raised(_tie(self._deciding_peak), 1)

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
        told = words.set_by(self.threshold_images, self.pixel_threshold_images)
        if self.room and self.anomalies is not None:
            told += words.raised(self.good_limit, self.threshold, self.room)
        return told

    @cached_property
    def _votes(self) -> Votes:
        return self._votes_of(self.scores)

    def _votes_of(self, values: Sequence[float]) -> Votes:
        groups = range(len(values)) if self.groups is None else self.groups
        return Votes.of(values, groups, highest=self.confidence > 0)

    @cached_property
    def _allowed(self) -> float:
        """How many votes may lie above the threshold."""
        return allowed_above(self._votes.groups, self.max_false_alarm_rate, self.confidence)

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
        return words.guarantee(
            self.guaranteed_false_alarm_rate,
            self.rate_with_confidence(confidence),
            confidence,
            self.guaranteed_for,
        )

    @property
    def guaranteed_for(self) -> str:
        """Of which images the guarantee is, in words; nothing where each counts by itself."""
        return "" if self.groups is None else "for a new image of a new group"

    def p_value(self, score: float) -> float:
        """Return (1 + number of calibration scores >= score - ``TOLERANCE``) / (n + 1), in (0, 1].

        With groups it is (1 + their votes at or above that) / (number of groups + 1).  It is at
        most ``guaranteed_false_alarm_rate`` exactly where ``is_defective`` is true: in the room
        that the threshold leaves above the calibration images it is that of the one that set it.

        Raises:
            DataError: if the score is NaN.
        """
        place = bisect.bisect_left(self.scores, score, key=_tie)
        return self._votes.p_value(place if self.is_defective(score) else min(place, self._place))

    def is_defective(self, score: float) -> bool:
        """Return whether an image with this score is called defective.

        Raises:
            DataError: if it is NaN, which is above no threshold, so that each part would pass.
        """
        if math.isnan(score):
            raise DataError("expected a score, got NaN: the model that gave it is broken")
        return score > self.threshold

    def guarantee_note(self) -> str | None:
        """Return what guaranteeing the rate asked for takes; ``None`` where it is guaranteed.

        With groups also, in any case, that all calibration images are of one.
        """
        given = self.guaranteed_false_alarm_rate
        if self.confidence:
            given = rate_bound(self._votes.groups, int(self._allowed), self.confidence)
        asked = (self.max_false_alarm_rate, self.confidence)
        if self.groups is None:
            return words.too_few_images(len(self.scores), given, *asked)
        return words.too_few_groups(sorted({*self.groups}), given, *asked)

    def lone_note(self) -> str | None:
        """Return that one image far above all others sets the threshold; ``None`` if none does.

        It may show a defect that nobody saw, and then real ones that are fainter are missed.
        """
        if len(self.scores) < _SOME:
            return None
        first, second, *_ = sorted(self.scores, reverse=True)
        if first > self.good_limit or second >= _FAR * first:
            return None
        return words.alone(self.threshold_images[0], first, second)

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
        if self.anomalies is None:
            del values["anomalies"]
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
        if plain.get("anomalies") is not None:
            score, peak = plain["anomalies"]
            plain["anomalies"] = (float(score), float(peak))
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


def _require_told_apart(before: Sequence[str], more: Sequence[str]) -> None:
    """Refuse folders that may be one under two names, as seen from two places: two votes for it."""
    known = sorted({*before})
    for name in sorted({*more}.difference(before)):
        for there in known:
            if may_be_one(name, there):
                raise DataError(
                    "--group-by folder: expected folders of which it is known whether they are in "
                    f"the calibration yet, got {name}, which may be {there} in it. Give a list of "
                    "the images (.txt) that lies in the folder that was given before: then they "
                    "are called as they were. Or calibrate anew without --add."
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
