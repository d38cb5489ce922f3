"""Which known defects a run learns from, and which it only measures."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from destseg.config import Settings
from destseg.data.defects import (
    Defect,
    counts_by_type,
    read_defects,
    require_not_good,
)
from destseg.data.lists import counted, some
from destseg.data.roi import Roi
from destseg.data.samples import Sample
from destseg.inference.ancestor import Ancestor
from destseg.training.log import TrainingLog

MEASURED = 4
"""Of so many images with a mask of a type one is measured, the others are learned."""


@dataclass(frozen=True)
class KnownParts:
    """The known defects of a run.

    Attributes:
        root: folder that their names are relative to.
        learned: with masks, to learn from.
        measured: not learned: their scores say how many like them would be missed.
        known_before: the SHA-256 of those that the model learned that the run goes on from.
    """

    root: Path
    learned: list[Defect]
    measured: list[Defect]
    known_before: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        folder: Path,
        samples: Sequence[Sample],
        settings: Settings,
        log: TrainingLog,
        good: Sequence[Path],
        ancestor: Ancestor | None = None,
        roi: Roi | None = None,
    ) -> KnownParts:
        """Read, check and split the known defects of a folder, and tell what becomes of them.

        Args:
            folder: where they are.
            samples: of it, as ``defect_samples`` gives them.
            settings: how images are read, and the seed.
            log: is told.
            good: all good images; none of them may be a defect.
            ancestor: the model that the run goes on from: what it learned is never measured, and
                what it measured is not learned.
            roi: what is inspected; ``None`` is all.

        Raises:
            DataError: if any of them cannot be used.
        """
        defects = read_defects(samples, settings.data, log.say, roi)
        require_not_good(defects, good)
        before = (ancestor.ever_learned(), ancestor.measured()) if ancestor else ((), ())
        measured = set(_measured(defects, settings.training.seed, *before))
        parts = cls(
            root=folder,
            learned=[each for each in defects if each.sha256 not in measured],
            measured=[each for each in defects if each.sha256 in measured],
            known_before=ancestor.ever_learned() if ancestor else frozenset(),
        )
        parts._tell(log, settings.training.cross_fit)
        return parts

    def name(self, defect: Defect) -> str:
        """Return a defect's path relative to the folder."""
        return defect.sample.path.relative_to(self.root).as_posix()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return by type how many images are learned, and how many only measured."""
        learned, measured = counts_by_type(self.learned), counts_by_type(self.measured)
        return {
            name: {"learned": learned[name], "measured": measured[name]}
            for name in sorted(learned | measured)
        }

    def contents(self) -> frozenset[str]:
        """Return the SHA-256 of the images that are learned from."""
        return frozenset(each.sha256 for each in self.learned)

    def few(self) -> dict[str, list[Defect]]:
        """Return by type the defects of those of which none with a mask is kept from learning.

        What the model learned that the run goes on from is not there: no model forgets it.
        """
        kept = self._kept()
        few: dict[str, list[Defect]] = {}
        for each in sorted(self.learned, key=lambda defect: (defect.defect_type, defect.sha256)):
            if each.defect_type not in kept and each.sha256 not in self.known_before:
                few.setdefault(each.defect_type, []).append(each)
        return few

    def folds(self, count: int) -> list[list[Defect]]:
        """Part the defects of ``few``; a type is spread over as many folds as it can be.

        Args:
            count: how many folds; fewer where there are too few defects.
        """
        ordered = [each for of_type in self.few().values() for each in of_type]
        return [fold for number in range(count) if (fold := ordered[number::count])]

    def _kept(self) -> set[str]:
        """Return the types of which some with a mask are kept from learning."""
        return {each.defect_type for each in self.measured if each.mask is not None}

    def _tell(self, log: TrainingLog, folds: int) -> None:
        counts = self.counts()
        listed = some([f"{n} ({c['learned']} + {c['measured']})" for n, c in counts.items()])
        log.say(
            f"{counted(len(self.learned), 'known defect')} to learn from, "
            f"{len(self.measured)} only to measure: {listed}",
            known_defects=counts,
        )
        unmarked = sorted({each.defect_type for each in self.measured if each.mask is None})
        if unmarked:
            log.say(
                f"note: images without a mask are used for measuring only: of {some(unmarked)}. To "
                "learn from them, mark their defects."
            )
        few = list(self.few())
        if few and not folds:
            log.say(
                f"note: all of {some(few)} are learned, as there are fewer than {MEASURED} with a "
                "mask of each type: how many like them would be missed is then not known. To "
                "measure it, let the heads learn twice more: --cross-fit 2."
            )
        if folds and not few:
            known = [name for name in counts_by_type(self.learned) if name not in self._kept()]
            log.say(
                "note: --cross-fit has nothing to do: "
                + (
                    f"the model of --from has learned all of {some(known)}, and no model forgets. "
                    "To measure how many like them would be missed, give new ones, or train anew "
                    "without --from."
                    if known
                    else f"it is for types with fewer than {MEASURED} images with a mask, and "
                    "there are none."
                )
            )


def _measured(
    defects: Sequence[Defect], seed: int, learned: Collection[str], measured: Collection[str]
) -> Iterator[str]:
    """Yield the SHA-256 of those that are not learned: without a mask, or one of four of a type.

    The choice hangs on contents and the seed alone, so that a moved folder gives the same.
    """

    def order(content: str) -> bytes:
        return hashlib.sha256(f"{seed} {content}".encode()).digest()

    yield from (each.sha256 for each in defects if each.mask is None)
    for name in counts_by_type(defects):
        marked = [
            each.sha256 for each in defects if each.defect_type == name and each.mask is not None
        ]
        old = [content for content in marked if content in measured]
        new = [content for content in marked if content not in measured and content not in learned]
        yield from old
        yield from sorted(new, key=order)[: max(0, len(marked) // MEASURED - len(old))]
