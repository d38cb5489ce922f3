"""Which labelled images a model has seen before: what they say of it is too good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from destseg.data.contents import Unreadable, contents_of
from destseg.data.lists import some
from destseg.data.samples import Sample
from destseg.errors import DataError
from destseg.inference.predictor import Predictor


@dataclass(frozen=True)
class Seen:
    """The images among those to be measured that a model knows, by content, not by name.

    Attributes:
        learned: paths of those that it, or a model that it goes on from, learned from.
        calibrated: paths of those that set its threshold.
        given: how many images there are in all.
        both: paths of those that are labelled good, and defective under another name.
    """

    learned: tuple[str, ...]
    calibrated: tuple[str, ...]
    given: int
    both: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know first; nothing where none was seen."""
        notes = []
        if self.learned:
            notes.append(
                f"left out {len(self.learned)} of {self.given} images that the model learned from, "
                f"as figures of them would flatter: {some(self.learned)}. Give images that it has "
                "not seen."
            )
        if self.calibrated:
            notes.append(
                f"{len(self.calibrated)} of {self.given} images set the threshold, so that few of "
                f"them can be false alarms: {some(self.calibrated)}. To test the threshold give "
                "others."
            )
        if self.both:
            notes.append(
                f"{len(self.both)} of {self.given} images are labelled good and defective, the "
                f"same file under two names, and count as both: {some(self.both)}. Leave the wrong "
                "ones out."
            )
        return tuple(notes)


def without_learned(predictor: Predictor, samples: Sequence[Sample]) -> tuple[list[Sample], Seen]:
    """Return the samples that a model has not learned from, and which it knows.

    Files that cannot be read are kept: reading them says so.  Models of before do not say what
    they learned; of these all are kept.
    """
    learned = predictor.bundle.learned_sha256
    calibrated = frozenset(predictor.calibration.image_sha256 or ())
    contents = contents_of(each.path for each in samples)
    labels: dict[str, set[bool | None]] = {}
    for sample in samples:
        if not isinstance(contents[sample.path], Unreadable):
            labels.setdefault(contents[sample.path], set()).add(sample.is_defective)
    kept: list[Sample] = []
    known: tuple[list[str], list[str]] = ([], [])
    for sample in samples:
        content = contents[sample.path]
        if content in learned:
            known[0].append(sample.path.as_posix())
            continue
        if content in calibrated:
            known[1].append(sample.path.as_posix())
        kept.append(sample)
    both = tuple(
        sample.path.as_posix() for sample in kept if len(labels.get(contents[sample.path], ())) > 1
    )
    return kept, Seen(tuple(known[0]), tuple(known[1]), len(samples), both)


def require_some(kept: Sequence[Sample], seen: Seen) -> None:
    """Refuse to measure a model on nothing but what it learned from.

    Raises:
        DataError: naming the images.
    """
    if not kept:
        raise DataError(
            f"expected images that the model has not learned from, got {seen.given} of which it "
            f"learned from all: {some(seen.learned)}. Figures of them would say nothing of new "
            "ones. Give others."
        )
