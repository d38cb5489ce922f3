"""Images of many callers through one predictor, together as they come.

A batch is whatever waits when the model is free, up to two of the predictor's batches (the second
is decoded while the first is computed).  So a single image is never held back for company, and
under load batches grow by themselves.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from destseg.inference.predictor import ImageLike, Predictor
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
            self._changed.notify()
        return [each.future for each in waiting]

    @property
    def depth(self) -> int:
        """Images that wait for their turn."""
        return len(self._queue)

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
        while self._wait():
            self._answer(self._next())

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        predictor = self.predictor
        try:
            if self._on_batch is not None:
                self._on_batch(len(batch))
            answers = predictor.stream([each.image for each in batch])
            for each, said in zip(batch, answers, strict=True):
                each.future.set_result(Answer(said, predictor))
        except Exception as error:
            # A broken model must not end the thread: the next one may be reloaded into it.
            left = [each for each in batch if not each.future.done()]
            for each in left:
                if len(batch) == 1:
                    each.future.set_exception(error)
                else:  # What breaks it may be one image, and the others are other callers'.
                    self._answer([each])

    def _wait(self) -> bool:
        """Wait for something to do; return whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return bool(self._queue)

    def _next(self) -> list[_Waiting]:
        """Return whose turn it is, without those that gave up or are too late."""
        batch: list[_Waiting] = []
        now = time.monotonic()
        while self._queue and len(batch) < 2 * self.predictor.batch_size:
            each = self._queue.popleft()
            if not each.future.set_running_or_notify_cancel():
                continue
            if each.deadline < now:
                each.future.set_exception(DeadlinePassed())
            else:
                batch.append(each)
        return batch
