"""Whose fault an error is: that of what was read, or of the program that reads it."""

from __future__ import annotations

import traceback

_MISTAKES = (AssertionError, AttributeError, ImportError, NameError, NotImplementedError, TypeError)


def is_ours(error: BaseException) -> bool:
    """Return whether an error is a mistake in our own lines, and not in what they were given.

    Decoders and runtimes raise nearly anything for damaged files, these kinds too, but inside of
    themselves; where our lines do, a name is missing or a call is wrong, whatever the file.
    """
    if not isinstance(error, _MISTAKES):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # A package may say by a function of its own that it has no such name.
    raising = [frame for frame in frames if frame.f_code.co_name != "__getattr__"]
    module = str(raising[-1].f_globals.get("__name__", "")) if raising else ""
    return module.partition(".")[0] == "destseg"
