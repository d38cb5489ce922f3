"""One loop for all phases: steps, log, saved states, signals."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from destseg.config import TrainingSettings
from destseg.errors import DataError, TrainingError, TrainingInterrupted
from destseg.interruption import Interruption
from destseg.synthesis.batches import Batches
from destseg.training.ahead import prepared
from destseg.training.checkpoint import optimizer_tensors, restore_optimizer
from destseg.training.determinism import seed_default, step_seed
from destseg.training.log import TrainingLog
from destseg.training.phases import Phase, build_optimizer, freeze_all_but, rate_factor
from destseg.training.processes import WholeBatchNorm, any_of_all, mean_of_all, shared, world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a phase is: steps done, and the state that goes on from there."""

    step: int
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, float]


ADVICE = (
    "A state that was saved before is kept. Lower the learning rate (--lr-student, --lr-head), or "
    "use --precision fp32 or bf16."
)

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

START = Progress(step=0, optimizer={}, scaler={})


def run_phase(
    phase: Phase,
    batches: Batches,
    device: torch.device,
    settings: TrainingSettings,
    log: TrainingLog,
    *,
    start: Progress,
    save: Callable[[Progress], None],
    interruption: Interruption,
    on_step: Callable[[int], object] = lambda _: None,
) -> None:
    """Run the steps of a phase that are not done yet, in place on its model.

    Args:
        phase: what learns.
        batches: images by step.
        device: where the model and the batches are.
        settings: precision, intervals, rates and steps.
        log: where it is reported.
        start: ``START`` or where a saved state stood.
        save: writes a state; called at intervals, before stopping for a signal, and at the end.
        interruption: asked after each step, and at the end.
        on_step: called with the steps that are done, after each.

    Raises:
        TrainingError: if the loss is not finite; the last saved state is a good one.
        TrainingInterrupted: after a signal, the state saved.
    """
    freeze_all_but(phase)
    optimizer = build_optimizer(phase, settings)
    rates = [group["lr"] for group in optimizer.param_groups]
    restore_optimizer(optimizer, start.optimizer)
    module = shared(phase, device)
    half = _HALF.get(settings.precision)
    precision = functools.partial(torch.autocast, device.type, half, enabled=half is not None)
    on_cpus = world() > 1 and device.type != "cuda"
    norms = WholeBatchNorm if on_cpus else contextlib.nullcontext
    # Without fp16 it does nothing, and has no state.
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    if scaler.is_enabled() and start.scaler:
        scaler.load_state_dict(dict(start.scaler))

    def state(step: int) -> Progress:
        optimized = optimizer_tensors(optimizer)
        return Progress(step=step, optimizer=optimized, scaler=dict(scaler.state_dict()))

    log.start_phase(phase.name, start.step, phase.steps)
    losses: list[Tensor] = []
    since = time.monotonic()
    steps = range(start.step, phase.steps)
    with prepared(phase, batches, steps, device, precision) as stream:
        for step, inputs in enumerate(stream, start.step):
            factor = rate_factor(step, phase.steps, settings)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            seed_default(step_seed(settings.seed, phase.name, step), device)
            with precision(), norms():
                loss = module(*inputs).float()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.detach())

            done = step + 1
            saves = done % settings.checkpoint_every == 0 or done == phase.steps
            reports = done % settings.log_every == 0 or saves
            stopped = interruption.signal
            if world() > 1:
                # A signal may reach one of several, at any step; they stop where all of them ask,
                # on a GPU more seldom, as it waits for the device.
                asks = reports or loss.device.type == "cpu"
                stopped = any_of_all(stopped, loss.device) if asks else None
            stops = stopped is not None
            log.advance(done)
            on_step(done)
            # Looking at a loss waits for the device: only where something hangs on it.
            if reports or stops:
                mean = _finite_mean(losses, phase.name, done)
                passed = time.monotonic() - since
                log.report(
                    phase.name,
                    done,
                    phase.steps,
                    loss=mean,
                    rate=len(losses) * settings.batch_size / passed,
                    batch=settings.batch_size,
                    lr=rates[0] * factor,
                )
                losses, since = [], time.monotonic()
            if saves or stops:
                _require_finite(phase, done)
                try:
                    save(state(done))
                except DataError as error:
                    if stops:
                        raise
                    logger.warning("training goes on, but its state could not be saved: %s", error)
            if stopped is not None:
                raise _interrupted(stopped, phase, done, log)
    log.end_phase()
    # One that came with the last step: nothing else would look at it before the model is saved,
    # or before another hour of folds.
    if (late := any_of_all(interruption.signal, device)) is not None:
        save(state(phase.steps))
        raise _interrupted(late, phase, phase.steps, log)


def _interrupted(number: int, phase: Phase, done: int, log: TrainingLog) -> TrainingInterrupted:
    fold = "" if log.fold is None else f" of fold {log.fold}"
    return TrainingInterrupted(
        number,
        f"stopped by {signal.Signals(number).name} after step {done} of {phase.steps} of phase "
        f"{phase.name}{fold}; the state is saved. Go on with the same command and --resume.",
    )


def _require_finite(phase: Phase, done: int) -> None:
    """Refuse to save weights that a step with a finite loss has spoilt: its gradient was not."""
    spoilt = [
        name
        for name, value in phase.learns.state_dict().items()
        if not bool(torch.isfinite(value).all())
    ]
    if spoilt:
        raise TrainingError(
            f"after step {done} of phase {phase.name} {spoilt[0]} is not finite. {ADVICE}"
        )


def _finite_mean(losses: list[Tensor], phase: str, done: int) -> float:
    values: list[float] = mean_of_all(losses).tolist()
    for step, value in enumerate(values, done - len(values) + 1):
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {step} of phase {phase} is {value}; expected a finite "
                f"number. {ADVICE}"
            )
    return sum(values) / len(values)
