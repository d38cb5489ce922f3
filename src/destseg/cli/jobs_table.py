"""How far many jobs are: a table that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from destseg.categories.job import JobOutcome
from destseg.categories.plan import TrainingJob
from destseg.categories.progress import standing
from destseg.data.lists import counted

SECONDS_BETWEEN_LINES = 15.0


class JobsShown:
    """Tells how far jobs are, from the logs that they write.

    Args:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._total = 0
        self._done = 0
        self._ahead = ""
        self._since = time.time() - 1
        self._last = time.monotonic()
        on_terminal = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, auto_refresh=False) if on_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def begin(self, total: int) -> None:
        """Tell how many jobs there are to do, once."""
        if total and not self._total:
            self._total = total
            self._say(f"{counted(total, 'job')}; each tells how far it is")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.update("", refresh=True)
            self._live.stop()

    def ended(self, outcome: JobOutcome) -> None:
        """Tell what became of a job."""
        self._done += 1
        job, result = outcome.job, outcome.result
        if result is None:
            told = "failed: " + (outcome.reason or "").partition("\n")[0]
        else:
            told = f"trained in {result['minutes']} min"
            if result["restarts"]:
                told += f" (interrupted {counted(result['restarts'], 'time')}, went on)"
        self._say(f"{self._done}/{self._total} {job.name}: {told}")

    def update(self, waiting: Sequence[TrainingJob]) -> None:
        """Tell how far the jobs without an outcome are; on no terminal about every 15 seconds."""
        now = time.monotonic()
        if not self._live and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        standings = [(job, standing(job.folder, job.settings, self._since)) for job in waiting]
        running = [(job, at) for job, at in standings if at is not None]
        rest = len(waiting) - len(running)
        ahead = f"{self._done} of {self._total} done, {len(running)} running, {rest} waiting"
        if self._live:
            table = Table.grid(padding=(0, 2))
            for job, at in running:
                table.add_row(job.name, at.told(time.time()))
            self._live.update(Group(table, ahead), refresh=True)
            return
        for job, at in running:
            self._say(f"{job.name}: {at.told(time.time())}")
        if ahead != self._ahead:
            self._say(ahead)
        self._ahead = ahead

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
