"""One loop for all phases: step after step, and between two of them log, saved states, signals."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable

import torch
from torch import Tensor

from destseg.config import TrainingSettings
from destseg.errors import DataError, TrainingError, TrainingInterrupted
from destseg.interruption import Interruption
from destseg.synthesis.batches import Batches
from destseg.training.ahead import prepared
from destseg.training.log import TrainingLog
from destseg.training.phases import Phase
from destseg.training.processes import any_of_all, mean_of_all, world
from destseg.training.step import Progress, Steps

logger = logging.getLogger(__name__)


ADVICE = (
    "A state that was saved before is kept. Lower the learning rate (--lr-student, --lr-head), or "
    "use --precision fp32 or bf16."
)


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
    steps = Steps(phase, settings, device, start)
    log.start_phase(phase.name, start.step, phase.steps)
    losses: list[Tensor] = []
    since = time.monotonic()
    left = range(start.step, phase.steps)
    with prepared(phase, batches, left, device, steps.precision) as stream:
        for step, inputs in enumerate(stream, start.step):
            losses.append(steps.take(step, inputs))
            done = step + 1
            saves = done % settings.checkpoint_every == 0 or done == phase.steps
            reports = done % settings.log_every == 0 or saves
            stopped = _asked_to_stop(interruption, device, reports=reports)
            log.advance(done)
            on_step(done)
            # Looking at a loss waits for the device: only where something hangs on it.
            if reports or stopped is not None:
                mean = _finite_mean(losses, phase.name, done)
                passed = time.monotonic() - since
                log.report(
                    phase.name,
                    done,
                    phase.steps,
                    loss=mean,
                    rate=len(losses) * settings.batch_size / passed,
                    batch=settings.batch_size,
                    lr=steps.rate(step),
                )
                losses, since = [], time.monotonic()
            if saves or stopped is not None:
                _require_finite(phase, done)
                try:
                    save(steps.state(done))
                except DataError as error:
                    if stopped is not None:
                        raise
                    logger.warning("training goes on, but its state could not be saved: %s", error)
            if stopped is not None:
                raise _interrupted(stopped, phase, done, log)
    log.end_phase()
    # One that came with the last step: nothing else would look at it before the model is saved,
    # or before another hour of folds.
    if (late := any_of_all(interruption.signal, device)) is not None:
        save(steps.state(phase.steps))
        raise _interrupted(late, phase, phase.steps, log)


def _asked_to_stop(
    interruption: Interruption, device: torch.device, *, reports: bool
) -> int | None:
    """Return the signal that came, if one has, the same in all processes.

    It may reach one of several, at any step.  They stop where all of them ask, on a GPU only where
    they report, as it waits for the device.
    """
    if world() == 1:
        return interruption.signal
    if not (reports or device.type == "cpu"):
        return None
    return any_of_all(interruption.signal, device)


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
