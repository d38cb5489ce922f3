"""A folder that is written to in every way, and a watch that is ended between any two steps.

A trace sees every line of ``watching``.  At random ones the process "dies" (an exception that
nothing there catches), or the world goes on meanwhile: an image comes, grows, is written over,
renamed or removed.  However that went, once all is quiet every image must have been recorded
exactly once with its own score, or have been destroyed by the world before.
"""

import gc
import os
import random
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from destseg.watching import watch
from watching.watched import Line, lines_of, png

# The dead close no files.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SOURCES = str(Path(watch.__file__).parent)
NAMES = [f"{folder}{number}.png" for folder in ("", "deep/") for number in range(4)]


class Killed(BaseException):
    """Ends the watch like a signal that cannot be caught."""


class World:
    """What writes to the folder, and remembers every whole image that it ever put there."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.time = 10**18
        self.whole: dict[tuple[str, int, int], int] = {}  # every whole image's score, times 255
        self.destroyed: set[int] = set()  # of the images that it wrote over or removed
        self.growing: dict[str, tuple[bytes, int]] = {}  # what is still to be written, and what
        self.left = list(range(1, 250))
        rng.shuffle(self.left)

    def act(self) -> None:
        name = self.rng.choice(NAMES)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if name in self.growing:
            content, red = self.growing.pop(name)
            self._put(path, content, red)
        elif self.rng.random() < 0.15:
            self._destroy(path)
            path.unlink(missing_ok=True)
        elif self.left:
            red = self.left.pop()
            way = self.rng.choice(["whole", "renamed", "growing", "growing"])
            if way == "growing":
                self.growing[name] = (png(red), red)
                self._put(path, png(red)[: self.rng.randrange(40)], None)
            elif way == "renamed":
                hidden = path.with_name(f".{path.name}")
                self._put(hidden, png(red), None)
                self._destroy(path)
                hidden.replace(path)
                self._note(path, red)
            else:
                self._put(path, png(red), red)

    def finish(self) -> None:
        for name, (content, red) in self.growing.items():
            self._put(self.folder / name, content, red)
        self.growing = {}

    def _put(self, path: Path, content: bytes, red: int | None) -> None:
        self._destroy(path)
        path.write_bytes(content)
        self.time += self.rng.randrange(1, 10**10)
        os.utime(path, ns=(self.time, self.time))
        if red is not None:
            self._note(path, red)

    def _key(self, path: Path) -> tuple[str, int, int]:
        status = path.stat()
        return path.relative_to(self.folder).as_posix(), status.st_size, status.st_mtime_ns

    def _note(self, path: Path, red: int) -> None:
        self.whole[self._key(path)] = red

    def _destroy(self, path: Path) -> None:
        if path.exists() and (red := self.whole.get(self._key(path))) is not None:
            self.destroyed.add(red)


class Trace:
    """Calls something before some of the lines of ``watching``, with a chance each."""

    def __init__(self, rng: random.Random, events: list[tuple[float, Callable[[], None]]]) -> None:
        self.rng = rng
        self.events = events
        self.lines = 0

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        del event
        return self._line if frame.f_code.co_filename.startswith(SOURCES) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        del frame
        if event == "line":
            self.lines += 1
            for chance, happens in self.events:
                if self.rng.random() < chance:
                    happens()
        return self._line


def die() -> None:
    sys.settrace(None)  # what is tidied up on the way out is not a step of the watch
    raise Killed


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Closes what a dead process would have lost: the locks, and what was not committed."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remembering(*words: Any, **more: Any) -> sqlite3.Connection:
        opened.append(connect(*words, **more))
        return opened[-1]

    def close() -> None:
        while opened:
            opened.pop().close()

    monkeypatch.setattr(sqlite3, "connect", remembering)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power fails here, and it is slow
    with warnings.catch_warnings():
        # Whoever dies closes no file, and Python says so when it finds it: here, in no later test.
        warnings.simplefilter("ignore", ResourceWarning)
        yield close
        gc.collect()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("move", [False, True], ids=["stay", "move"])
@pytest.mark.parametrize("kind", ["jsonl", "db"])
def test_every_image_is_recorded_exactly_once(kind, move, seed, tmp_path, let_go):
    rng = random.Random(f"{kind} {move} {seed}")
    line = Line(tmp_path, kind, move=move)
    world = World(line.folder, rng)
    trace = Trace(rng, [(0.002, world.act), (0.001, die)])
    line.at = dict.fromkeys(range(1, 60), world.act)
    deaths = 0
    while line.now < 60:
        try:
            with trace:
                line.run(60)
        except Killed:
            deaths += 1
            let_go()
            if kind == "jsonl" and line.results.exists() and rng.random() < 0.5:
                whole = line.results.read_bytes()
                torn = (whole.splitlines() or [b'{"path": "in/0.png", "score": 0.1}'])[-1]
                line.results.write_bytes(whole + torn[: rng.randrange(len(torn))])
    world.finish()
    line.now, line.at = 60, {}
    rows = line.run(100)

    assert trace.lines > 1000
    assert deaths > 0
    keys = [(row["file"], row["size"], row["mtime_ns"]) for row in rows]
    assert len(set(keys)) == len(keys), "an image was recorded twice"
    seen = {}
    for key, row in zip(keys, rows, strict=True):
        if row.get("error"):
            assert key not in world.whole, "a whole image was called unreadable"
        else:
            assert row["score"] == pytest.approx(world.whole[key] / 255), "of another image"
            seen[world.whole[key]] = row
    missed = set(world.whole.values()) - world.destroyed - set(seen)
    assert not missed
    if not move:
        return
    # Every image that the world left alone is where its result says, as it was.
    kept = set(world.whole.values()) - world.destroyed
    for red in kept:
        assert (line.moved / seen[red]["moved_to"]).read_bytes() == png(red)
    assert not [path for path in line.folder.rglob("[!.]*.png") if path.is_file()]
    assert line.said == []
    assert lines_of(line.results) == rows


def test_death_before_each_line_in_turn_loses_and_repeats_nothing(tmp_path, let_go):
    """In a run of one image, which is recorded and moved."""
    died = 0
    for number in range(10_000):
        root = tmp_path / str(number)
        root.mkdir()
        line = Line(root, move=True)
        (line.folder / "a.png").write_bytes(png(20))
        trace = Trace(random.Random(0), [])
        trace.events = [(1.0, lambda trace=trace, number=number: trace.lines > number and die())]
        try:
            with trace:
                line.run(4)
        except Killed:
            died += 1
            let_go()
        else:
            break
        line.now = 0
        (row,) = line.run(8)
        assert row["score"] == pytest.approx(20 / 255)
        assert (line.moved / "good/a.png").read_bytes() == png(20)
        assert not (line.folder / "a.png").exists()
    assert died > 150, "the trace saw too few lines"
