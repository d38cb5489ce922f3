"""A predictor against labelled images: metrics, decisions at the threshold, timing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.config import DataSettings
from destseg.data.defects import large_masks_note, marks_most
from destseg.data.images import resize
from destseg.data.labelled import unreadable
from destseg.data.lists import some
from destseg.data.masks import read_mask
from destseg.data.samples import GOOD, Sample
from destseg.errors import DataError, ImageError
from destseg.evaluation.metrics import Curve, ImageMetrics, image_curves, image_metrics
from destseg.evaluation.outcomes import Coverage, ImageRecord
from destseg.evaluation.pixels import PixelCounts, PixelMetrics
from destseg.evaluation.seen import Seen, require_some, without_learned
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure, Result
from destseg.rate import Rate

OnImage = Callable[[Sample, Result | Failure, NDArray[np.bool_] | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DefectTypeEvaluation:
    """One defect type against all good images; for ``good`` only the decisions count.

    Attributes:
        defect_type: its name.
        flagged: how many of its images were called defective.
        image, pixel: metrics of its images together with the good ones.
        coverage: how many of its own images these are of.
    """

    defect_type: str
    flagged: Rate
    image: ImageMetrics
    pixel: PixelMetrics
    coverage: Coverage


@dataclass(frozen=True)
class Evaluation:
    """How well images and pixels are told apart, and what the threshold makes of it.

    Attributes:
        image: metrics of the image scores, of all images that could be read.
        pixel: metrics of the maps at their own size, of all of these that are good or have a mask.
        defect_types: the same for each defect type.
        false_alarms: good images called defective.
        misses: defective images called good.
        threshold, guaranteed_false_alarm_rate, guaranteed_for: from the calibration.
        seconds: of the whole inspection, reading included.
        records: one an image, in the order given.
        curves: points of ``image_roc``, ``image_pr``, ``pixel_roc``, ``pixel_pr`` and
            ``pixel_pro``; empty where a class is absent.
        learned: paths of images that the model learned from: they are left out of all this.
        calibrated: paths of images that set the threshold; they are counted.
        notes: what a reader should know first: which images these are, and masks of which nothing
            is left at the maps' size or that mark most of what is inspected.
    """

    image: ImageMetrics
    pixel: PixelMetrics
    defect_types: tuple[DefectTypeEvaluation, ...]
    false_alarms: Rate
    misses: Rate
    threshold: float
    guaranteed_false_alarm_rate: float
    seconds: float
    records: tuple[ImageRecord, ...]
    curves: Mapping[str, Curve]
    guaranteed_for: str = ""
    learned: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def coverage(self) -> Coverage:
        """How many images the metrics are of."""
        return Coverage.of(self.records)

    @property
    def failures(self) -> tuple[ImageRecord, ...]:
        """The images that could not be read, or whose mask could not, with their errors."""
        return tuple(record for record in self.records if record.error is not None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not defined is ``None``, with its reason."""
        coverage = self.coverage
        values = {
            "images": coverage.given,
            "coverage": vars(coverage),
            "image": metrics_to_json(self.image),
            "pixel": metrics_to_json(self.pixel),
            "false_alarms": self.false_alarms.to_json(),
            "misses": self.misses.to_json(),
            "threshold": self.threshold,
            "guaranteed_false_alarm_rate": self.guaranteed_false_alarm_rate,
            "guaranteed_for": self.guaranteed_for,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(coverage.images / self.seconds, 2),
            "defect_types": {
                each.defect_type: {
                    "flagged": each.flagged.to_json(),
                    "image": metrics_to_json(each.image),
                    "pixel": metrics_to_json(each.pixel),
                    "coverage": vars(each.coverage),
                }
                for each in self.defect_types
            },
            "failures": [{"path": record.path, "error": record.error} for record in self.failures],
            "learned": list(self.learned),
            "calibrated": list(self.calibrated),
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = _without_nan(values)
        return plain


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    exact: bool = True,
    on_image: OnImage | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
    seen: Seen | None = None,
) -> Evaluation:
    """Return how well a predictor does on images whose defects are known.

    Maps and masks are compared at the maps' size: the model's, as the paper does at 256 x 256, or
    with tiles the image's.  Where there is a region of interest only its pixels count.  Image
    metrics need no masks: a defective image without one is left out of the pixel metrics alone.
    What cannot be read costs its row: see ``Evaluation.failures``.  Files that the listing already
    shows to be unreadable are logged as a warning, all at once, before the first image.

    What the model learned from, whatever it is called, is left out, and that is logged; so is which
    images set its threshold.  Both are known by content: ``Evaluation.learned``, ``calibrated``.

    Args:
        predictor: the trained model.
        samples: test images with their defect type and, where there is one, their mask.
        exact: hold all maps for exact metrics; else bounded memory, metrics within 1e-4.
        on_image: called with each sample, its result and its mask at the map's size, ``None``
            where the mask is missing or unreadable; of an unreadable image with its failure.
        on_progress: called after each image with how many are done and how many there are.
        seen: which of them the model knows, where the caller has looked already and left out those
            that it learned from; ``None`` looks.

    Raises:
        DataError: if there are no samples, a label is unknown, or the model learned from them all.
    """
    _check_labels(samples)
    _tell_unreadable(samples)
    begun = time.perf_counter()
    if seen is None:
        samples, seen = without_learned(predictor, samples)
        require_some(samples, seen)
        for note in seen.notes:
            _log.warning("%s", note)
    counts = {name: PixelCounts.empty(exact=exact) for name in defect_types_of(samples)}
    records = []
    vanished: list[str] = []
    large: list[str] = []
    answers = predictor.stream(sample.path for sample in samples)
    for sample, answer in zip(samples, answers, strict=True):
        mask, error = _mask_for(predictor, sample, answer)
        if isinstance(answer, Result) and mask is not None:
            inspected = predictor.inspected((mask.shape[0], mask.shape[1]))
            counts[str(sample.defect_type)].add(answer.anomaly_map, mask, inspected)
            if sample.is_defective and not mask.any():
                vanished.append(str(sample.path))
            if marks_most(mask, inspected):
                large.append(str(sample.mask))
        records.append(ImageRecord.of(str(sample.defect_type), answer, mask is not None, error))
        if on_image is not None:
            on_image(sample, answer, mask)
        on_progress(len(records), len(samples))
    seconds = time.perf_counter() - begun
    found = []
    if vanished:
        found.append(_vanished_note(vanished, samples, bool(predictor.bundle.roi_sha256)))
    if large:
        masks = sum(each.in_pixel_metrics and each.defect_type != GOOD for each in records)
        found.append(large_masks_note(large, masks))
    for note in found:
        _log.warning("%s", note)
    notes = (*seen.notes, *found)
    together = PixelCounts.merged(counts.values())
    of_images = image_curves(*_labels_and_scores(records))
    of_pixels = together.curves()
    return Evaluation(
        image=image_metrics(*_labels_and_scores(records)),
        pixel=together.metrics(),
        defect_types=tuple(_of_type(name, records, counts) for name in counts),
        false_alarms=_called([record for record in records if record.defect_type == GOOD], True),
        misses=_called([record for record in records if record.defect_type != GOOD], False),
        threshold=predictor.calibration.threshold,
        guaranteed_false_alarm_rate=predictor.calibration.guaranteed_false_alarm_rate,
        guaranteed_for=predictor.calibration.guaranteed_for,
        seconds=seconds,
        records=tuple(records),
        curves={f"image_{name}": curve for name, curve in of_images.items()}
        | {f"pixel_{name}": curve for name, curve in of_pixels.items()},
        learned=seen.learned,
        calibrated=seen.calibrated,
        notes=notes,
    )


def _tell_unreadable(samples: Sequence[Sample]) -> None:
    errors = [str(error) for error in unreadable(samples)]
    if errors:
        _log.warning(
            "%d of the files to be read cannot be: %s; the others are measured.",
            len(errors),
            some(errors),
        )


def _vanished_note(vanished: Sequence[str], samples: Sequence[Sample], inside: bool) -> str:
    masks = sum(sample.mask is not None for sample in samples if sample.is_defective)
    return (
        f"{len(vanished)} of {masks} masks mark nothing at the size of the maps"
        + (" in the region of interest" if inside else "")
        + ", so in the pixel metrics their defects count as good surface: "
        f"{some(vanished)}. A larger --image-size, or --tile, keeps smaller defects."
    )


def _mask_for(
    predictor: Predictor, sample: Sample, answer: Result | Failure
) -> tuple[NDArray[np.bool_] | None, str | None]:
    """Return a sample's mask as its map is asked for, or why the image or the mask is unusable."""
    if isinstance(answer, Failure):
        return None, answer.error.reason
    if sample.is_defective and sample.mask is None:
        return None, None
    size = (answer.anomaly_map.shape[0], answer.anomaly_map.shape[1])
    try:
        mask = mask_of(sample, size, (answer.height, answer.width))
    except DataError as error:
        return None, str(error)
    inspected = predictor.inspected(size)
    # What lies outside the region of interest is not asked for.
    return mask if inspected is None else mask & inspected, None


def mask_of(
    sample: Sample, size: tuple[int, int], image_size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Return where a sample is defective, bool [h, w] of a size; bilinear, then half or more.

    What the file marks is a defect, as ``read_mask`` reads it in every format and depth.

    Args:
        sample: good, without a mask or with one that marks nothing, or defective with a mask.
        size: (height, width) wanted, the map's.
        image_size: the image's, to refuse a mask of other proportions; ``None`` does not.

    Raises:
        DataError: if the sample is defective and has no mask, or one of other proportions, or it
            is good and something is marked.
        ImageError: if the mask cannot be read, or marks nothing.
    """
    if sample.mask is None and not sample.is_defective:
        return np.zeros(size, dtype=bool)
    if sample.mask is None:
        raise DataError(
            f"{sample.path}: expected a mask of the defect under "
            f"ground_truth/{sample.defect_type}/, got none. Add it, or leave the image out."
        )
    allowed = max(size[0] * size[1], math.prod(image_size or (0,)), DataSettings.max_pixels)
    mask = read_mask(sample.mask, max_pixels=allowed)
    if not sample.is_defective:
        if mask.any():
            raise DataError(
                f"{sample.mask}: expected a mask that marks nothing, as {sample.path} is labelled "
                "good, got one that marks something. Correct the label or the mask."
            )
        return np.zeros(size, dtype=bool)
    if not mask.any():
        raise ImageError(
            sample.mask,
            f"expected a mask that marks the defect of {sample.path}, got 0 everywhere. Draw it "
            "anew; without the file the image still counts in the image metrics.",
        )
    height, width = mask.shape
    rows, columns = image_size or mask.shape
    # A mask at another scale is one; one pixel of rounding a side is not another shape.
    if abs(height * columns - width * rows) > max(rows, columns):
        raise DataError(
            f"{sample.mask}: expected a mask with the proportions of its image, "
            f"{columns} x {rows}, got {width} x {height}. Is it another image's?"
        )
    return resize(mask.astype(np.uint8) * np.uint8(255), size) >= 128


def defect_types_of(samples: Sequence[Sample]) -> list[str]:
    """Return the defect types of samples, good first, the others in their order."""
    names = dict.fromkeys(str(sample.defect_type) for sample in samples)
    return sorted(names, key=lambda name: name != GOOD)


def metrics_to_json(metrics: ImageMetrics | PixelMetrics) -> dict[str, Any]:
    """Return the values of metrics by name, with the reasons of those that are not defined."""
    values = {name: value for name, value in vars(metrics).items() if name != "reasons"}
    return {**values, "reasons": dict(metrics.reasons)} if metrics.reasons else values


def _check_labels(samples: Sequence[Sample]) -> None:
    unknown = [sample for sample in samples if sample.is_defective is None]
    if unknown or not samples:
        raise DataError(
            "expected images known to be good or defective, got "
            + (f"{unknown[0].path} without a label" if unknown else "no images")
        )


def _labels_and_scores(
    records: Sequence[ImageRecord],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    scored = [record for record in records if record.score is not None]
    return (
        np.array([record.defect_type != GOOD for record in scored], dtype=bool),
        np.array([record.score for record in scored], dtype=np.float64),
    )


def _of_type(
    defect_type: str, records: Sequence[ImageRecord], counts: Mapping[str, PixelCounts]
) -> DefectTypeEvaluation:
    chosen = [record for record in records if record.defect_type in (defect_type, GOOD)]
    own = [record for record in records if record.defect_type == defect_type]
    pixels = PixelCounts.merged(
        [counts[name] for name in dict.fromkeys((GOOD, defect_type)) if name in counts]
    )
    return DefectTypeEvaluation(
        defect_type,
        _called(own, True),
        image_metrics(*_labels_and_scores(chosen)),
        pixels.metrics(),
        Coverage.of(own),
    )


def _called(records: Sequence[ImageRecord], defective: bool) -> Rate:
    decisions = [record.is_defective for record in records if record.is_defective is not None]
    return Rate(decisions.count(defective), len(decisions))


def _without_nan(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
