"""A progress bar with an ETA on a terminal, and nothing in the way elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int) -> Iterator[Item]:
    """Yield the items while a bar on the standard error's terminal tells how far they are."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    with Progress(console=console) as progress:
        yield from progress.track(items, total=total, description="images")


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with what is done and how much there is; a terminal shows a bar."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    with Progress(console=console) as progress:
        task = progress.add_task("images", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Pace:
    """How far many images are, their rate and the time left: a bar on a terminal, else lines.

    Enter it, ``begin`` when the number is known, and ``advance`` as images are done.

    Attributes:
        done: images that were done since it began.
    """

    def __init__(self, every: float = 10.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("images"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._every = every
        self._total = self._before = self._first = self.done = 0
        self._entered = self._begun = self._said = time.monotonic()
        self._at_first = self._begun

    def __enter__(self) -> Pace:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.task_ids:
            self._bar.stop()

    @property
    def elapsed(self) -> timedelta:
        """The time since it was made, in whole seconds."""
        return timedelta(seconds=round(time.monotonic() - self._entered))

    @property
    def rate(self) -> float:
        """Images a second since the first were done, for that took the start of processes too."""
        done = self.done - self._first or self.done
        return done / max(time.monotonic() - self._begun, 1e-9)

    def begin(self, total: int, before: int = 0) -> None:
        """Start the clock: there are so many, of which some were done before."""
        self._total, self._before = total, before
        self._begun = time.monotonic()
        if self._console.is_terminal:
            self._bar.add_task("", total=total, completed=before, rate="")
            self._bar.start()

    def reach(self, images: int) -> None:
        """Say how many images are done, those that were done before among them."""
        self.advance(images - self._before - self.done)

    def advance(self, images: int) -> None:
        """Count images that are done, and tell it from time to time."""
        if not self._first:
            self._first = images
        elif self.done == self._first:
            self._begun = self._at_first
        self.done += images
        if self.done == self._first:
            self._at_first = time.monotonic()
        reached = self._before + self.done
        if self._console.is_terminal:
            self._bar.update(self._bar.task_ids[0], completed=reached, rate=f"{self.rate:.1f}/s")
            return
        now = time.monotonic()
        if now - self._said >= self._every or reached == self._total:
            self._said = now
            left = timedelta(seconds=round((self._total - reached) / self.rate))
            print(
                f"{reached} of {self._total} images, {self.rate:.1f} images/s, {left} left",
                file=sys.stderr,
                flush=True,
            )
