"""Letting the networks of a model learn: where they start, from what, and phase after phase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from destseg.config import Settings
from destseg.data.defects import Defect
from destseg.inference.ancestor import KEPT_SHARE, Ancestor
from destseg.interruption import Interruption
from destseg.model.backbone import Backbone
from destseg.model.destseg import TEACHER_STRIDES, DeSTSeg, build_model
from destseg.model.teacher import pretrained_teacher
from destseg.model_folder import CHECKPOINT
from destseg.phases import SEGMENT
from destseg.synthesis.batches import Batches
from destseg.training.checkpoint import Checkpoint, save_checkpoint
from destseg.training.good_parts import GoodParts
from destseg.training.log import TrainingLog
from destseg.training.loop import run_phase
from destseg.training.phases import phases_to_learn
from destseg.training.processes import rank, share_of, synchronized_norms, world
from destseg.training.step import START, Progress

_HEADS = ("head.", "surface.")


def starting_model(
    settings: Settings,
    saved: Checkpoint | None,
    ancestor: Ancestor | None,
    device: torch.device,
) -> tuple[DeSTSeg, str]:
    """Return the model that learns, and where its teacher's weights came from.

    Args:
        settings: of the run.
        saved: the state to go on from, if any.
        ancestor: the finished model to go on from, if any; without both all that learns is drawn
            from PyTorch's default generator.
        device: where it learns.
    """
    size = settings.data.size
    if saved is not None:
        model = build_model(settings.model, image_size=size)
        model.load_state_dict(dict(saved.model))
        origin = saved.teacher
    elif ancestor is not None:
        model = build_model(settings.model, image_size=size)
        weights = ancestor.bundle.weights()
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        origin = str(ancestor.bundle.training.get("teacher", "that of the ancestor"))
    else:
        teacher, origin = pretrained_teacher(
            settings.model.teacher, settings.model.teacher_weights, image_size=size
        )
        model = build_model(settings.model, teacher, image_size=size)
    return _ready(model, settings, device), origin


def heads_anew(model: DeSTSeg, learning: Learning) -> DeSTSeg:
    """Return a copy of a run's model whose heads are as they were before they learned.

    Args:
        model: of the run, whose teacher and student the copy has.
        learning: of the run.  PyTorch's default generator has just been seeded as at its start.
    """
    settings, size = learning.settings, learning.settings.data.size
    # A pretrained teacher is built twice, the first time to try its name: the same is drawn here,
    # so that the heads are drawn as at the start; no weights are read, which may be gone by now.
    Backbone(settings.model.teacher, TEACHER_STRIDES, image_size=size)
    copy = build_model(settings.model, image_size=size)
    kept = {n: v for n, v in model.state_dict().items() if not n.startswith(_HEADS)}
    if learning.ancestor is not None:
        earlier = learning.ancestor.bundle.weights()
        kept |= {n: torch.from_numpy(v) for n, v in earlier.items() if n.startswith(_HEADS)}
    copy.load_state_dict({**copy.state_dict(), **kept})
    return _ready(copy, settings, learning.device)


def _ready(model: DeSTSeg, settings: Settings, device: torch.device) -> DeSTSeg:
    model.student.gradient_checkpointing = settings.training.gradient_checkpointing
    model.head.gradient_checkpointing = settings.training.gradient_checkpointing
    # Channels lie last in memory, which is what the convolutions are fastest with.
    return model.to(device).to(memory_format=torch.channels_last)


def weights_of(model: DeSTSeg) -> dict[str, NDArray[Any]]:
    """Return the weights of a model as a bundle is given them."""
    return {name: value.cpu().numpy() for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class Learning:
    """What all that learns in a run has in common.

    Attributes:
        settings: of the run.
        source: its good images.
        teacher: where the teacher's weights came from.
        device: where the model is.
        log: is told.
        on_progress: called after each step, and where a run is resumed, with the steps done and
            those of the whole run.
        steps: of the whole run.
        ancestor: the finished model that the run goes on from; ``None``: all is learned anew.
    """

    settings: Settings
    source: GoodParts
    teacher: str
    device: torch.device
    log: TrainingLog
    on_progress: Callable[[int, int], object]
    steps: int
    ancestor: Ancestor | None

    def batches(self, defects: Sequence[Defect]) -> Batches:
        """Return the training batches, with known defects among them if there are any."""
        settings = self.settings
        if not settings.model.surface_width:
            settings = settings.replace(cutpaste_probability=0.0)  # nobody learns from it
        size = settings.training.batch_size
        return Batches.of(
            self.source.training,
            settings,
            batch_size=size,
            device=self.device,
            roi=self.source.roi,
            share=share_of(size),
            defects=defects,
        )

    def run(
        self,
        model: DeSTSeg,
        batches: Batches,
        folder: Path,
        saved: Checkpoint | None,
        *,
        heads_only: bool,
        done: int = 0,
    ) -> float:
        """Run the phases as far as they are not done; return the seconds of these in all.

        Where the run goes on from a model, the heads end between its own and what they learned.

        Args:
            model: is changed in place.
            batches: what it learns from.
            folder: where its state is saved.
            saved: the state to go on from, if any.
            heads_only: whether the first phase is left out.
            done: steps of the whole run that are done before.
        """
        phases = phases_to_learn(model, self.settings)
        if heads_only:
            phases = [phase for phase in phases if phase.name == SEGMENT.name]
        names = [phase.name for phase in phases]
        first = names.index(saved.phase) if saved else 0
        before = saved.seconds if saved else 0.0
        begun = time.monotonic()
        with Interruption().watch() as interruption:
            for number, phase in enumerate(phases[first:], first):
                earlier = done + sum(each.steps for each in phases[:number])
                start = START
                if saved is not None and phase.name == saved.phase:
                    start = Progress(saved.step, saved.optimizer, saved.scaler)
                    self.on_progress(earlier + saved.step, self.steps)

                def save(progress: Progress, name: str = phase.name) -> None:
                    seconds = before + time.monotonic() - begun
                    self._save(folder, model, name, progress, seconds)

                def tell(step: int, earlier: int = earlier) -> None:
                    self.on_progress(earlier + step, self.steps)

                on_gpus = world() > 1 and self.device.type == "cuda"
                with synchronized_norms(phase.learns) if on_gpus else contextlib.nullcontext():
                    run_phase(
                        phase,
                        batches,
                        self.device,
                        self.settings.training,
                        self.log,
                        start=start,
                        save=save,
                        interruption=interruption,
                        on_step=tell,
                    )
        if self.ancestor is not None:
            _keep_a_share(model, self.ancestor)
        return before + time.monotonic() - begun

    def _save(
        self, folder: Path, model: DeSTSeg, phase: str, progress: Progress, seconds: float
    ) -> None:
        """Save all that the run goes on from; of several processes one does."""
        if rank() != 0:
            return
        state = Checkpoint(
            phase=phase,
            step=progress.step,
            settings=self.settings.to_dict(),
            images=self.source.names(self.source.training.paths),
            teacher=self.teacher,
            model=model.state_dict(),
            optimizer=progress.optimizer,
            scaler=progress.scaler,
            seconds=seconds,
            data_sha256=self.source.sha256,
            textures_sha256=self.source.textures_sha256,
        )
        save_checkpoint(folder / CHECKPOINT, state)


def _keep_a_share(model: DeSTSeg, ancestor: Ancestor) -> None:
    """Move the weights of a model, in place, back towards those of the model it went on from."""
    earlier = ancestor.bundle.weights()
    for name, value in model.state_dict().items():
        # What did not learn is equal, to the last bit, and stays so; what counts steps is no float.
        if value.is_floating_point() and name.startswith(_HEADS):
            value.lerp_(torch.from_numpy(earlier[name]).to(value), KEPT_SHARE)
