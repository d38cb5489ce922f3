"""A qualification: all that is measured of a model, as one value, and its measuring."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import destseg
from destseg.data.choice import evenly
from destseg.data.contents import contents_of
from destseg.data.files import sha256_of_image
from destseg.data.images import read_with
from destseg.data.lists import counted, some
from destseg.errors import DataError, SettingsError
from destseg.inference.predictor import Predictor
from destseg.qualification.blind_spots import BlindSpots, fields_of, find_blind_spots
from destseg.qualification.curves import CONFIDENCE, FOUND
from destseg.qualification.detection import (
    SIZES,
    FamilyDetection,
    Reference,
    detect,
    grid_size,
    reference_of,
    sizes_for,
)
from destseg.qualification.drawing import FAMILIES, MAX_CONTRAST
from destseg.qualification.gauge import Gauge, measure_gauge, shots_in
from destseg.qualification.repeatability import NOISE, SHIFT, Spread, measure_repeatability
from destseg.qualification.tolerance import Strength, Tolerance, find_tolerances, most_trials
from destseg.qualification.trials import Good, measure_good
from destseg.rate import Rate
from destseg.validation import at_least, problem

_FEW = 30


@dataclass(frozen=True)
class Plan:
    """What is to be tried.

    Attributes:
        sizes: of drawn defects in pixels, rising; empty chooses them by the images.
        contrasts: in grey levels, rising.
        trials: for each family, size and contrast.
        images: good images at most, evenly over those given.
        seed: of all that is random.
        mm_per_pixel: of the images; ``None`` gives no millimetres.
    """

    sizes: tuple[float, ...]
    contrasts: tuple[float, ...]
    trials: int
    images: int
    seed: int
    mm_per_pixel: float | None

    def __post_init__(self) -> None:
        wrong = []
        if self.sizes and not (len(self.sizes) > 1 and _rises(self.sizes) and self.sizes[0] >= 1):
            wrong.append(
                "--sizes: expected at least two sizes in pixels, 1 or more, rising, got "
                f"{self.sizes}"
            )
        if not (
            self.contrasts
            and _rises(self.contrasts)
            and self.contrasts[0] > 0
            and self.contrasts[-1] <= MAX_CONTRAST
        ):
            wrong.append(
                f"--contrasts: expected grey levels in (0, {MAX_CONTRAST:g}], rising, got "
                f"{self.contrasts}"
            )
        for name, least in (("trials", 1), ("images", 2), ("seed", 0)):
            if problem(getattr(self, name), int, at_least(least)):
                wrong.append(
                    f"--{name}: expected a whole number of at least {least}, got "
                    f"{getattr(self, name)}"
                )
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < float("inf"):
            wrong.append(f"--mm-per-pixel: expected a number above 0, got {self.mm_per_pixel}")
        if wrong:
            raise SettingsError("\n".join(wrong))


@dataclass(frozen=True, eq=False)
class Qualification:
    """How small a defect a model finds, where it misses some, and what changes it bears.

    Sizes are the largest extent of a defect in pixels of the image, contrasts are grey levels of
    255.  All of it is true of drawn defects on images like those given.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        model: name, weights' SHA-256, backend, threshold and guarantee, as plain values.
        images: how many good images were given, and used; their SHA-256, as plain values.
        false_alarms: of the good images as they are; these are not drawn on.
        plan: what was tried, as plain values.
        detection: of each family at each contrast.
        reference: the defects that what follows is measured with.
        blind_spots: where those are missed.
        unchanged: the same without a change, to compare with.
        tolerances: how strong changes may be.
        repeatability: of good parts, and of parts with a defect, under simulated shots.
        gauge: of real repeated shots; ``None`` without them.
        notes: what a reader should know first.
        failures: images that could not be read, with the reason.
        typical: the good image with the middle score, uint8 RGB [h, w, 3].
    """

    model: dict[str, Any]
    images: dict[str, Any]
    false_alarms: Rate
    plan: dict[str, Any]
    detection: tuple[FamilyDetection, ...]
    reference: Reference
    blind_spots: BlindSpots
    unchanged: Strength
    tolerances: tuple[Tolerance, ...]
    repeatability: tuple[Spread, Spread]
    gauge: Gauge | None
    notes: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    typical: NDArray[np.uint8]

    def find(self, family: str, contrast: float) -> FamilyDetection:
        """Return how a family is found at a contrast that was tried.

        Raises:
            DataError: if it was not.
        """
        for each in self.detection:
            if (each.family, each.contrast) == (family, contrast):
                return each
        raise DataError(
            f"expected a family of {', '.join(FAMILIES)} and a contrast that was tried, got "
            f"{family!r} at {contrast:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the same for the same call."""
        good, defective = self.repeatability
        return {
            "destseg": destseg.__version__,
            "model": self.model,
            "images": self.images,
            "false_alarms": self.false_alarms.to_json(),
            "plan": self.plan,
            "detection": [each.to_json() for each in self.detection],
            "reference": dict(vars(self.reference)),
            "blind_spots": self.blind_spots.to_json(),
            "unchanged": dict(vars(self.unchanged)),
            "tolerances": [each.to_json() for each in self.tolerances],
            "repeatability": {"good": good.to_json(), "defective": defective.to_json()},
            "gauge": None if self.gauge is None else self.gauge.to_json(),
            "notes": list(self.notes),
            "failures": [{"path": path, "error": error} for path, error in self.failures],
        }


def measure(
    predictor: Predictor,
    paths: Sequence[Path],
    plan: Plan,
    repeats: list[list[list[Path]]] | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> Qualification:
    """Measure all of it.

    Args:
        predictor: the model.
        paths: good images that nothing was trained on.
        plan: what is to be tried.
        repeats: real repeated shots, by part and condition.
        on_progress: called with inspections that are done and how many there are at most.

    Raises:
        DataError: if no image can be drawn on.
        ImageError: if an image or a shot can no longer be read.
    """
    chosen = evenly(paths, plan.images)
    good = measure_good(predictor, chosen)
    if not good.paths:
        raise DataError(
            f"expected good images below the threshold to draw defects on, got none of "
            f"{len(chosen)}: {len(good.false_alarms)} are called defective, "
            f"{len(good.unreadable)} cannot be read. Fit the threshold to images of today: "
            "destseg calibrate."
        )
    done = _Progress(on_progress, _most(plan, good, repeats))
    data = predictor.bundle.settings.data
    sizes = plan.sizes or sizes_for(good, None if data.tile else data.size)
    found = detect(predictor, good, sizes, plan.contrasts, plan.trials, plan.seed, done)
    reference = reference_of(found)
    blind = find_blind_spots(predictor, good, reference, _in_field(plan), plan.seed, done)
    unchanged, tolerances = find_tolerances(
        predictor, good, reference, _for_tolerance(plan, good), plan.seed, done.many
    )
    repeatability = measure_repeatability(
        predictor, good, reference, _for_repeats(plan, good), _shots(plan), plan.seed, done
    )
    gauge = None if repeats is None else measure_gauge(predictor, repeats, done)
    middle = sorted(range(len(good.scores)), key=lambda n: good.scores[n])[len(good.scores) // 2]
    calibration = predictor.calibration
    return Qualification(
        model={
            "name": predictor.bundle.folder.resolve().name,
            "weights_sha256": predictor.weights_sha256,
            "backend": predictor.backend_name,
            "image_size": list(data.size),
            "tile": data.tile,
            "roi_sha256": predictor.bundle.roi_sha256,
            "threshold": calibration.threshold,
            "calibration_images": len(calibration.scores),
            "guaranteed_false_alarm_rate": calibration.guaranteed_false_alarm_rate,
            "guarantee": calibration.guarantee(),
        },
        images={
            "given": len(paths),
            "read": good.read,
            "drawn_on": len(good.paths),
            "sha256": _digest(good.paths),
            "typical": good.paths[middle].name,
            "typical_size": list(good.sizes[middle]),
        },
        false_alarms=Rate(len(good.false_alarms), good.read),
        plan={
            "sizes": list(sizes),
            "contrasts": list(plan.contrasts),
            "families": {name: each.what for name, each in FAMILIES.items()},
            "trials": plan.trials,
            "seed": plan.seed,
            "mm_per_pixel": plan.mm_per_pixel,
            "found": FOUND,
            "confidence": CONFIDENCE,
            "noise": NOISE,
            "shift": SHIFT,
        },
        detection=found,
        reference=reference,
        blind_spots=blind,
        unchanged=unchanged,
        tolerances=tolerances,
        repeatability=repeatability,
        gauge=gauge,
        notes=tuple(_notes(predictor, good, chosen, plan, sizes, found)),
        failures=tuple((each.path, each.error.reason) for each in good.unreadable),
        typical=read_with(good.paths[middle], data),
    )


class _Progress:
    """Counts inspections; those that turn out not to be needed count as done."""

    def __init__(self, on_progress: Callable[[int, int], object], total: int) -> None:
        self._on_progress, self._done, self._total = on_progress, 0, total

    def __call__(self) -> None:
        self.many(1)

    def many(self, count: int) -> None:
        """Count several at once."""
        self._done += count
        self._on_progress(self._done, self._total)


def _most(plan: Plan, good: Good, repeats: list[list[list[Path]]] | None) -> int:
    """Return how many inspections there are at most, after the good images as they are."""
    rows, columns = fields_of(good)
    return (
        grid_size(plan.sizes or range(SIZES), plan.contrasts, plan.trials)
        + rows * columns * len(FAMILIES) * _in_field(plan)
        + most_trials(_for_tolerance(plan, good))
        + 2 * _for_repeats(plan, good) * _shots(plan)
        + (0 if repeats is None else len(shots_in(repeats)))
    )


def _in_field(plan: Plan) -> int:
    return max(1, plan.trials // 5)


def _for_tolerance(plan: Plan, good: Good) -> int:
    return min(len(good.paths), 2 * plan.trials)


def _for_repeats(plan: Plan, good: Good) -> int:
    return min(len(good.paths), plan.trials)


def _shots(plan: Plan) -> int:
    return max(2, plan.trials)


def _notes(
    predictor: Predictor,
    good: Good,
    chosen: Sequence[Path],
    plan: Plan,
    sizes: Sequence[float],
    found: Sequence[FamilyDetection],
) -> list[str]:
    notes = []
    if set_it := _that_calibrated(predictor, chosen):
        notes.append(
            f"{len(set_it)} of {len(chosen)} good images set the threshold, so that few of them "
            f"can be false alarms: {some(set_it)}. To test the threshold give others."
        )
    count = len(good.paths)
    if count < _FEW:
        notes.append(
            f"Only drawn on {counted(count, 'good image')}. The bounds take trials as independent; "
            f"those on the same image are not quite. Give {_FEW} or more."
        )
    rate = Rate(len(good.false_alarms), good.read)
    guaranteed = predictor.calibration.guaranteed_false_alarm_rate
    if rate.count and rate.interval[0] > guaranteed:
        notes.append(
            f"{rate.count} of {rate.total} good images are called defective as they are, more than "
            f"the guaranteed {guaranteed:.2%} explains. Fit the threshold to images of today "
            "(destseg calibrate), then qualify again."
        )
    short = predictor.calibration.guarantee_note()
    if short:
        notes.append(f"The threshold: {short}")
    per_curve = plan.trials * len(sizes)
    if per_curve < 60:
        notes.append(
            f"Each curve has {per_curve} trials; MIL-HDBK-1823A asks for 60 or more of hits and "
            "misses. Raise --trials."
        )
    odd = [f"{e.family} at {e.contrast:g}" for e in found if e.curve.fit_probability < 0.01]
    if odd:
        notes.append(
            "Detection does not follow a curve for: " + ", ".join(odd) + ". Read the table there, "
            "not the curve."
        )
    if predictor.bundle.roi_sha256 is None:
        notes.append(
            "The model has no region of interest: defects were drawn anywhere in the image, beside "
            "the part too where the image shows more than the part."
        )
    return notes


def _that_calibrated(predictor: Predictor, paths: Sequence[Path]) -> list[str]:
    """Return those of the images, known by content, that set the threshold."""
    known = frozenset(predictor.calibration.image_sha256 or ())
    contents = contents_of(paths) if known else {}
    return [path.name for path in paths if contents.get(path) in known]


def _rises(values: Sequence[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _digest(paths: Sequence[Path]) -> str:
    """Return one SHA-256 of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256_of_image(path)))
    return digest.hexdigest()
