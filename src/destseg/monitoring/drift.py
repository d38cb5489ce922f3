"""Whether the scores of good-looking images still come as they came: a conformal test martingale.

Every score gets a p-value among all earlier ones, and the gambler of ``martingale.py`` bets against
these p-values being uniform.  Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World" (2005): smoothed conformal p-values on line, and martingales that test exchangeability.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from destseg.data.files import write_atomically
from destseg.errors import DataError
from destseg.inference.calibration import Calibration
from destseg.monitoring.martingale import Jumper, alarm_level

FORMAT = 1


@dataclass(frozen=True)
class DriftStep:
    """What one image did.

    Attributes:
        p_value: among all scores before it, in [0, 1]; ``None`` for an image that is not
            compared: at or above the threshold, or a tie with it.
        log10_martingale: decimal logarithm of the martingale after it.
    """

    p_value: float | None
    log10_martingale: float


@dataclass(frozen=True)
class Drift:
    """All that is known of a line so far: a value, from which to go on with more images.

    Thread safety: nothing changes a value, so any number of threads may use one.  A line has one
    order of time, so its states follow one another in one thread.

    Only scores below a limit count.  It is ``TOLERANCE`` below the calibration score that set the
    threshold, the k-th highest: what is a tie with that one is on the same side in every runtime.
    Given its value, the calibration scores below the limit and the scores of good parts below it
    are draws from one distribution, good parts' scores cut off there.  They are therefore
    exchangeable until something changes, which is all that the test assumes.

    Attributes:
        weights_sha256: of the weights that the calibration was made for.
        threshold: the calibration's; it, the hash and the limit say what a state belongs to.
        limit: only scores below it are compared; where the threshold has room, two calibrations
            may have one threshold and other limits.
        seed: of the random numbers that order equal scores.
        scores: the calibration's and the images' scores below the limit, rising.
        images: number of images seen.
        jumper: the gambler; ``jumper.played`` is the number of images that were compared.
        highest: highest log10 of the martingale so far, at least 0, its start.
        highest_at: after which image that was, counted from 1; 0 for the start.
        highest_lean: the fraction that bet on higher scores minus that on lower ones there, in
            [-1, 1]: which way the scores went.
    """

    weights_sha256: str
    threshold: float
    limit: float
    seed: int
    scores: tuple[float, ...]
    images: int = 0
    jumper: Jumper = field(default_factory=Jumper)
    highest: float = 0.0
    highest_at: int = 0
    highest_lean: float = 0.0

    def __post_init__(self) -> None:
        sums = math.fsum(self.jumper.accounts)
        sound = {
            "scores rise from 0 and stay below the limit": all(
                low <= high for low, high in itertools.pairwise((0.0, *self.scores))
            )
            and (not self.scores or self.scores[-1] < self.limit),
            "every compared image has a score": 0 <= self.jumper.played <= len(self.scores),
            "no more are compared than seen": self.jumper.played <= self.images,
            "accounts are fractions": min(self.jumper.accounts) >= 0 and abs(sums - 1) < 1e-6,
            "numbers are finite": math.isfinite(self.jumper.log_invested + self.highest),
            "the highest value was at an image": 0 <= self.highest_at <= self.images,
        }
        wrong = [rule for rule, holds in sound.items() if not holds]
        if wrong:
            raise DataError(f"expected a state in which {', '.join(wrong)}, got another")

    @classmethod
    def start(cls, calibration: Calibration, seed: int = 0) -> Drift:
        """Return the state before the first image."""
        limit = calibration.tie_limit
        below = calibration.scores[: bisect.bisect_left(calibration.scores, limit)]
        return cls(calibration.weights_sha256, calibration.threshold, limit, seed, below)

    def extend(self, scores: Iterable[float]) -> tuple[Drift, list[DriftStep]]:
        """Return the state after more images, and what each of them did.

        The scores before an image are those of the calibration and of all images before it,
        as (#{higher} + U #{equal, itself included}) / (n + 1) with U uniform.  These p-values are
        independent and uniform under exchangeability, however few the calibration scores are.
        p-values among the calibration scores alone would not do: each is uniform, but all of them
        lean one way where the calibration scores happen to, so that bets on that would win.

        Costs O(log n) and an insertion into a list an image, and a copy of the scores a call.

        Args:
            scores: image scores in [0, 1] in the order of time.

        Returns:
            The new state, and a step a score in the same order.

        Raises:
            DataError: if a score is not a number in [0, 1].
        """
        bag = list(self.scores)
        images, jumper = self.images, self.jumper
        highest = (self.highest, self.highest_at, self.highest_lean)
        steps = []
        for score in scores:
            if not 0 <= score <= 1:  # also true of NaN, which would pass as not good-looking
                raise DataError(f"expected image scores in [0, 1], got {score!r}")
            images += 1
            p_value = None
            if score < self.limit:
                first, behind = bisect.bisect_left(bag, score), bisect.bisect_right(bag, score)
                chance = _uniform(self.seed, jumper.played + 1)
                p_value = (len(bag) - behind + chance * (behind - first + 1)) / (len(bag) + 1)
                bag.insert(behind, score)
                jumper = jumper.bet(p_value)
                if jumper.log10_capital > highest[0]:
                    lean = jumper.accounts[0] - jumper.accounts[2]
                    highest = (jumper.log10_capital, images, lean)
            steps.append(DriftStep(p_value, jumper.log10_capital))
        lead, lead_at, lean_there = highest
        after = replace(
            self,
            scores=tuple(bag),
            images=images,
            jumper=jumper,
            highest=lead,
            highest_at=lead_at,
            highest_lean=lean_there,
        )
        return after, steps

    def is_alarm(self, rate: float) -> bool:
        """Return whether the martingale has ever reached 1 / rate.

        By Ville's inequality the chance that it ever does, over any number of images, is at most
        ``rate`` while nothing changes.  Once it has, it stays so: later images take nothing back.

        Args:
            rate: in (0, 1).
        """
        return self.highest >= alarm_level(rate)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Drift:
        """Return the state that ``to_dict`` described.

        Raises:
            DataError: if it is of another format or not such a state.
        """
        try:
            if values["format"] != FORMAT:
                raise DataError(
                    f"expected format {FORMAT}, got {values['format']}, of another version of "
                    "destseg, which compares other scores"
                )
            jumper = values["jumper"]
            small, none, large = map(float, jumper["accounts"])
            return cls(
                weights_sha256=str(values["weights_sha256"]),
                threshold=float(values["threshold"]),
                limit=float(values["limit"]),
                seed=int(values["seed"]),
                scores=tuple(map(float, values["scores"])),
                images=int(values["images"]),
                jumper=Jumper(
                    int(jumper["played"]), float(jumper["log_invested"]), (small, none, large)
                ),
                highest=float(values["highest"]),
                highest_at=int(values["highest_at"]),
                highest_lean=float(values["highest_lean"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"expected the state of a drift check, got {error!r}") from error


def save_state(path: str | Path, drift: Drift) -> None:
    """Write a state as JSON; at any moment the old or the new one is there, whole."""
    write_atomically(path, json.dumps(drift.to_dict(), allow_nan=False) + "\n")


def load_state(path: str | Path, calibration: Calibration) -> Drift:
    """Read a state and check that it belongs to a calibration.

    Raises:
        DataError: if it cannot be read, is damaged, or was made with other weights or another
            threshold.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise no_state(path, error) from error
    return parse_state(content, path, calibration)


def parse_state(content: bytes, path: str | Path, calibration: Calibration) -> Drift:
    """Return the state that a file has, as ``load_state`` reads it.

    Args:
        content: of the file.
        path: of it, for the error.
        calibration: that it has to belong to.

    Raises:
        DataError: as ``load_state``.
    """
    try:
        drift = Drift.from_dict(json.loads(content))
    except (ValueError, DataError) as error:
        raise no_state(path, error) from error
    ours = {
        "weights_sha256": calibration.weights_sha256,
        "threshold": calibration.threshold,
        "limit": calibration.tie_limit,
    }
    wrong = [
        f"  {name}: the state has {getattr(drift, name)}, the model {value}"
        for name, value in ours.items()
        if getattr(drift, name) != value
    ]
    if wrong:
        raise DataError(
            f"{path}: this state is of another model or another threshold, whose scores cannot be "
            "compared:\n" + "\n".join(wrong) + "\nName another file with --state to start anew, or "
            "the model that it was made with."
        )
    return drift


def no_state(path: str | Path, error: Exception) -> DataError:
    """Return the error of a file that has no state, or cannot be read."""
    return DataError(
        f"{path}: expected a state that destseg drift wrote, got: {error}. Name another file "
        "with --state, or remove this one to start anew."
    )


def _uniform(seed: int, number: int) -> float:
    """Return the random number in [0, 1) of one image: nothing to keep between two runs."""
    return random.Random(f"{seed}/{number}").random()
