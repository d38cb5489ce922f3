"""The phases of a training: what they are called, their order, and how long they are."""

from __future__ import annotations

from dataclasses import dataclass

from destseg.fields import TrainingSettings


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
SEGMENT = Phase("segment", 2, "segmentation")

PHASES = {phase.name: phase for phase in (DENOISE, SEGMENT)}
"""The phases by name, in their order."""
