"""The phases of training as modules: what learns, from what, and by which loss."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from destseg.config import Settings, TrainingSettings
from destseg.model.destseg import TEACHER_STRIDES, DeSTSeg, compare, describe
from destseg.model.folding import folded
from destseg.phases import DENOISE, PHASES, SEGMENT
from destseg.synthesis.batches import Batch
from destseg.training.losses import denoise_loss, masks_at_stride, segment_loss


class _Phase(nn.Module):
    """What the phases share: the networks that do not learn, with fewer operations.

    A step has two halves.  ``prepare`` runs what is frozen; it depends on nothing that is learned
    in the phase, so the next batch may be prepared while this one is learned from.  ``forward``
    runs what learns.
    """

    model: DeSTSeg

    def __init__(self) -> None:
        super().__init__()
        # Not submodules: they are neither saved nor given to an optimiser.
        self._folded: dict[str, nn.Module] = {}

    def frozen(self, name: str, x: Tensor | list[Tensor]) -> list[Tensor]:
        """Return the features that the teacher or the student gives, which must not learn here.

        Args:
            name: ``teacher`` or ``student``.
            x: what it reads: normalised images, or the teacher's taps.
        """
        if name not in self._folded:
            # In fp32, which the folding is checked in, whatever the precision of the training.
            example = x[:1] if isinstance(x, Tensor) else [tap[:1].float() for tap in x]
            self._folded[name] = folded(getattr(self.model, name), example)
        with torch.no_grad():
            features: list[Tensor] = self._folded[name](x)
        return features


class DenoisePhase(_Phase):
    """Phase 1: the student learns the teacher's clean features from anomalous images."""

    name = DENOISE.name

    def __init__(self, model: DeSTSeg, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.steps = DENOISE.steps(settings)
        self.learns = model.student

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups with their learning rates."""
        return [{"params": list(self.learns.parameters()), "lr": self.settings.lr_student}]

    def prepare(self, batch: Batch) -> tuple[list[Tensor], Tensor | list[Tensor]]:
        """Return the teacher's features of the clean images, and what the student reads."""
        teacher = self.frozen("teacher", self.model.normalize(batch.clean))
        x = self.model.normalize(batch.anomalous)
        return teacher, self.frozen("teacher", x) if self.model.student.reads_taps else x

    def forward(self, teacher: list[Tensor], read: Tensor | list[Tensor]) -> Tensor:
        """Return the loss of what ``prepare`` gives."""
        student = self.model.student(read)
        loss = denoise_loss(teacher, student, self.settings.denoise_loss)
        return loss * self.settings.denoise_loss_scale


class SegmentPhase(_Phase):
    """Phase 2: the heads learn to find the anomalies; teacher and student are frozen.

    Both heads learn from the same pass of the frozen networks.  They share no weights, so each
    takes the steps that it would take alone.
    """

    name = SEGMENT.name

    def __init__(self, model: DeSTSeg, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.steps = SEGMENT.steps(settings)
        heads = {"head": model.head, "surface": model.surface}
        self.learns = nn.ModuleDict({name: head for name, head in heads.items() if head})

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: the main head's first blocks, then the rest."""
        blocks = list(cast(nn.Module, self.model.head.blocks).parameters())
        first = {id(parameter) for parameter in blocks}
        rest = [p for p in self.learns.parameters() if id(p) not in first]
        return [
            {"params": blocks, "lr": self.settings.lr_head_blocks},
            {"params": rest, "lr": self.settings.lr_head},
        ]

    def prepare(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return what the main head and the surface head read, the masks, and which are broad."""
        x = self.model.normalize(batch.anomalous)
        teacher = self.frozen("teacher", x)
        student = self.frozen("student", teacher if self.model.student.reads_taps else x)
        with torch.no_grad():
            compared = compare(teacher, student)
            described = [] if self.model.surface is None else describe(teacher, compared)
        return compared, described, batch.masks, batch.broad

    def forward(
        self, compared: list[Tensor], described: list[Tensor], masks: Tensor, broad: Tensor
    ) -> Tensor:
        """Return the loss of what ``prepare`` gives."""
        # Broad regions of other parts are the surface head's: from them the main one would learn to
        # draw thin defects fat (measured: grid loses 9 points of pixel AP).  It learns around them.
        loss = self.loss(self.model.head(compared), masks, TEACHER_STRIDES[0], broad)
        if self.model.surface is not None:
            logits = self.model.surface(described)
            loss = loss + self.loss(logits, masks, TEACHER_STRIDES[1])
        return loss

    def loss(
        self, logits: Tensor, masks: Tensor, stride: int, ignored: Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits at a stride against masks of the image's size.

        Args:
            logits: [n, 1, h/stride, w/stride].
            masks: [n, 1, h, w].
            stride: of the logits.
            ignored: bool [n], images whose anomalies are not to be learned; ``None``: of none.
        """
        target = masks_at_stride(masks, stride)
        where = None if ignored is None else ignored.view(-1, 1, 1, 1) & target.bool()
        return segment_loss(
            logits, target, self.settings.segment_loss, self.settings.focal_gamma, where
        )


Phase = DenoisePhase | SegmentPhase
_MODULES: dict[str, type[Phase]] = {each.name: each for each in (DenoisePhase, SegmentPhase)}


def phases_to_learn(model: DeSTSeg, settings: Settings) -> list[Phase]:
    """Return the phases that the training of a model has, in order."""
    return [_MODULES[each.name](model, settings.training) for each in PHASES.values()]


def freeze_all_but(phase: Phase) -> None:
    """Let only the phase's own network learn: the others take no gradient and stay in eval."""
    phase.model.eval().requires_grad_(False)
    phase.learns.train().requires_grad_(True)


def build_optimizer(phase: Phase, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a phase."""
    groups = phase.groups()
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def rate_factor(step: int, steps: int, settings: TrainingSettings) -> float:
    """Return what the learning rates are multiplied with at a step (from 0) of a phase.

    A pure function of the step, so that there is no scheduler whose state could be lost.
    """
    warmup = min(settings.warmup_steps, steps)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if settings.schedule == "constant":
        return rise
    fall = 0.5 * (1 + math.cos(math.pi * step / steps))
    return rise * (settings.eta_min + (1 - settings.eta_min) * fall)
