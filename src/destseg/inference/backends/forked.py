"""A backend that is opened anew in a process that was forked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from destseg.inference.backends import Backend

_INHERITED: list[Backend] = []
"""Never let go of: the end of a runtime waits for its threads, which a fork leaves behind."""
_opening = threading.Lock()


def _renew_lock() -> None:
    global _opening
    _opening = threading.Lock()  # a thread that is not here may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class OpenedHere:
    """A backend whose runtime was opened by the process that calls it; see ``Backend``.

    A fork takes a runtime's memory along but none of its threads: a call may wait for them for
    ever.  So a forked process opens its own at its first call.

    Args:
        opened: opens the backend; called at once, and again in a process that was forked.
    """

    def __init__(self, opened: Callable[[], Backend]) -> None:
        self._open = opened
        self._here = os.getpid(), opened()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3].

        Raises:
            BundleError: in a forked process, if the model's files are no longer those of before.
        """
        process, backend = self._here
        return (backend if process == os.getpid() else self._open_here())(images)

    def __del__(self) -> None:
        if hasattr(self, "_here") and self._here[0] != os.getpid():
            _INHERITED.append(self._here[1])

    def _open_here(self) -> Backend:
        with _opening:
            process, backend = self._here
            if process != os.getpid():
                _INHERITED.append(backend)
                backend = self._open()
                self._here = os.getpid(), backend
            return backend
