"""What a training is asked for, and the run that it becomes if nothing speaks against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from destseg.config import Settings
from destseg.data.defects import defect_samples
from destseg.data.samples import Sample
from destseg.errors import SettingsError
from destseg.inference.ancestor import Ancestor
from destseg.model.device import resolve_device
from destseg.model_folder import left_by_training
from destseg.phases import SEGMENT
from destseg.training.checkpoint import Checkpoint
from destseg.training.processes import local_device, require_equal_shares
from destseg.training.run_folder import (
    refuse_files_of_others,
    require_apart_from,
    require_same_run,
    settled,
)


@dataclass(frozen=True)
class Request:
    """A training that is asked for.

    Attributes:
        data: the good images.
        folder: for the bundle.
        settings: ``None`` is the preset ``fast``, or on resuming the settings of that run.
        resume: go on from the saved state.
        overwrite: replace what an earlier run left.
        defects: folder of known defects.
        ancestor: a finished model to go on from, heads only.
        accept_losses: keep the new model even if it loses a defect that the ancestor found.
    """

    data: str | Path
    folder: Path
    settings: Settings | None
    resume: bool
    overwrite: bool
    defects: Path | None
    ancestor: Ancestor | None
    accept_losses: bool


@dataclass(frozen=True)
class Run:
    """A training against which nothing speaks.

    Attributes:
        asked: what was asked for.
        settings: to run with, the image size in pixels.
        saved: the state to go on from; ``None`` begins anew.
        device: of this process.
        bad: the known defects, unopened.
        notes: what is to be told of them.
        replaces: whether an earlier run's model lies in the folder, which this one replaces.
    """

    asked: Request
    settings: Settings
    saved: Checkpoint | None
    device: torch.device
    bad: list[Sample]
    notes: list[str]
    replaces: bool

    @property
    def heads_only(self) -> bool:
        """Whether the student stays as it is: the run goes on from a finished model."""
        return self.asked.ancestor is not None

    @property
    def steps(self) -> int:
        """Of the model itself, without those of folds."""
        steps = self.settings.steps_of_phases()
        return steps[SEGMENT.name] if self.heads_only else sum(steps.values())


def checked(asked: Request, saved: Checkpoint | None) -> Run | None:
    """Return the run that is asked for, before anything is written; ``None`` if it is finished.

    Args:
        asked: what is asked for.
        saved: what lies in its folder to go on from, as ``Claim.look`` gives it.

    Raises:
        DataError: if images or known defects cannot be found.
        SettingsError: if the settings do not fit, or a file that is read would be written over.
        TrainingError: if the folder has another run, or files of others.
    """
    # Before this run's own log is there.
    replaces = asked.overwrite and left_by_training(asked.folder)
    notes: list[str] = []
    bad = [] if asked.defects is None else defect_samples(asked.defects, tell=notes.append)
    if asked.resume and saved is None:
        require_same_run(asked.folder, asked.data, asked.settings, bad, asked.ancestor)
        return None
    settings = settled(asked.settings, saved, asked.data)
    if asked.ancestor is not None:
        asked.ancestor.require_fits(settings)
    require_equal_shares(settings.training)
    device = local_device(resolve_device(settings.training.device))
    if settings.training.precision == "fp16" and device.type == "cpu":
        raise SettingsError("--precision: expected fp32 or bf16 on a CPU, got fp16")
    require_apart_from(
        asked.folder,
        asked.data,
        settings,
        resume=asked.resume,
        defects=bad,
        ancestor=asked.ancestor,
    )
    if not asked.resume:
        refuse_files_of_others(asked.folder)
    return Run(asked, settings, saved, device, bad, notes, replaces)
