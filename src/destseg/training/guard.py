"""A new model beside its ancestor: which known defects and calibration images got better or worse.

Both are asked about the same images, each at its own threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from destseg.data.lists import counted, some
from destseg.errors import TrainingError
from destseg.inference.ancestor import Ancestor
from destseg.inference.known_defects import KnownDefect, KnownDefects
from destseg.inference.measuring import all_measured
from destseg.inference.predictor import Predictor, load
from destseg.training.good_parts import GoodParts
from destseg.training.known_parts import KnownParts
from destseg.training.log import TrainingLog


@dataclass(frozen=True)
class Guard:
    """What became of the known defects and the good images from one model to another.

    Attributes:
        gained, lost: names of the defects that are found now and were not, and the reverse.
        defects: how many known defects there are.
        alarms_before, alarms: how many good images are called defective.
        good: how many good images there are.
        worse: names of the good images that are called defective now and were not.
    """

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    defects: int
    alarms_before: int
    alarms: int
    good: int
    worse: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return it in words."""
        found = (
            f"of {counted(self.defects, 'known defect')} {len(self.gained)} more are found and "
            f"{len(self.lost)} are not found any more"
        )
        none = "no known defects were given"
        lines = [f"beside the model that it goes on from: {found if self.defects else none}"]
        if self.gained:
            lines.append(f"  found now: {some(self.gained)}")
        if self.lost:
            lines.append(f"  not found any more: {some(self.lost)}")
        called = f"{self.alarms_before} were called defective and {self.alarms} are now"
        lines.append(f"  of {counted(self.good, 'calibration image')} {called}")
        if self.worse:
            lines.append(f"  called defective now: {some(self.worse)}")
        return lines


def compared(
    found_before: Mapping[str, bool],
    found: Mapping[str, bool],
    alarms_before: Mapping[str, bool],
    alarms: Mapping[str, bool],
) -> Guard:
    """Return what changed between two models' decisions, each by the names of the same images.

    Args:
        found_before: whether the ancestor called each known defect defective.
        found: whether the new model does.
        alarms_before: whether the ancestor called each good image defective.
        alarms: whether the new model does.
    """
    return Guard(
        gained=tuple(name for name in found if found[name] and not found_before[name]),
        lost=tuple(name for name in found if found_before[name] and not found[name]),
        defects=len(found),
        alarms_before=sum(alarms_before.values()),
        alarms=sum(alarms.values()),
        good=len(alarms),
        worse=tuple(name for name in alarms if alarms[name] and not alarms_before[name]),
    )


def scores_of(
    predictor: Predictor, names: Sequence[str], paths: Sequence[Path]
) -> dict[str, float]:
    """Return the score of each image by its name.

    Raises:
        ImageError: if one cannot be read.
    """
    measured = zip(names, all_measured(predictor, paths), strict=True)
    return {name: each.score for name, each in measured}


def decided(predictor: Predictor, scores: Mapping[str, float]) -> dict[str, bool]:
    """Return whether each is called defective, at the predictor's own threshold."""
    calibration = predictor.calibration
    return {name: calibration.is_defective(score) for name, score in scores.items()}


def measured(predictor: Predictor, known: KnownParts | None) -> KnownDefects | None:
    """Return what a finished model says of the known defects; ``None`` without any."""
    return None if known is None else _noted(predictor, known, {})


def guarded(
    predictor: Predictor,
    ancestor: Ancestor,
    source: GoodParts,
    known: KnownParts | None,
    log: TrainingLog,
    *,
    accept_losses: bool,
) -> KnownDefects | None:
    """Compare a new model with its ancestor, tell it, and return what ``measured`` returns.

    Raises:
        TrainingError: if a known defect that the ancestor found is lost, unless that is accepted.
    """
    before = load(
        ancestor.bundle.folder, backend="torch", device=predictor.bundle.settings.training.device
    )
    good = [sample.path for sample in source.calibration_images]
    names = source.names(good)
    defects = [] if known is None else [*known.learned, *known.measured]
    paths = [each.sample.path for each in defects]
    called = [] if known is None else [known.name(each) for each in defects]
    found_before = decided(before, scores_of(before, called, paths))
    noted = None if known is None else _noted(predictor, known, found_before)
    scores = {} if noted is None else {each.path: each.score for each in noted.defects}
    # The new model has just scored them for its threshold.
    calibrated = dict(zip(predictor.calibration.paths, predictor.calibration.scores, strict=True))
    guard = compared(
        found_before,
        decided(predictor, scores),
        decided(before, scores_of(before, names, good)),
        decided(predictor, {name: calibrated[name] for name in names}),
    )
    for line in guard.lines():
        log.say(line)
    given = {each.sha256 for each in defects}
    if gone := len((ancestor.learned() | ancestor.measured()) - given):
        log.say(
            f"note: not given: {counted(gone, 'known defect')} of {ancestor.bundle.folder}. What "
            "is not given is not compared: give all of them with --defects."
        )
    if guard.lost and not accept_losses:
        raise TrainingError(
            f"the new model loses {len(guard.lost)} of {len(defects)} known defects that "
            f"{ancestor.bundle.folder} found: {some(guard.lost)}. It was not kept, but its "
            "training is: the same command with --resume --accept-losses keeps it. Or train "
            "longer (--segment-steps), or anew without --from."
        )
    return noted


def _noted(
    predictor: Predictor, known: KnownParts, found_before: Mapping[str, bool]
) -> KnownDefects:
    learned = {each.sha256 for each in known.learned}
    defects = [*known.learned, *known.measured]
    names = [known.name(each) for each in defects]
    scores = scores_of(predictor, names, [each.sample.path for each in defects])
    return KnownDefects(
        predictor.bundle.weights_sha256,
        tuple(
            KnownDefect(
                path=name,
                defect_type=each.defect_type,
                sha256=each.sha256,
                learned=each.sha256 in learned,
                score=scores[name],
                found_before=found_before.get(name),
            )
            for name, each in zip(names, defects, strict=True)
        ),
    )
