"""From calibration images' scores to thresholds, p-values and decisions."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from destseg.config import ImageSize, Settings
from destseg.errors import BundleError, DataError, SettingsError

TOLERANCE = 1e-4
"""Largest difference of map values, and so of scores, that is rounding between fp32 runtimes.

It is part of what a decision is: scores no further apart than this are a tie, and a tie counts for
the part.
"""


def threshold_rank(
    n: int, max_false_alarm_rate: float, confidence: float = 0.0
) -> tuple[int, float]:
    """Return which of n calibration scores is the threshold, and the rate that it guarantees.

    Split conformal prediction (Vovk et al., 2005): a good part's p-value is at most a with
    probability at most a, and takes values k / (n + 1).

    Args:
        n: number of calibration images, at least 1.
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
        rank = 0
        while rank + 1 < n and rate_bound(n, rank + 1, confidence) <= max_false_alarm_rate:
            rank += 1
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
        n: number of calibration images.
        rank: of the score that is the threshold, counted from 0 at the highest; below n.
        confidence: probability over the draw of the calibration images, in [0, 1).

    Returns:
        The rate in [0, 1] that is exceeded with a probability of 1 - confidence.

    >>> round(rate_bound(59, 0, 0.95), 3), round(rate_bound(299, 0, 0.95), 3)
    (0.05, 0.01)
    """
    if rank == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    logs = [math.log(math.comb(n, k)) for k in range(rank + 1)]
    low, high = 0.0, 1.0
    for _ in range(60):  # halving: at most so many parts of n are above, with 1 - confidence
        rate = (low + high) / 2
        inside, outside = math.log(rate), math.log1p(-rate)
        at_most = sum(math.exp(log + k * inside + (n - k) * outside) for k, log in enumerate(logs))
        low, high = (rate, high) if at_most > 1 - confidence else (low, rate)
    return high


@dataclass(frozen=True)
class Calibration:
    """Calibration images' scores, the thresholds from them, and all that they depend on.

    A score within ``TOLERANCE`` of one of them is a tie with it, which counts for the part: in
    every runtime an image gets at most the p-value, and the decision, of one that scored better.

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

    @classmethod
    def fit(
        cls,
        scores: Sequence[float],
        peaks: Sequence[float],
        paths: Sequence[str],
        settings: Settings,
        weights_sha256: str,
        roi_sha256: str | None = None,
    ) -> Calibration:
        """Return the calibration from the scores, map peaks and paths of good images."""
        if not len(scores) == len(peaks) == len(paths):
            raise DataError(
                f"expected a score, a peak and a path of each good image, got {len(scores)}, "
                f"{len(peaks)} and {len(paths)}"
            )
        rising = sorted(zip(scores, paths, peaks, strict=True))
        return cls(
            scores=tuple(score for score, _, _ in rising),
            peaks=tuple(peak for _, _, peak in rising),
            paths=tuple(path for _, path, _ in rising),
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

    @property
    def threshold(self) -> float:
        """Image scores above this are defective: a calibration score and the tolerance."""
        return _tie(self._deciding(self.scores))

    @property
    def tie_limit(self) -> float:
        """Image scores below this are certainly better than the one that set the threshold."""
        return self._deciding(self.scores) - TOLERANCE

    @cached_property
    def pixel_threshold(self) -> float:
        """Map values above this are a region: as many good parts show none as are passed."""
        return _tie(self._deciding(sorted(self.peaks)))

    @property
    def threshold_images(self) -> tuple[str, ...]:
        """Paths of the images whose score set the threshold."""
        return self._named(self.scores)

    @property
    def pixel_threshold_images(self) -> tuple[str, ...]:
        """Paths of the images whose peak set the pixel threshold."""
        return self._named(self.peaks)

    def set_by(self) -> str:
        """Return which images set the thresholds, in words."""
        image, pixel = map(_listed, (self.threshold_images, self.pixel_threshold_images))
        return f"set by {image}" + (f", that of regions by {pixel}" if pixel != image else "")

    def _deciding(self, rising: Sequence[float]) -> float:
        return rising[-1 - self._rank]

    @cached_property  # with a confidence it takes milliseconds, and every decision asks
    def _rank(self) -> int:
        return threshold_rank(len(self.scores), self.max_false_alarm_rate, self.confidence)[0]

    def _named(self, values: Sequence[float]) -> tuple[str, ...]:
        deciding = self._deciding(sorted(values))
        named = zip(values, self.paths, strict=True)
        return tuple(path for value, path in named if value == deciding)

    @property
    def guaranteed_false_alarm_rate(self) -> float:
        """Largest fraction of good parts flagged; above the rate asked for if n is small."""
        return (self._rank + 1) / (len(self.scores) + 1)

    def rate_with_confidence(self, confidence: float = 0.95) -> float:
        """Return the false-alarm rate that these calibration images keep with a confidence.

        Args:
            confidence: probability over their draw, in [0, 1); see ``rate_bound``.
        """
        return rate_bound(len(self.scores), self._rank, confidence)

    def guarantee(self) -> str:
        """Return which false-alarm rate the threshold keeps, in words."""
        confidence = self.confidence or 0.95
        return (
            f"at most {self.guaranteed_false_alarm_rate:.2%} false alarms in the mean, "
            f"{self.rate_with_confidence(confidence):.2%} with {100 * confidence:.4g}% confidence"
        )

    def p_value(self, score: float) -> float:
        """Return (1 + number of calibration scores >= score - ``TOLERANCE``) / (n + 1), in (0, 1].

        It is at most ``guaranteed_false_alarm_rate`` exactly where ``is_defective`` is true.
        """
        n = len(self.scores)
        return (1 + n - bisect.bisect_left(self.scores, score, key=_tie)) / (n + 1)

    def is_defective(self, score: float) -> bool:
        """Return whether an image with this score is called defective."""
        return score > self.threshold

    def guarantee_note(self) -> str | None:
        """Return what guaranteeing the rate asked for takes; ``None`` where it is guaranteed."""
        n, rate = len(self.scores), self.max_false_alarm_rate
        if self.confidence:
            given = self.rate_with_confidence(self.confidence)
            how = f" with {100 * self.confidence:.4g}% confidence"
            needed = math.ceil(math.log1p(-self.confidence) / math.log1p(-min(rate, 1 - 1e-9)))
        else:
            given, how = self.guaranteed_false_alarm_rate, ""
            needed = math.ceil(1 / rate - 1e-9) - 1
        if given <= rate:
            return None
        return (
            f"with {n} calibration images the threshold guarantees a false-alarm rate of "
            f"{given:.2%}{how}, not of {rate:.2%}, which takes {needed}: "
            f"give {needed - n} more good images, raise --calibration-fraction, or accept a higher "
            "--max-false-alarm-rate."
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
        return {**derived, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that ``to_dict`` described."""
        plain: dict[str, Any] = {
            item.name: values[item.name]
            for item in fields(cls)
            if item.default is MISSING or item.name in values  # what came later has a default
        }
        plain["paths"] = tuple(plain["paths"])
        if isinstance(plain["image_size"], list):
            plain["image_size"] = tuple(plain["image_size"])
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
    }
