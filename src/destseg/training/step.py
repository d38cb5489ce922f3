"""One step of a phase: loss, gradient, optimiser, at the rate and in the precision asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from destseg.config import TrainingSettings
from destseg.training.checkpoint import optimizer_tensors, restore_optimizer
from destseg.training.determinism import seed_default, step_seed
from destseg.training.phases import Phase, build_optimizer, freeze_all_but, rate_factor
from destseg.training.processes import WholeBatchNorm, shared, world


@dataclass(frozen=True)
class Progress:
    """How far a phase is: steps done, and the state that goes on from there."""

    step: int
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, float]


START = Progress(step=0, optimizer={}, scaler={})

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Steps:
    """Takes the steps of a phase, in place on its model.

    Args:
        phase: what learns; all else is frozen.
        settings: precision, rates and seed.
        device: where the model and the batches are.
        start: ``START`` or where a saved state stood.
    """

    def __init__(
        self, phase: Phase, settings: TrainingSettings, device: torch.device, start: Progress
    ) -> None:
        freeze_all_but(phase)
        self._phase, self._settings, self._device = phase, settings, device
        self._optimizer = build_optimizer(phase, settings)
        self._rates: list[float] = [group["lr"] for group in self._optimizer.param_groups]
        restore_optimizer(self._optimizer, start.optimizer)
        self._module = shared(phase, device)
        self._half = _HALF.get(settings.precision)
        on_cpus = world() > 1 and device.type != "cuda"
        self._norms = WholeBatchNorm if on_cpus else contextlib.nullcontext
        # Without fp16 it does nothing, and has no state.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half is torch.float16)
        if self._scaler.is_enabled() and start.scaler:
            self._scaler.load_state_dict(dict(start.scaler))

    def precision(self) -> torch.autocast:
        """Return a context in which networks run in the precision of the training."""
        return torch.autocast(self._device.type, self._half, enabled=self._half is not None)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, that of the first group of parameters."""
        return self._rates[0] * self._factor(step)

    def take(self, step: int, inputs: tuple[Any, ...]) -> Tensor:
        """Learn from what the phase has prepared for a step; return its loss, on the device."""
        factor = self._factor(step)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        seed_default(step_seed(self._settings.seed, self._phase.name, step), self._device)
        with self.precision(), self._norms():
            loss = self._module(*inputs).float()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        learned: Tensor = loss.detach()
        return learned

    def state(self, done: int) -> Progress:
        """Return the state after so many steps."""
        optimized = optimizer_tensors(self._optimizer)
        return Progress(step=done, optimizer=optimized, scaler=dict(self._scaler.state_dict()))

    def _factor(self, step: int) -> float:
        return rate_factor(step, self._phase.steps, self._settings)
