"""The phases of a training: what they are called, their order, and how long they are."""

from __future__ import annotations

from dataclasses import dataclass

from destseg.fields import ModelSettings, TrainingSettings


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    Attributes:
        name: in logs and saved states.
        number: from 1.
        learner: what learns in it.
    """

    name: str
    number: int
    learner: str

    @property
    def title(self) -> str:
        """What people are told: "phase 1, student"."""
        return f"phase {self.number}, {self.learner}"

    def steps(self, settings: TrainingSettings) -> int:
        """Return how many steps it has."""
        return int(getattr(settings, f"{self.name}_steps"))


DENOISE = Phase("denoise", 1, "student")
SEGMENT = Phase("segment", 2, "head")
SURFACE = Phase("surface", 3, "surface head")

PHASES = {phase.name: phase for phase in (DENOISE, SEGMENT, SURFACE)}
"""All phases by name, in their order."""


def phases_of(settings: ModelSettings) -> list[Phase]:
    """Return the phases that the training of a model has, in order."""
    return [phase for phase in PHASES.values() if phase is not SURFACE or settings.surface_width]
