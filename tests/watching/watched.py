"""A folder that images are written to, a model of one line, and a clock that tests turn."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from destseg.config import Settings
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor
from destseg.watching.journal import open_journal
from destseg.watching.moving import Mover
from destseg.watching.watch import Timing, Watch

TIMING = Timing(interval=1, settle=2, give_up=20)


def brightness(images: np.ndarray) -> np.ndarray:
    return images[..., 0].astype(np.float32) / 255


def make_predictor(backend: Callable[[np.ndarray], np.ndarray] = brightness) -> Predictor:
    """The map is the red channel, the threshold 0.3."""
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25)
    scores = [0.1, 0.2, 0.3]
    calibration = Calibration.fit(scores, scores, ["a", "b", "c"], settings, "abc")
    return Predictor(Bundle(Path("nowhere"), settings, "abc", calibration, {}), backend)


def png(red: int) -> bytes:
    """The bytes of an image whose score is red / 255."""
    image = np.full((8, 8, 3), 50, np.uint8)
    image[..., 0] = red
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def drop(path: Path, red: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(red))
    return path


def lines_of(results: Path) -> list[dict[str, Any]]:
    """The results of either kind, in order, read without the code under test."""
    if not results.exists():
        return []
    if results.suffix == ".jsonl":
        return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    database = sqlite3.connect(results)
    try:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM results ORDER BY id")]
    finally:
        database.close()
    return [row | {"regions": json.loads(row["regions"] or "[]")} for row in rows]


class Line:
    """A watch on ``folder`` whose time passes only when it pauses.

    ``at`` says what happens at which second; the watch ends after ``end`` seconds.
    """

    def __init__(self, root: Path, kind: str = "jsonl", *, move: bool = False) -> None:
        self.folder = root / "in"
        self.folder.mkdir(exist_ok=True)
        self.results = root / f"results.{kind}"
        self.moved = root / "out" if move else None
        self.now = 0.0
        self.at: dict[int, Callable[[], object]] = {}
        self.said: list[str] = []
        self.answers: list[Any] = []
        self.times: dict[str, float] = {}

    def run(
        self, end: float = 10, *, once: bool = False, backend: Any = brightness, **timing: float
    ) -> list[dict[str, Any]]:
        """Watch until a time and return all results that are then on disk."""
        journal = open_journal(self.results)
        mover = None
        try:
            mover = Mover(self.folder, self.moved) if self.moved else None
            watch = Watch(
                self.folder,
                make_predictor(backend),
                journal,
                mover=mover,
                timing=Timing(**{**vars(TIMING), **timing}),
                say=self.said.append,
                pause=lambda seconds: self._pass(seconds, end),
                clock=lambda: self.now,
            )
            for answer in watch.run(once=once):
                self.answers.append(answer)
                self.times[Path(answer.path).name] = self.now
        finally:
            if mover:
                mover.close()
            journal.close()
        return lines_of(self.results)

    def _pass(self, seconds: float, end: float) -> bool:
        before, self.now = self.now, self.now + seconds
        for moment in sorted(self.at):
            if before < moment <= self.now:
                self.at[moment]()
        return self.now >= end
