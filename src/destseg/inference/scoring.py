"""What a score means: from a map to one number, and from held-out good pictures to a decision."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.config import Settings
from destseg.errors import BundleError, DataError, SettingsError

_PIXELS_AT_A_TIME = 2**22


def image_score(
    anomaly_map: NDArray[np.float32], fraction: float, inspected: int | None = None
) -> float:
    """Return how anomalous a picture is: the mean over the highest share of its map.

    A share instead of a number of pixels (the paper's 100 of 256 x 256) means the same at any
    size.

    Args:
        anomaly_map: float [h, w] in [0, 1], at the model's size.
        fraction: share of the pixels in (0, 1]; at least one pixel is taken.
        inspected: how many pixels the share is of, where the map is 0 outside a region of
            interest; ``None`` is all of them.

    Returns:
        The score in [0, 1].
    """
    pixels = anomaly_map.size if inspected is None else inspected
    highest = _highest(anomaly_map, min(pixels, max(1, round(fraction * pixels))))
    # In order, so that the sum does not depend on where in the map they lay.
    highest.sort()
    return float(highest.mean(dtype=np.float64))


def _highest(anomaly_map: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the highest values of a map, in any order, without a copy of a large one.

    Some rows at a time: those that are above all but ``count`` of what was seen are kept.
    """
    rows = max(1, _PIXELS_AT_A_TIME // anomaly_map.shape[1])
    if count > anomaly_map.size // 8:
        rows = len(anomaly_map)  # nearly all are kept anyway
    kept = np.empty(0, np.float32)
    for start in range(0, len(anomaly_map), rows):
        values = anomaly_map[start : start + rows].reshape(-1)
        if len(kept) == count:
            values = values[values > kept.min()]
        kept = np.concatenate((kept, values)) if len(kept) else values
        if len(kept) > count:
            kept = np.partition(kept, len(kept) - count)[len(kept) - count :]
    return np.array(kept, dtype=np.float32)


def threshold_rank(n: int, max_false_alarm_rate: float) -> tuple[int, float]:
    """Return which of n held-out scores is the threshold, and the rate that it promises.

    Split conformal prediction (Vovk et al., 2005): a good part's p-value is at most a with
    probability at most a, and takes values k / (n + 1).

    Args:
        n: number of held-out good pictures, at least 1.
        max_false_alarm_rate: the rate a asked for, in (0, 1].

    Returns:
        (rank, promised rate): a picture is flagged when its score is above the rank-th highest
        held-out score, counted from 0.  Where n is too small for the rate asked for, the rank is
        0 and the promise is 1 / (n + 1).
    """
    # The small term keeps 0.1 * 10 from becoming 0.9999...
    allowed = math.floor(max_false_alarm_rate * (n + 1) + 1e-9)
    allowed = min(max(allowed, 1), n)
    return allowed - 1, allowed / (n + 1)


@dataclass(frozen=True)
class Calibration:
    """Held-out good pictures' scores, the thresholds from them, and all that they depend on.

    Attributes:
        scores: image scores of the held-out good pictures, rising.
        peaks: highest map value of each held-out good picture, rising.
        pictures: their names.
        max_false_alarm_rate: the rate asked for.
        image_size: side in pixels that pictures were resized to.
        score_fraction: share of the map that the score is the mean of.
        weights_sha256: of the weights that gave the scores.
        tile: whether pictures were cut into tiles.
        tile_overlap: of the tiles; 0 without them.
        roi_sha256: of the region of interest; ``None`` where whole pictures were inspected.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    pictures: tuple[str, ...]
    max_false_alarm_rate: float
    image_size: int
    score_fraction: float
    weights_sha256: str
    tile: bool = False
    tile_overlap: float = 0.0
    roi_sha256: str | None = None

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.peaks) == len(self.pictures) > 0:
            raise DataError("a calibration needs at least one held-out good picture, got none")
        if not 0 < self.max_false_alarm_rate <= 1:
            raise SettingsError(
                "--max-false-alarm-rate: expected a number in (0, 1], got "
                f"{self.max_false_alarm_rate!r}"
            )
        if list(self.scores) != sorted(self.scores) or list(self.peaks) != sorted(self.peaks):
            raise DataError("a calibration's scores and peaks are expected in rising order")

    @classmethod
    def fit(
        cls,
        scores: Sequence[float],
        peaks: Sequence[float],
        pictures: Sequence[str],
        settings: Settings,
        weights_sha256: str,
        roi_sha256: str | None = None,
    ) -> Calibration:
        """Return the calibration from the scores and map peaks of held-out good pictures."""
        return cls(
            scores=tuple(sorted(scores)),
            peaks=tuple(sorted(peaks)),
            pictures=tuple(pictures),
            max_false_alarm_rate=settings.decision.max_false_alarm_rate,
            weights_sha256=weights_sha256,
            roi_sha256=roi_sha256,
            **_scored_with(settings),
        )

    def with_rate(self, max_false_alarm_rate: float) -> Calibration:
        """Return the same held-out scores with another rate asked for.

        Raises:
            SettingsError: if the rate is not in (0, 1].
        """
        return replace(self, max_false_alarm_rate=max_false_alarm_rate)

    @property
    def threshold(self) -> float:
        """Image scores above this are defective."""
        rank, _ = threshold_rank(len(self.scores), self.max_false_alarm_rate)
        return self.scores[-1 - rank]

    @property
    def pixel_threshold(self) -> float:
        """Map values above this are a region: as many good parts show none as are passed."""
        rank, _ = threshold_rank(len(self.peaks), self.max_false_alarm_rate)
        return self.peaks[-1 - rank]

    @property
    def promised_rate(self) -> float:
        """At most this share of good parts is flagged; above the rate asked for if n is small."""
        return threshold_rank(len(self.scores), self.max_false_alarm_rate)[1]

    def p_value(self, score: float) -> float:
        """Return (1 + number of held-out scores >= score) / (n + 1), in (0, 1]."""
        n = len(self.scores)
        return (1 + n - bisect.bisect_left(self.scores, score)) / (n + 1)

    def shortfall(self) -> str | None:
        """Return why the rate asked for cannot be promised, or ``None`` if it can."""
        if self.promised_rate <= self.max_false_alarm_rate:
            return None
        n = len(self.scores)
        needed = math.ceil(1 / self.max_false_alarm_rate - 1e-9) - 1
        return (
            f"with {n} held-out good pictures a false-alarm rate of "
            f"{self.max_false_alarm_rate:.2%} cannot be promised; the threshold promises "
            f"{self.promised_rate:.2%}. It takes {needed} held-out pictures: give more good "
            "pictures, raise --held-out-fraction, or accept a higher --max-false-alarm-rate."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the derived thresholds included for people to read."""
        derived = {
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "promised_rate": self.promised_rate,
        }
        return {**derived, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that ``to_dict`` described; what is newer has its default."""
        plain: dict[str, Any] = {
            item.name: values[item.name]
            for item in fields(cls)
            if item.name in values or item.default is MISSING
        }
        plain["pictures"] = tuple(plain["pictures"])
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


def _scored_with(settings: Settings) -> dict[str, Any]:
    """Return the settings that scores depend on; the overlap only where there are tiles."""
    data = settings.data
    return {
        "image_size": data.image_size,
        "score_fraction": settings.decision.score_fraction,
        "tile": data.tile,
        "tile_overlap": data.tile_overlap if data.tile else 0.0,
    }
