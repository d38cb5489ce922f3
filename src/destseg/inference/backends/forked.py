"""What a fork leaves of a runtime, and a backend that is opened anew after one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from destseg.inference.backends.runtime import Backend

_INHERITED: list[Backend] = []
"""Never let go of: the end of a runtime waits for its threads, which a fork leaves behind."""


class _Gate:
    """Keeps the calls of a process and its forks apart."""

    def __init__(self) -> None:
        self.is_forked = False
        self.begin()

    def begin(self) -> None:
        self.opening = threading.Lock()
        self._changed = threading.Condition()
        self._calls = 0
        self._forks = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        with self._changed:
            # Else callers that never rest together would keep a fork waiting for ever.
            self._changed.wait_for(lambda: not self._forks)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()
        self._forks += 1
        self._changed.wait_for(lambda: not self._calls)

    def after_fork(self) -> None:
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self.is_forked = True
        self.begin()  # threads that are not here may have held the locks


_gate = _Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_gate.before_fork,
        after_in_parent=_gate.after_fork,
        after_in_child=_gate.after_fork_in_child,
    )


def unforked() -> contextlib.AbstractContextManager[None]:
    """Inside, this process is not forked: forks wait until it ends, and it must not be nested.

    What a runtime has locked while it is forked would stay locked in the other process.
    """
    return _gate.call()


def is_forked() -> bool:
    """Return whether this process was forked, so that runtimes may have lost their threads."""
    return _gate.is_forked


class OpenedHere:
    """A backend whose runtime was opened by the process that calls it; see ``Backend``.

    A fork takes a runtime's memory along but none of its threads: a call may wait for them for
    ever.  So a forked process opens its own at its first call.

    Args:
        opened: opens the backend; called at once, and again in a process that was forked.
    """

    def __init__(self, opened: Callable[[], Backend]) -> None:
        self._open = opened
        with unforked():
            self._here = os.getpid(), opened()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3].

        Raises:
            BundleError: in a forked process, if the model's files are no longer those of before.
        """
        with unforked():
            process, backend = self._here
            return (backend if process == os.getpid() else self._open_here())(images)

    def __del__(self) -> None:
        if hasattr(self, "_here") and self._here[0] != os.getpid():
            _INHERITED.append(self._here[1])

    def _open_here(self) -> Backend:
        with _gate.opening:
            process, backend = self._here
            if process != os.getpid():
                _INHERITED.append(backend)
                backend = self._open()
                self._here = os.getpid(), backend
            return backend
