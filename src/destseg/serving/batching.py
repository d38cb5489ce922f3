"""Images of many callers through one predictor, together as they come.

A batch is whatever is read and waits when the model is free.  So a single image is never held back
for company, and under load batches grow by themselves.  The next images are read, and the regions
of the last ones found, while a batch is in the networks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from destseg.inference.predictor import ImageLike, Mapped, Predictor
from destseg.inference.reading import Pixels
from destseg.inference.result import Failure, Result


class QueueFull(Exception):  # noqa: N818 - a state of the queue, not a fault
    """There is no room for another image now."""


class DeadlinePassed(Exception):  # noqa: N818 - what happened, not a fault
    """An image's time was over before its turn came."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What was said of an image, and the predictor that said it.

    Attributes:
        said: the result, or why there is none.
        predictor: it may have been replaced since.
    """

    said: Result | Failure
    predictor: Predictor


@dataclass(frozen=True, eq=False)
class _Waiting:
    image: ImageLike
    deadline: float
    future: Future[Answer] = field(default_factory=Future)

    def is_awaited(self) -> bool:
        """Return whether the answer is still wanted; tell who waits where it is too late."""
        if self.deadline < time.monotonic() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(DeadlinePassed())
        return not self.future.done()


class _Reading(NamedTuple):
    waiting: _Waiting
    predictor: Predictor
    pixels: Future[Pixels | Failure]


class Batcher:
    """A bounded queue before a predictor, and the thread that works it off.

    Thread safety: all of it may be used from any number of threads.

    Args:
        predictor: may be replaced at any time; a batch is of one predictor.
        capacity: images that may be accepted and not yet answered.
        on_batch: is told the size of each batch, on the worker's thread.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        capacity: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.predictor = predictor
        self.capacity = capacity
        self._on_batch = on_batch
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._accepted = 0
        self._queue: deque[_Waiting] = deque()
        self._reading: deque[_Reading] = deque()
        self._readers = ThreadPoolExecutor(2, "destseg-read")
        self._decider = ThreadPoolExecutor(1, "destseg-decide")
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="destseg-serve", daemon=True)
        self._worker.start()

    @contextlib.contextmanager
    def room(self, images: int = 1) -> Iterator[None]:
        """Keep room for images from before they are read until they are answered.

        Raises:
            QueueFull: if there is none, or the server is closing.
        """
        if self._process != os.getpid():
            # A fork takes no thread along, and what was queued is for the other process to answer.
            self._begin()
        with self._changed:
            if self._closed or self._accepted + images > self.capacity:
                raise QueueFull
            self._accepted += images
        try:
            yield
        finally:
            with self._changed:
                self._accepted -= images

    def submit(self, images: Sequence[ImageLike], deadline: float) -> list[Future[Answer]]:
        """Queue images for which there is ``room``.

        Args:
            images: as ``Predictor.predict`` takes them.
            deadline: on ``time.monotonic``'s clock; whose turn comes later is not inspected.

        Returns:
            Futures in the same order.  They raise ``DeadlinePassed``, or what the predictor raised.
            One that is cancelled before its turn is not inspected.

        Raises:
            QueueFull: if the batcher was closed.
        """
        waiting = [_Waiting(image, deadline) for image in images]
        with self._changed:
            if self._closed:
                raise QueueFull
            self._queue.extend(waiting)
            self._read_ahead()
            self._changed.notify()
        return [each.future for each in waiting]

    @property
    def depth(self) -> int:
        """Images that wait for their turn."""
        return len(self._queue) + len(self._reading)

    @property
    def is_open(self) -> bool:
        """Whether images are taken."""
        forked = self._process != os.getpid()  # then the next image brings a thread of its own
        return not self._closed and (forked or self._worker.is_alive())

    def close(self) -> None:
        """Take nothing more, work off what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        # Nothing is named here: what is replaced or answered must not be kept while nobody asks.
        with self._readers, self._decider:
            while self._wait():
                self._map(self._next())

    def _wait(self) -> bool:
        """Wait for something to do; return whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._reading or self._closed)
            self._read_ahead()
            return bool(self._reading or self._queue)

    def _read_ahead(self) -> None:
        """Have the next images read, two batches ahead; of large ones for tiles one at a time."""
        predictor = self.predictor
        ahead = 1 if predictor.bundle.settings.data.tile else 2 * predictor.batch_size
        while self._queue and len(self._reading) < ahead:
            each = self._queue.popleft()
            if each.is_awaited():
                pixels = self._readers.submit(predictor.read, each.image)
                self._reading.append(_Reading(each, predictor, pixels))

    def _next(self) -> list[_Reading]:
        """Return what goes through the networks now: the first image, and what is read besides."""
        batch: list[_Reading] = []
        if self._reading:
            wait([self._reading[0].pixels])
        with self._changed:
            while self._reading and self._reading[0].pixels.done():
                each = self._reading[0]
                if batch and each.predictor is not batch[0].predictor:
                    break
                if len(batch) == each.predictor.batch_size:
                    break
                self._reading.popleft()
                if each.waiting.is_awaited() and each.waiting.future.set_running_or_notify_cancel():
                    batch.append(each)
            self._read_ahead()
        return batch

    def _map(self, batch: Sequence[_Reading]) -> None:
        if not batch:
            return
        try:
            if self._on_batch is not None:
                self._on_batch(len(batch))
            mapped = batch[0].predictor.map([each.pixels.result() for each in batch])
        except Exception as error:
            # A broken model must not end the thread: the next one may be reloaded into it.
            if len(batch) == 1:
                batch[0].waiting.future.set_exception(error)
                return
            for (
                each
            ) in batch:  # What breaks it may be one image, and the others are other callers'.
                self._map([each])
        else:
            self._decider.submit(_decide, batch, mapped)


def _decide(batch: Sequence[_Reading], mapped: Sequence[Mapped | Failure]) -> None:
    for each, one in zip(batch, mapped, strict=True):
        try:
            said = each.predictor.decide(one)
        except Exception as error:
            each.waiting.future.set_exception(error)
        else:
            each.waiting.future.set_result(Answer(said, each.predictor))
