"""The next step's batch, made and prepared while this one is learned from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from destseg.synthesis.batches import Batches
from destseg.training.phases import Phase


@contextlib.contextmanager
def prepared(
    phase: Phase,
    batches: Batches,
    steps: range,
    device: torch.device,
    precision: Callable[[], contextlib.AbstractContextManager[object]],
) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Yield an iterator over what a phase learns from in each of some steps.

    Batches are made in a thread of their own.  On a CPU that thread also runs the frozen networks,
    and PyTorch's threads are split between it and the caller: two halves that do not wait for each
    other are faster than operations that each wait for their slowest part (benchmarks/NOTES.md).
    A GPU has one queue, so there the caller prepares.  With one thread, too.

    Args:
        phase: whose ``prepare`` is run.
        batches: images by step.
        steps: which, in order.
        device: where the batches are.
        precision: returns a context for the frozen networks.
    """
    threads = torch.get_num_threads()
    split = device.type == "cpu" and threads > 1
    theirs = threads // 2 if split else threads

    def prepare(batch: Any) -> tuple[Any, ...]:
        with precision():
            return phase.prepare(batch)

    def make(step: int) -> Any:
        batch = batches.make(phase.name, step)
        return prepare(batch) if split else batch

    def stream(pool: ThreadPoolExecutor) -> Iterator[tuple[Any, ...]]:
        coming = pool.submit(make, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            ready = coming.result()
            if step + 1 < steps.stop:
                coming = pool.submit(make, step + 1)
            yield ready if split else prepare(ready)

    with ThreadPoolExecutor(
        1, "destseg-batches", initializer=torch.set_num_threads, initargs=(theirs,)
    ) as pool:
        try:
            # The number belongs to the thread that sets it, and to threads that begin later.
            torch.set_num_threads(threads - theirs if split else threads)
            yield stream(pool)
        finally:
            torch.set_num_threads(threads)
