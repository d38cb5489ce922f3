"""A drift check from what a user has at hand: images, recorded results, the state of before."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from destseg.data.files import write_atomically
from destseg.data.outputs import require_files
from destseg.data.sources import source_images
from destseg.errors import DataError, NotWrittenError, SettingsError
from destseg.inference.bundle import Bundle, own_files
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Measurement, Predictor
from destseg.monitoring.drift import Drift, DriftStep, no_state, parse_state, save_state
from destseg.monitoring.martingale import alarm_level
from destseg.monitoring.recorded import ImageScore, is_results, read_results
from destseg.validation import ANY, problem


@dataclass(frozen=True)
class DriftCheck:
    """What a drift check found.

    Thread safety: nothing changes a value, so any number of threads may use one.

    Attributes:
        before: the state that the check began with.
        after: the state after all images, to go on from.
        answers: the score of each image, or why there is none, in the order given.
        steps: what each image with a score did, in the same order.
        flagged: how many of the images are above the threshold.
        beyond: how many are above ``Calibration.good_limit``, which lies lower where the threshold
            leaves room for other days: there another day shows first.
        guaranteed_false_alarm_rate: fraction of good parts that are expected to be, at most.
        alarm_rate: highest probability of ever giving an alarm without a change.
        chance_of_flagged: how likely it is that so many good images, or more, are beyond; ``None``
            where they are guaranteed by groups.
        guaranteed_for: which images the guaranteed rate is about, as ``Calibration`` says it.
    """

    before: Drift
    after: Drift
    answers: tuple[ImageScore, ...]
    steps: tuple[DriftStep, ...]
    flagged: int
    guaranteed_false_alarm_rate: float
    alarm_rate: float
    chance_of_flagged: float | None = None
    guaranteed_for: str = ""
    beyond: int = 0

    @property
    def is_alarm(self) -> bool:
        """Whether the martingale has reached 1 / ``alarm_rate``, in this check or before."""
        return self.after.is_alarm(self.alarm_rate)

    @property
    def alarm_at(self) -> int | None:
        """After which image the alarm came, counted from 1 over all checks of the line.

        ``None`` if there is no alarm, or there was one before this check.
        """
        if not self.is_alarm or self.before.is_alarm(self.alarm_rate):
            return None
        level = alarm_level(self.alarm_rate)
        inside = next(i for i, step in enumerate(self.steps) if step.log10_martingale >= level)
        return self.before.images + inside + 1

    @property
    def compared(self) -> int:
        """How many images of this check were compared; none says nothing about drift."""
        return sum(step.p_value is not None for step in self.steps)

    @property
    def scored(self) -> tuple[ImageScore, ...]:
        """The images with a score: one for each of ``steps``."""
        return tuple(one for one in self.answers if one.score is not None)

    @property
    def failures(self) -> tuple[ImageScore, ...]:
        """The images that could not be read, with their errors."""
        return tuple(one for one in self.answers if one.score is None)

    def to_jsonl(self) -> str:
        """Return a JSON line an image: path, score, p_value and martingale_log10, or error."""
        return "".join(json.dumps(line) + "\n" for line in self._lines())

    def _lines(self) -> Iterator[dict[str, object]]:
        remaining = iter(self.steps)
        for one in self.answers:
            if one.score is None:
                yield {"path": one.path, "error": one.error}
                continue
            step = next(remaining)
            yield {
                "path": one.path,
                "score": one.score,
                "p_value": step.p_value,
                "martingale_log10": step.log10_martingale,
            }


def check_drift(
    folder: Path,
    open_bundle: Callable[[], Bundle],
    open_predictor: Callable[[], Predictor],
    sources: Sequence[Path],
    *,
    state: Path | None = None,
    output: Path | None = None,
    alarm_rate: float = 0.01,
    seed: int | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> DriftCheck:
    """Check images and recorded results for drift, and write what was found where asked to.

    Args:
        folder: of the model.
        open_bundle: gives it with the calibration that holds, where all sources are results.
        open_predictor: gives what inspects the images, where there are some.
        sources: files, folders or lists of images, or results, in the order of time.
        state: file to go on from, if it is there, and to write anew.
        output: file for a JSON line an image.
        alarm_rate: highest probability of ever giving an alarm without a change, in (0, 1).
        seed: of the random numbers that order equal scores; ``None``: the state's, else 0.
        on_progress: called with the images that are inspected and how many there are.

    Raises:
        SettingsError: if the rate, the seed or an output makes no sense.
        DataError: if sources or the state cannot be used.
        NotWrittenError: if the check is done and a file could not be written; the state is the
            last one, so that the same images can be given again.
    """
    alarm_level(alarm_rate)  # refuses a wrong rate before the work
    if wrong := problem(seed, int | None, ANY):
        raise SettingsError(f"--seed: {wrong}")
    found = {
        # Of results the files: a batch leaves a folder.
        source: list(source.glob("*")) if is_results(source) else source_images(source)
        for source in sources
    }
    outputs = [path for path in (output, state) if path]
    require_files(outputs, [*found, *itertools.chain(*found.values()), *own_files(folder)])
    predictor = None if all(map(is_results, sources)) else open_predictor()
    bundle = open_bundle() if predictor is None else predictor.bundle
    assert bundle.calibration is not None, "load_bundle always gives one"
    content = _content(state)
    before = _before(state, content, seed, bundle.calibration)
    items: list[Path | ImageScore] = []
    for source in sources:
        items += read_results(source, bundle) if is_results(source) else found[source]
    answers = tuple(_answers(items, predictor, on_progress))
    scores = [one.score for one in answers if one.score is not None]
    after, steps = before.extend(scores)
    beyond = sum(score > bundle.calibration.good_limit for score in scores)
    check = DriftCheck(
        before=before,
        after=after,
        answers=answers,
        steps=tuple(steps),
        flagged=sum(map(bundle.calibration.is_defective, scores)),
        beyond=beyond,
        guaranteed_false_alarm_rate=bundle.calibration.guaranteed_false_alarm_rate,
        alarm_rate=alarm_rate,
        chance_of_flagged=bundle.calibration.chance_of_flagged(beyond, len(scores)),
        guaranteed_for=bundle.calibration.guaranteed_for,
    )
    writes: list[tuple[Path | None, Callable[[Path], object]]] = [
        (output, lambda path: write_atomically(path, check.to_jsonl())),
        (state, lambda path: _save_after(path, content, after)),
    ]
    for path, write in writes:
        if path is None:
            continue
        try:
            write(path)
        except DataError as error:
            raise NotWrittenError(check, {path: error}) from error
    return check


def _before(
    state: Path | None, content: bytes | None, seed: int | None, calibration: Calibration
) -> Drift:
    """Return the state in a file, which has been read, or a new one."""
    if state is None or content is None:
        return Drift.start(calibration, seed or 0)
    before = parse_state(content, state, calibration)
    if seed not in (None, before.seed):
        raise SettingsError(
            f"--seed: expected {before.seed}, with which {state} was begun, got {seed}; leave the "
            "seed away, or name another file for the state"
        )
    return before


def _content(state: Path | None) -> bytes | None:
    """Return what lies in a file for the state; ``None`` if there is no file."""
    if state is None or not state.is_file():
        return None
    try:
        return state.read_bytes()
    except OSError as error:
        raise no_state(state, error) from error


def _save_after(state: Path, content: bytes | None, after: Drift) -> None:
    """Save a state in the place of the one that it went on from, and of no other."""
    if _content(state) != content:
        raise DataError(
            f"{state}: expected the state that was there at the beginning, got another: something "
            "else has gone on from it meanwhile. It stays; give the same images again."
        )
    save_state(state, after)


def _answers(
    items: Sequence[Path | ImageScore],
    predictor: Predictor | None,
    on_progress: Callable[[int, int], object],
) -> Iterator[ImageScore]:
    paths = [item for item in items if isinstance(item, Path)]
    measured = iter(()) if predictor is None else predictor.measure(paths)
    done = 0
    for item in items:
        if isinstance(item, ImageScore):
            yield item
            continue
        one = next(measured)
        done += 1
        on_progress(done, len(paths))
        if isinstance(one, Measurement):
            yield ImageScore(one.path, one.score)
        else:
            yield ImageScore(one.path, None, one.error.reason)
