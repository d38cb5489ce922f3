"""What belongs to the whole process, put back as it was found; what stays says so."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_lock = threading.Lock()
_inside: Counter[str] = Counter()  # by the logger's name, over all threads
_levels: dict[str, int] = {}


@contextlib.contextmanager
def without_remarks(*loggers: str) -> Iterator[None]:
    """Keep what libraries say of themselves from the terminal; errors are still heard.

    Args:
        loggers: their names; those below them are meant too.
    """
    with _lock:
        for name in loggers:
            if not _inside[name]:
                _levels[name] = logging.getLogger(name).level
                logging.getLogger(name).setLevel(logging.ERROR)
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
    ours = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def give_ray_a_token() -> None:
    """Put the token for a Ray of our own into the environment, where there is none.

    Ray would write one into the user's home.  The variable stays: Ray reads it once in a process,
    so that a later session of the caller's has to find the same.
    """
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not given and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
