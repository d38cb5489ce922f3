"""From calibration images' scores to thresholds, p-values and decisions."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
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


def threshold_rank(n: int, max_false_alarm_rate: float) -> tuple[int, float]:
    """Return which of n calibration scores is the threshold, and the rate that it guarantees.

    Split conformal prediction (Vovk et al., 2005): a good part's p-value is at most a with
    probability at most a, and takes values k / (n + 1).

    Args:
        n: number of calibration images, at least 1.
        max_false_alarm_rate: the rate a asked for, in (0, 1].

    Returns:
        (rank, guaranteed false-alarm rate): an image is flagged when its score is above the rank-th
        highest calibration score, counted from 0, by more than ``TOLERANCE``.  Where n is too small
        for the rate asked for, the rank is 0 and the guarantee is 1 / (n + 1).
    """
    # The small term keeps 0.1 * 10 from becoming 0.9999...
    allowed = math.floor(max_false_alarm_rate * (n + 1) + 1e-9)
    allowed = min(max(allowed, 1), n)
    return allowed - 1, allowed / (n + 1)


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

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.peaks) == len(self.paths) > 0:
            raise DataError("a calibration needs at least one calibration image, got none")
        if not 0 < self.max_false_alarm_rate <= 1:
            raise SettingsError(
                "--max-false-alarm-rate: expected a number in (0, 1], got "
                f"{self.max_false_alarm_rate!r}"
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
            weights_sha256=weights_sha256,
            roi_sha256=roi_sha256,
            **_scored_with(settings),
        )

    def with_rate(self, max_false_alarm_rate: float) -> Calibration:
        """Return the same calibration scores with another rate asked for.

        Raises:
            SettingsError: if the rate is not in (0, 1].
        """
        return replace(self, max_false_alarm_rate=max_false_alarm_rate)

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
        rank, _ = threshold_rank(len(rising), self.max_false_alarm_rate)
        return rising[-1 - rank]

    def _named(self, values: Sequence[float]) -> tuple[str, ...]:
        deciding = self._deciding(sorted(values))
        named = zip(values, self.paths, strict=True)
        return tuple(path for value, path in named if value == deciding)

    @property
    def guaranteed_false_alarm_rate(self) -> float:
        """Largest fraction of good parts flagged; above the rate asked for if n is small."""
        return threshold_rank(len(self.scores), self.max_false_alarm_rate)[1]

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
        if self.guaranteed_false_alarm_rate <= self.max_false_alarm_rate:
            return None
        n = len(self.scores)
        needed = math.ceil(1 / self.max_false_alarm_rate - 1e-9) - 1
        return (
            f"with {n} calibration images the threshold guarantees a false-alarm rate of "
            f"{self.guaranteed_false_alarm_rate:.2%}, not of {self.max_false_alarm_rate:.2%}, "
            f"which takes {needed}: give more good images, raise --calibration-fraction, or accept "
            "a higher --max-false-alarm-rate."
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
        plain: dict[str, Any] = {item.name: values[item.name] for item in fields(cls)[:-1]}
        plain["padded"] = values.get("padded", False)  # it came later than the others
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
