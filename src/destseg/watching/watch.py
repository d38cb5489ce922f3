"""Inspects images as they arrive in a folder, each once, whatever ends the process.

The order of things for an image is: it is read and inspected; it is looked at again, and if it is
not what it was before, nothing is said of it; its result is written, durably; it is moved.  What
ends the process in between leaves an image that is not done and will be inspected, or one that is
done and will be moved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from destseg.errors import DataError, SettingsError
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure, Result
from destseg.watching.arrivals import Arrival, Arrivals, Scanner, look_at
from destseg.watching.journal import Journal, open_journal
from destseg.watching.moving import Mover

# Looks begin this many times as far apart as one takes, however many images lie there.
_APART = 5


@dataclass(frozen=True)
class Timing:
    """When to look and what to wait for, in seconds.

    Attributes:
        interval: between two looks at the folder, at least.
        settle: a file that did not change for so long is read.
        give_up: a file that cannot be read and did not change for so long is recorded as that.
    """

    interval: float = 0.5
    settle: float = 0.5
    give_up: float = 10.0

    def __post_init__(self) -> None:
        wrong = [
            f"--{name.replace('_', '-')}: expected a number of seconds of at least {least}, got "
            f"{value}"
            for name, value in vars(self).items()
            if not (least := 0.01 if name == "interval" else 0) <= value < float("inf")
        ]
        if wrong:
            raise SettingsError("\n".join(wrong))


class Stop(Protocol):
    """What ends a watch: a ``threading.Event``, or anything that waits like one."""

    def wait(self, timeout: float, /) -> bool:
        """Wait for some seconds, or less long, and return whether the watch is to end."""
        ...


def watch_folder(
    folder: Path,
    open_predictor: Callable[[], Predictor],
    output: Path,
    *,
    move: Path | None,
    timing: Timing,
    once: bool,
    say: Callable[[str], object],
    stop: Stop,
) -> Generator[Result | Failure]:
    """Yield what was said of each image that arrives in a folder when it is recorded.

    Args:
        folder: where images arrive, at any depth.
        open_predictor: gives what inspects them, when nobody else writes to the results.
        output: the results: .jsonl, .db, .sqlite or .sqlite3.
        move: folder for what was inspected; ``None`` leaves it.
        timing: when to look.
        once: as in ``Watch.run``.
        say: as in ``Watch``.
        stop: ends it, after the image that is in hand.

    Raises:
        SettingsError, DataError: if the results or the folders cannot be used, or the results are
            of another folder.
        DestsegError: if the model cannot be loaded.
    """
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(contextlib.closing(open_journal(output)))
        journal.require_folder(folder)
        mover = stack.enter_context(contextlib.closing(Mover(folder, move))) if move else None
        predictor = open_predictor()
        if stop.wait(0):  # it may have been set while the model was loaded
            return
        watch = Watch(
            folder,
            predictor,
            journal,
            mover=mover,
            timing=timing,
            say=say,
            pause=stop.wait,
        )
        yield from watch.run(once=once)


class Watch:
    """A folder, what inspects its images, and where the results go.

    Args:
        folder: where images arrive, at any depth.
        predictor: inspects them.
        journal: keeps the results, and knows what is done.
        mover: where images go when they are done; ``None`` leaves them.
        timing: when to look.
        say: is told, once each, of what a user should mend; what comes right by itself goes on.
        pause: waits for some seconds and returns whether the watch is to end.
        clock: seconds, of a clock that never goes back.
    """

    def __init__(
        self,
        folder: Path,
        predictor: Predictor,
        journal: Journal,
        *,
        mover: Mover | None = None,
        timing: Timing | None = None,
        say: Callable[[str], object],
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.predictor = predictor
        self.journal = journal
        self.mover = mover
        self.timing = timing or Timing()
        self._say = say
        self._pause = pause
        self._clock = clock
        self._arrivals = Arrivals(self.timing.settle, self.timing.give_up)
        self._scanner = Scanner(folder, self._refused, mover.target if mover else None)
        self._said: set[str] = set()

    def run(self, *, once: bool = False) -> Iterator[Result | Failure]:
        """Yield what was said of each image when it is recorded, until ``pause`` says to end.

        Args:
            once: end when all images that were there at the first look are done.

        Raises:
            DataError: if a result cannot be written, or the folder cannot be read at the first
                look or, with ``once``, later.
        """
        there: set[str] | None = None
        while True:
            looked = self._clock()
            try:
                found = self._not_done()
            except OSError as error:
                if once or there is None:
                    raise DataError(
                        f"{self.folder}: expected a folder that can be read, got {error}."
                    ) from error
                self._complain(str(self.folder), f"{error}; trying on until it is back")
                found = None
            took = self._clock() - looked
            if found is not None:
                if str(self.folder) in self._said:
                    self._said.remove(str(self.folder))
                    self._say(f"{self.folder}: is back")
                due = self._arrivals.look(found, looked)
                there = self._arrivals.files if there is None else there
                answers = self.predictor.stream(self.folder / arrival.file for arrival in due)
                for arrival, answer in zip(due, answers, strict=True):
                    if self._holds(arrival, answer):
                        self._record(arrival, answer)
                        yield answer
                    if self._pause(0):
                        return
                if once and not there & self._arrivals.files:
                    return
            passed = self._clock() - looked
            if self._pause(max(0.0, max(self.timing.interval, _APART * took) - passed)):
                return

    def _not_done(self) -> list[Arrival]:
        """Return the images in the folder that are not done; move those that only are to be."""
        found, unmoved = [], []
        for arrival in self._scanner.scan():
            if arrival not in self.journal:
                found.append(arrival)
            elif self.mover and (planned := self.journal.destination(arrival)) is not None:
                unmoved.append((arrival, planned))
        for arrival, planned in unmoved:
            self._move(arrival, planned)
        return found

    def _refused(self, error: OSError) -> None:
        self._complain(str(error.filename), f"{error}; it is left out until it can be read")

    def _holds(self, arrival: Arrival, answer: Result | Failure) -> bool:
        """Whether an answer is of the image that was seen, and is the last word on it."""
        if look_at(self.folder, arrival.file) != arrival:
            # Written anew or taken away: nothing can tell which image was read.
            return False
        return isinstance(answer, Result) or self._arrivals.unreadable(arrival, self._clock())

    def _record(self, arrival: Arrival, answer: Result | Failure) -> None:
        planned = self.mover.plan(arrival, answer) if self.mover else None
        line = answer.to_json()
        line |= {
            **arrival._asdict(),
            "inspected": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "weights_sha256": self.predictor.weights_sha256,
            "moved_to": planned,
        }
        self.journal.add(line)
        self._arrivals.done(arrival)
        if planned is not None:
            self._move(arrival, planned)
        elif self.mover:
            self._say(
                f"{arrival.file}: is recorded and stays: a relative link leads nowhere from "
                "another folder. Make links to whole paths, to have them moved"
            )

    def _move(self, arrival: Arrival, planned: str) -> None:
        assert self.mover is not None
        try:
            self.mover.move(arrival, planned)
            self._said.discard(arrival.file)
        except OSError as error:
            self._complain(arrival.file, f"{error}; it is recorded, and moved when that is mended")

    def _complain(self, about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self._say(f"{about}: {text}")
