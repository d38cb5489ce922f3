"""How far a training is, read from the log that it writes, wherever it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from destseg.config import Settings

SILENCE = 120.0
_TAIL = 4096

_PHASES = ("denoise", "segment", "surface")


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        phase: ``denoise``, ``segment``, ``surface``, ``measuring`` or, before the first,
            ``images``.
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
        return f"{self} (no news for {duration(silent)})" if silent > SILENCE else str(self)

    def __str__(self) -> str:
        if self.phase == "images":
            return "checking images"
        if self.phase == "measuring":
            return "measuring"
        text = f"phase {_PHASES.index(self.phase) + 1}, step {self.step}/{self.steps}"
        if self.loss is not None:
            text += f", loss {self.loss:.4f}"
        if self.seconds_left is not None:
            text += f", about {duration(self.seconds_left)} left"
        return text


def standing(folder: Path, settings: Settings, since: float) -> Standing | None:
    """Return where the training in a folder stands; ``None`` if it has not begun.

    Args:
        folder: of the model.
        settings: of the training.
        since: time before which a record belongs to an earlier call.
    """
    records = [each for each in records_of(folder, _TAIL) if each.get("time", 0) >= since]
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
    after = settings.steps_of_phases()
    behind = sum(after[name] for name in _PHASES[_PHASES.index(phase) + 1 :] if name in after)
    images = (steps - step + behind) * settings.training.batch_size
    rate = float(at["images_per_s"])
    left = images / rate if rate > 0 else None
    return Standing(phase, step, steps, float(at["loss"]), left, time)


def records_of(folder: Path, tail: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a training's log, or those in its last bytes; none without a log.

    A line that is cut off, by the tail or because it is just being written, is passed over.
    """
    try:
        with (folder / "log.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0 if tail is None else max(0, size - tail))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def duration(seconds: float) -> str:
    """Return h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
