"""Whether everything that can run a model says the same of the same images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.errors import DataError, DestsegError, ImageError
from destseg.inference.backends import installed
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import TOLERANCE
from destseg.inference.exports import find_exports
from destseg.inference.predictor import ImageLike, Predictor, load
from destseg.inference.result import Failure, Result


@dataclass(frozen=True)
class Comparison:
    """One backend against the reference, over all images.

    Attributes:
        backend: its name.
        map_difference: largest absolute difference of a map value, 0 to 1.
        score_difference: largest absolute difference of an image score, 0 to 1.
        decisions: names of the images that the two call differently, with a score further than
            ``TOLERANCE`` from its threshold.
        borderline: names of those that they call differently within it, which is rounding.
        nearest: smallest distance of a score to its threshold, for how much that says.
        seconds: median time an image, reading included.
    """

    backend: str
    map_difference: float
    score_difference: float
    decisions: tuple[str, ...]
    borderline: tuple[str, ...]
    nearest: float
    seconds: float

    def agrees(self, tolerance: float = TOLERANCE) -> bool:
        """Whether it says the same as the reference, up to rounding.

        INT8 has scores and a threshold of its own, so it is not judged: always true.

        Args:
            tolerance: largest difference of map values that is rounding.
        """
        # NaN is no number that a tolerance admits.
        close = self.map_difference <= tolerance and not self.decisions
        return close or self.backend.endswith("-int8")


@dataclass(frozen=True)
class Parity:
    """All that can run a model on this machine, asked about the same images.

    Attributes:
        comparisons: one a backend that runs, the reference first; none if nothing runs.
        failed: why what is installed cannot run the model, by backend.
        images: how many they were compared on.
        unreadable: why the others could not be read.
    """

    comparisons: tuple[Comparison, ...]
    failed: Mapping[str, DestsegError]
    images: int = 0
    unreadable: tuple[ImageError, ...] = ()

    def agrees(self, tolerance: float = TOLERANCE) -> bool:
        """Whether all of them run and say the same, up to rounding; see ``Comparison.agrees``."""
        return not self.failed and all(each.agrees(tolerance) for each in self.comparisons)


def compare_all(bundle: Bundle, images: Sequence[ImageLike], threads: int | None = None) -> Parity:
    """Open every backend that is installed and that a bundle has, and compare them.

    Args:
        bundle: the trained model.
        images: as for ``compare_backends``.
        threads: CPU threads of each; ``None`` leaves the number to them.

    Raises:
        DataError: if no image can be read.
    """
    predictors: dict[str, Predictor] = {}
    failed: dict[str, DestsegError] = {}
    for name in filter(installed, ("torch", *find_exports(bundle))):
        try:
            predictors[name] = load(
                bundle.folder, backend=name, device="cpu", threads=threads, batch_size=1
            )
        except DestsegError as error:
            failed[name] = error
    if not predictors:
        return Parity((), failed)
    comparisons, unreadable = compare_backends(predictors, images)
    return Parity(tuple(comparisons), failed, len(images) - len(unreadable), tuple(unreadable))


def compare_backends(
    predictors: Mapping[str, Predictor], images: Sequence[ImageLike]
) -> tuple[list[Comparison], list[ImageError]]:
    """Return how far each backend is from the first one, which is compared with itself.

    Images go through all backends one after the other, so that memory stays bounded and the
    times are of the same minute.

    Args:
        predictors: by backend, the reference first; all of the same bundle.
        images: as for ``Predictor.predict``, at least one.

    Returns:
        One a backend, of all images that can be read; and why the others cannot.

    Raises:
        DataError: if no image can be read.
    """
    unreadable = []
    rows: dict[str, list[_Row]] = {name: [] for name in predictors}
    for image in images:
        results = {}
        for name, predictor in predictors.items():
            begun = time.perf_counter()
            result = next(predictor.stream([image]))
            if isinstance(result, Failure):
                unreadable.append(result.error)
                break
            results[name] = (result, time.perf_counter() - begun)
        for name, (result, seconds) in results.items():
            reference, _ = next(iter(results.values()))
            rows[name].append(_row(result, reference, seconds))
    if not any(rows.values()):
        raise DataError("expected images to compare backends on, got none that can be read")
    comparisons = [
        Comparison(
            backend=name,
            # NaN where one is, which max may pass over.
            map_difference=float(np.max([row.map_difference for row in mine])),
            score_difference=float(np.max([row.score_difference for row in mine])),
            decisions=tuple(row.image for row in mine if row.differs and not row.borderline),
            borderline=tuple(row.image for row in mine if row.differs and row.borderline),
            nearest=min(row.distance for row in mine),
            seconds=float(np.median([row.seconds for row in mine])),
        )
        for name, mine in rows.items()
    ]
    return comparisons, unreadable


def example_images(count: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield seeded images, uint8 [*size, 3]: soft colours, grain and a stroke."""
    random = np.random.default_rng(0)
    for _ in range(count):
        coarse = random.integers(0, 256, (8, 8, 3)).astype(np.float32)
        soft = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        # Of some pixels: what is finer is a camera's noise, which inspection filters out.
        grain = random.integers(-64, 65, (*size, 3)).astype(np.float32)
        image = (soft + cv2.GaussianBlur(grain, (0, 0), 1.5)).clip(0, 255).astype(np.uint8)
        ends = random.integers(0, size[::-1], (2, 2))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        cv2.line(image, tuple(map(int, ends[0])), tuple(map(int, ends[1])), colour, 3)
        yield image


@dataclass(frozen=True)
class _Row:
    image: str
    map_difference: float
    score_difference: float
    differs: bool
    borderline: bool
    distance: float
    seconds: float


def _row(result: Result, reference: Result, seconds: float) -> _Row:
    return _Row(
        image=result.path,
        map_difference=float(np.abs(result.anomaly_map - reference.anomaly_map).max()),
        score_difference=abs(result.score - reference.score),
        differs=result.is_defective != reference.is_defective,
        borderline=result.is_borderline and reference.is_borderline,
        distance=abs(result.score - result.threshold),
        seconds=seconds,
    )
