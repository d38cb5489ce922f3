"""Ctrl-C and SIGTERM, remembered until what is in hand is done."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SLICE = 0.1


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
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # One that was not set by Python could not be set again.
        before = {number: handler for number, handler in found.items() if handler is not None}

        def remember(number: int, frame: FrameType | None) -> None:
            del frame
            self.signal = number
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in before:
            signal.signal(number, remember)
        try:
            yield self
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
