"""Ctrl-C and SIGTERM, remembered until what is in hand is done."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_SLICE = 0.1


class _End(KeyboardInterrupt):
    """Ends the work as Ctrl-C does.

    It is not KeyboardInterrupt itself: where that passes through ``exec``, as of a dataclass that
    is being made, ``python -m`` ends the process by SIGINT, whatever the exit code.
    """


class Interruption:
    """Remembers SIGINT and SIGTERM, so that a run can stop between two steps.

    Attributes:
        signal: the number of the one that came; ``None`` if none has.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[Interruption]:
        """Catch the signals inside; a second one ends the program at once as usual.

        Handlers are the process's: afterwards, and from the first signal on, they are those that
        were there.  In another thread than the main one, which alone may set them, none is caught.
        """
        with self._caught(lambda: None):
            yield self

    @contextlib.contextmanager
    def end(self) -> Iterator[Interruption]:
        """Let the first signal end what is inside, as ``KeyboardInterrupt``, so that it cleans up.

        By itself SIGTERM would end the process on the spot, and leave its temporary files.  Where
        ``watch`` is inside, its signals are remembered only.  Handlers are as in ``watch``.
        """

        def stop() -> None:
            raise _End

        with self._caught(stop):
            yield self

    @contextlib.contextmanager
    def _caught(self, then: Callable[[], None]) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # One that was not set by Python could not be set again.
        before = {number: handler for number, handler in found.items() if handler is not None}

        def caught(number: int, frame: FrameType | None) -> None:
            del frame
            self.signal = number
            for each, handler in before.items():
                signal.signal(each, handler)
            then()

        try:
            for number in before:
                signal.signal(number, caught)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait, or less long if a signal comes; return whether one has come.

        It sleeps in slices: a handler that set an event could find its lock held by the very
        thread that it interrupts.
        """
        until = time.monotonic() + seconds
        while self.signal is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))
        return self.signal is not None


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Let what is inside, which is quick, be done as a whole: a signal takes effect after it."""
    interruption = Interruption()
    try:
        with interruption.watch():
            yield
    finally:
        if interruption.signal is not None:
            signal.raise_signal(interruption.signal)
