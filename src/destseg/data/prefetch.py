"""Work in threads, results in order, memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


def in_order(
    function: Callable[[Item], Output], items: Iterable[Item], *, threads: int = 2, ahead: int = 4
) -> Generator[Output]:
    """Yield ``function(item)`` in the order of the items, a few ahead of the consumer.

    Where one is ready it is yielded for each item that is taken, so slow items are not waited for.

    Args:
        function: called in threads; what it raises is raised here, in its turn.
        items: taken only as they are needed; what they raise is raised here behind the results of
            all items before it.
        threads: number of threads.
        ahead: at most this many results wait at any time.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="destseg-read")
    waiting: deque[Future[Output]] = deque()
    try:
        source = iter(items)
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:
                ended: Future[Output] = Future()
                ended.set_exception(error)
                waiting.append(ended)
                break
            waiting.append(pool.submit(function, item))
            # One for each that is taken: so what waits stays as much as the threads once needed,
            # and where items come slowly nothing waits for more of them.
            if len(waiting) > ahead or waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Generator[list[Item]]:
    """Yield ``size`` items at a time, fewer at the end and before what the items raise."""
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
