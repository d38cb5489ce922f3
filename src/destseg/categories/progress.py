"""How far a training is, read from the log that it writes, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from destseg.config import Settings
from destseg.model_folder import read_log
from destseg.phases import PHASES

SILENCE = 120.0
_TAIL = 4096


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        phase: ``denoise``, ``segment``, ``measuring`` or, before the first, ``images``.
        step, steps: done and wanted of the phase.
        loss: of the last report; ``None`` before there is one.
        seconds_left: of the training, if it goes on at this rate; ``None`` while not known.
        time: of the last news.
    """

    phase: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    time: float = 0.0

    def told(self, now: float) -> str:
        """Return it in words, with how long there has been no news, where that is long."""
        silent = now - self.time
        # It may wait for a CPU after its worker was lost.
        if silent <= SILENCE:
            return str(self)
        return f"{self} (no news for {timedelta(seconds=round(silent))})"

    def __str__(self) -> str:
        if self.phase == "images":
            return "checking images"
        if self.phase == "measuring":
            return "measuring"
        text = f"phase {PHASES[self.phase].number}, step {self.step}/{self.steps}"
        if self.loss is not None:
            text += f", loss {self.loss:.4f}"
        if self.seconds_left is not None:
            text += f", about {timedelta(seconds=round(self.seconds_left))} left"
        return text


def standing(folder: Path, settings: Settings, since: float) -> Standing | None:
    """Return where the training in a folder stands; ``None`` if it has not begun.

    Args:
        folder: of the model.
        settings: of the training.
        since: time before which a record belongs to an earlier call.
    """
    records = [each for each in read_log(folder, _TAIL) if each.get("time", 0) >= since]
    if not records:
        return None
    last = records[-1]
    time = float(last["time"])
    if "guaranteed_false_alarm_rate" in last:
        return Standing("measuring", time=time)
    placed = [each for each in records if each.get("event") in ("phase", "step")]
    if not placed:
        return Standing("images", time=time)
    at = placed[-1]
    phase, step, steps = str(at["phase"]), int(at["step"]), int(at["steps"])
    if at["event"] == "phase":
        return Standing(phase, step, steps, time=time)
    behind = sum(
        others
        for name, others in settings.steps_of_phases().items()
        if PHASES[name].number > PHASES[phase].number
    )
    images = (steps - step + behind) * settings.training.batch_size
    rate = float(at["images_per_s"])
    left = images / rate if rate > 0 else None
    return Standing(phase, step, steps, float(at["loss"]), left, time)
