"""Trials: good images, each with a drawn defect or another change, through the predictor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.data.images import read_with
from destseg.inference.measuring import all_measured
from destseg.inference.predictor import Predictor
from destseg.inference.reading import without_notes
from destseg.inference.result import Failure
from destseg.qualification.drawing import draw_defect, place

Image = NDArray[np.uint8]
Change = Callable[[Image, np.random.Generator], Image]
"""Gives an image, uint8 RGB [h, w, 3], of the same size that is changed but not defective."""

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) as fractions of the height and the width."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Defect:
    """A defect to draw.

    Attributes:
        family: a name of ``drawing.FAMILIES``.
        size: largest extent in pixels of the image.
        contrast: in grey levels.
        box: where its centre is to be.
    """

    family: str
    size: float
    contrast: float
    box: Box = WHOLE


@dataclass(frozen=True)
class Trial:
    """One inspection of a changed good image.

    Attributes:
        image: number of the good image.
        seed: of all that is random in it.
        defect: what is drawn; ``None`` for a part that stays good.
        change: of the whole image, afterwards; ``None`` leaves it.
    """

    image: int
    seed: tuple[int, ...]
    defect: Defect | None = None
    change: Change | None = None


@dataclass(frozen=True)
class Good:
    """Good images that are drawn on, and what they scored as they are.

    Attributes:
        paths: of the images.
        sizes: (height, width) of each.
        scores: of each.
        false_alarms: of all that could be read, how many are called defective; these are not
            among the images: a defect on them would be found whatever it is.
        unreadable: what could not be read, with the reason.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    scores: tuple[float, ...]
    false_alarms: tuple[tuple[str, float], ...]
    unreadable: tuple[Failure, ...]

    @property
    def read(self) -> int:
        """How many images could be read."""
        return len(self.paths) + len(self.false_alarms)


def measure_good(predictor: Predictor, paths: Sequence[Path]) -> Good:
    """Return what good images score as they are."""
    kept, sizes, scores, alarms, unreadable = [], [], [], [], []
    for path, measured in zip(paths, predictor.measure(paths), strict=True):
        if isinstance(measured, Failure):
            unreadable.append(measured)
        elif predictor.calibration.is_defective(measured.score):
            alarms.append((str(path), measured.score))
        else:
            kept.append(path)
            sizes.append((measured.height, measured.width))
            scores.append(measured.score)
    return Good(tuple(kept), tuple(sizes), tuple(scores), tuple(alarms), tuple(unreadable))


def run_trials(
    predictor: Predictor,
    good: Good,
    trials: Sequence[Trial],
    on_done: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Return the score of each trial, float64 [n]; NaN where there was no place for its defect.

    Each image is read once, and only the images that wait for the networks are in memory.

    Raises:
        ImageError: if an image can no longer be read.
    """
    scores = np.full(len(trials), math.nan)
    order = sorted(range(len(trials)), key=lambda number: trials[number].image)
    drawn: list[int] = []

    def images() -> Iterator[Image]:
        for image, group in itertools.groupby(order, lambda number: trials[number].image):
            pixels = read_with(good.paths[image], predictor.bundle.settings.data)
            roi = predictor.bundle.roi()
            inspected = None if roi is None else roi.at((pixels.shape[0], pixels.shape[1]))
            for number in group:
                made = _made(trials[number], pixels, inspected)
                if made is None:
                    on_done()
                    continue
                drawn.append(number)
                yield made

    with without_notes():
        for position, measured in enumerate(all_measured(predictor, images())):
            scores[drawn[position]] = measured.score
            on_done()
    return scores


def is_hit(predictor: Predictor, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which scores are above the threshold, in the same shape; NaN is not."""
    calibration = predictor.calibration
    called = [not math.isnan(each) and calibration.is_defective(each) for each in scores.flat]
    return np.array(called, dtype=bool).reshape(scores.shape)


def _made(trial: Trial, pixels: Image, inspected: NDArray[np.bool_] | None) -> Image | None:
    random = np.random.default_rng(trial.seed)
    if trial.defect is not None:
        defect = trial.defect
        size = (pixels.shape[0], pixels.shape[1])
        centre = place(defect.size, size, inspected, random, defect.box)
        if centre is None:
            return None
        pixels = draw_defect(pixels, defect.family, defect.size, defect.contrast, centre, random)
    # The change has random numbers of its own, so that a defect is the same with and without it.
    own = np.random.default_rng((*trial.seed, 1))
    return pixels if trial.change is None else trial.change(pixels, own)
