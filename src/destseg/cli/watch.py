"""``destseg watch``: images are inspected as they arrive in a folder."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options

if TYPE_CHECKING:
    from destseg.inference.result import Failure, Result
    from destseg.interruption import Interruption

DESCRIPTION = """Inspect images as they arrive in a folder, until a signal ends it.

It looks at FOLDER again and again, to any depth.  An image that has not changed for --settle
seconds is inspected, the oldest first; hidden files and temporary names (.tmp, .part, ~) are left
alone.  One that cannot be read may still be being written: it is tried again until it has not
changed for --give-up seconds, and then recorded with its error.

The file of --output is also the record of what is done: started again, however it ended, the watch
inspects what is not in it, and nothing that is.  A file that is written anew under the same name is
a new image.  Only one watch at a time can write to a file of results.
"""

EPILOG = """exit codes:
  0  with --once: all is inspected
  1  with --once: some images could not be read, or something has to be mended (it says what);
     without: no folder at the start, the results cannot be written, the model cannot be used
  2  arguments that make no sense
  128 + n  ended by signal n (Ctrl-C, SIGTERM), after the image in hand

examples:
  destseg watch runs/parts incoming/ --output results.jsonl
  destseg watch runs/parts incoming/ --output results.db --move inspected/ --verbose
  destseg watch runs/parts incoming/ --output results.db --once       # from cron
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parsed = _parser().parse_args(words)

    from destseg.interruption import Interruption

    with contextlib.ExitStack() as stack:
        interruption = Interruption()
        report = stack.enter_context(_Report(parsed.verbose, interruption))
        answers = destseg.watch(
            parsed.bundle,
            parsed.folder,
            parsed.output,
            move=parsed.move,
            once=parsed.once,
            interval=parsed.interval,
            settle=parsed.settle,
            give_up=parsed.give_up,
            stop=report,
            on_note=report.say,
            batch_size=parsed.batch_size,
            **runtime_options(parsed),
        )
        for answer in stack.enter_context(contextlib.closing(answers)):
            report.count(answer)
    if interruption.signal is not None:
        return 128 + interruption.signal
    return 1 if report.failed or report.complaints else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("watch", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("folder", metavar="FOLDER", help="where images arrive")
    parser.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="results: JSON lines (.jsonl) or an SQLite database (.db, .sqlite, .sqlite3), gone on "
        "with where it is there; of one folder",
    )
    parser.add_argument(
        "--move",
        metavar="DIR",
        help="move what was inspected to DIR/good, DIR/defective or DIR/failed, on the same file "
        "system (default: leave it)",
    )
    parser.add_argument(
        "--once", action="store_true", help="end when all that was there at the start is inspected"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print a line an image to standard error"
    )
    section = parser.add_argument_group("timing, in seconds")
    for name, default, text in (
        ("--interval", 0.5, "between two looks, at least"),
        ("--settle", 0.5, "an image is read when it has not changed for so long"),
        ("--give-up", 10.0, "one that cannot be read fails when it has not changed for so long"),
    ):
        section.add_argument(
            name, type=float, default=default, metavar="S", help=f"{text} (default: {default:g})"
        )
    add_runtime_flags(parser)
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)"
    )
    return parser


class _Report:
    """What a user sees: a status on a terminal, failures and, if wanted, a line an image."""

    def __init__(self, verbose: bool, interruption: Interruption) -> None:
        from rich.console import Console

        self._interruption = interruption
        self._signals = contextlib.ExitStack()
        self._loaded = False
        self.inspected = self.defective = self.failed = self.complaints = 0
        self._verbose = verbose
        self._began = time.monotonic()
        self._last_minute: deque[float] = deque()
        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._status = None
        if self._console.is_terminal:
            self._status = self._console.status("", refresh_per_second=4)

    def __enter__(self) -> _Report:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.close()
        if self._status:
            self._status.stop()
        if self.inspected or self._status or self._interruption.signal is not None:
            self._console.print(f"destseg: {self._counts()}")

    def say(self, text: str) -> None:
        """Print what is to be mended, or has come right."""
        self.complaints += 1
        self._console.print(f"destseg: {text}")

    def count(self, answer: Result | Failure) -> None:
        """Take note of an image that is recorded."""
        from destseg.inference.result import Failure

        self.inspected += 1
        self._last_minute.append(time.monotonic())
        if isinstance(answer, Failure):
            self.failed += 1
            self._console.print(f"destseg: {answer.error}")
            return
        self.defective += answer.is_defective
        if self._verbose:
            word = "defective" if answer.is_defective else "good     "
            self._console.print(f"{word} {answer.score:.4f} {answer.path}")

    def wait(self, seconds: float) -> bool:
        """Bring the terminal's status up to date, wait, and return whether a signal has come.

        It is asked first when the model is loaded.  Until then no image is in hand, and a signal
        ends the command at once.
        """
        if not self._loaded:
            self._loaded = True
            self._signals.enter_context(self._interruption.watch())
        while self._last_minute and self._last_minute[0] < time.monotonic() - 60:
            self._last_minute.popleft()
        if self._status:
            self._status.update(f"{self._counts()}; {len(self._last_minute)} in the last minute")
        return self._interruption.wait(seconds)

    def _counts(self) -> str:
        hours, seconds = divmod(round(time.monotonic() - self._began), 3600)
        return (
            f"{self.inspected} inspected in {hours}:{seconds // 60:02}:{seconds % 60:02}, "
            f"{self.defective} defective, {self.failed} could not be read"
        )
