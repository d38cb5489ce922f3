"""What training tells: a bar or plain lines for people, JSON lines for programs, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from destseg.errors import needs_extra
from destseg.model_folder import LOG, TENSORBOARD
from destseg.phases import PHASES

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0
_EVENTS = f"{TENSORBOARD}/events.out.tfevents.*"


class TrainingLog:
    """Reports a run to the terminal, to ``log.jsonl`` and, where asked for, to TensorBoard.

    On a terminal there is a progress bar; elsewhere a plain line about every 15 seconds.

    Args:
        folder: of the run; ``None`` reports nothing at all: another process does.
        tensorboard: whether to write for TensorBoard too.
        quiet: print nothing.

    Attributes:
        fold: number of the fold that learns, in each record and before each title; ``None``: the
            model itself does.
    """

    fold: int | None = None

    def __init__(self, folder: Path | None, *, tensorboard: bool, quiet: bool) -> None:
        # Before a new one is opened there.
        self._earlier_boards = [] if folder is None else list(folder.glob(_EVENTS))
        self._board = _open_tensorboard(folder) if tensorboard and folder is not None else None
        path = Path(os.devnull) if folder is None else folder / LOG
        self._file = path.open("a", encoding="utf-8")
        self._console = Console(stderr=True, quiet=quiet or folder is None)
        self._told = False  # that the file cannot be written
        self._bar: Progress | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_phase()
        with contextlib.suppress(OSError):  # told when it was written
            self._file.close()
        if self._board is not None:
            self._board.close()

    def restart(self) -> None:
        """Forget what an earlier run wrote into the JSON log and for TensorBoard."""
        self._file.truncate(0)
        for events in self._earlier_boards:
            events.unlink(missing_ok=True)

    def say(self, text: str, **facts: Any) -> None:
        """Print one line, and write it with its facts into the JSON log."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._write({"event": "note", "text": text, **facts})

    def count(self, done: int, total: int, what: str) -> None:
        """Say how far work on many things is, at most every 15 seconds; call it for each."""
        now = time.monotonic()
        if now - self._last_line > SECONDS_BETWEEN_LINES and done < total:
            self._last_line = now
            self._console.print(f"{what}: {done} of {total}", highlight=False)

    def start_phase(self, phase: str, done: int, steps: int) -> None:
        """Begin to report a phase of which some steps are done."""
        self._write({"event": "phase", "phase": phase, "step": done, "steps": steps})
        self._last_line = 0.0
        if self._console.is_terminal and not self._console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}, {task.fields[rate]} images/s, left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._bar.add_task(
                self._title(phase), total=steps, completed=done, loss="...", rate="..."
            )

    def advance(self, step: int) -> None:
        """Move the bar to a number of steps done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def report(
        self, phase: str, step: int, steps: int, *, loss: float, rate: float, batch: int, lr: float
    ) -> None:
        """Report the mean loss and the images per second since the last report."""
        self._write(
            {
                "event": "step",
                "phase": phase,
                "step": step,
                "steps": steps,
                "loss": round(loss, 6),
                "images_per_s": round(rate, 3),
                "lr": lr,
            }
        )
        if self._board is not None:
            tag = phase if self.fold is None else f"fold {self.fold}/{phase}"
            self._board.add_scalar(f"{tag}/loss", loss, step)
            self._board.add_scalar(f"{tag}/images_per_s", rate, step)
            self._board.add_scalar(f"{tag}/lr", lr, step)
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=step, loss=f"{loss:.4f}", rate=f"{rate:.1f}"
            )
        elif step == steps or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = timedelta(seconds=round((steps - step) * batch / rate))
            self._console.print(
                f"{self._title(phase)}: step {step}/{steps}, loss {loss:.4f}, "
                f"{rate:.1f} images/s, {left} left",
                highlight=False,
                soft_wrap=True,
            )

    def end_phase(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _title(self, phase: str) -> str:
        title = PHASES[phase].title
        return title if self.fold is None else f"fold {self.fold}, {title}"

    def _write(self, record: dict[str, Any]) -> None:
        fold = {} if self.fold is None else {"fold": self.fold}
        line = json.dumps({"time": round(time.time(), 3), **record, **fold})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:  # a full disk: a log is no reason to lose a training
            if not self._told:
                self._told = True
                logger.warning("%s: the log is not complete: %s", self._file.name, error)


def _open_tensorboard(folder: Path) -> Any:
    with needs_extra("tensorboard", "--tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder / TENSORBOARD))
