"""A progress bar with an ETA on a terminal, and nothing in the way elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
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
        yield from progress.track(items, total=total, description="pictures")


@contextlib.contextmanager
def counted(total: int) -> Iterator[Callable[[], None]]:
    """Give a function to call after each of many things; a terminal shows how far they are."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    with Progress(console=console) as progress:
        task = progress.add_task("pictures", total=total)
        yield lambda: progress.advance(task)
