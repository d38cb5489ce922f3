"""What belongs to the whole process, put back as it was found."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator

_lock = threading.Lock()
_inside: Counter[str] = Counter()  # by the logger's name, over all threads
_levels: dict[str, int] = {}


@contextlib.contextmanager
def without_remarks(*loggers: str, level: int = logging.ERROR) -> Iterator[None]:
    """Keep what libraries say of themselves from the terminal.

    Args:
        loggers: their names; those below them are meant too.
        level: what is still heard.
    """
    with _lock:
        for name in loggers:
            if not _inside[name]:
                _levels[name] = logging.getLogger(name).level
                logging.getLogger(name).setLevel(level)
            _inside[name] += 1
    try:
        yield
    finally:
        with _lock:
            for name in loggers:
                _inside[name] -= 1
                if not _inside[name]:
                    logging.getLogger(name).setLevel(_levels.pop(name))


@contextlib.contextmanager
def logging_as_found() -> Iterator[None]:
    """Undo what packages do to everybody's logging, when they are imported or first speak."""
    root = logging.getLogger()
    handlers, level, kind = list(root.handlers), root.level, logging.getLoggerClass()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.setLoggerClass(kind)


@contextlib.contextmanager
def variables(**defaults: str) -> Iterator[None]:
    """Set environment variables that are not set, for us and for the processes begun inside."""
    with without_new(*defaults):
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        yield


@contextlib.contextmanager
def without_new(*names: str) -> Iterator[None]:
    """Unset environment variables again that a package sets for itself."""
    unset = [name for name in names if name not in os.environ]
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


@contextlib.contextmanager
def sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back; in another thread than the main one none can be set."""
    found = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # One that was not set by Python could not be set again.
        if found is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, found)
