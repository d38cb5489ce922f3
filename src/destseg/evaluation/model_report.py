"""A report of a model on labelled images: inspected once, for the metrics and the gallery."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from destseg.data.images import read_image
from destseg.data.lists import some
from destseg.data.samples import Sample
from destseg.errors import ImageError
from destseg.evaluation.evaluate import Evaluation, evaluate
from destseg.evaluation.outcomes import ImageRecord
from destseg.evaluation.report import Entry, Report, make_entry, training_curves
from destseg.inference.bundle import Bundle, load_bundle
from destseg.inference.calibration import Calibration
from destseg.inference.known_defects import load_known_defects
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure, Result


def report_on(
    data: Path,
    predictor: Predictor,
    samples: Sequence[Sample],
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> tuple[Evaluation, Report]:
    """Return how well a predictor does on labelled images, and the report that shows it.

    Args:
        data: the data set, for its name.
        predictor: the trained model.
        samples: test images with their defect type and, where there is one, their mask.
        on_progress: called after each image with how many are done and how many there are.

    Raises:
        DataError: as ``evaluate`` does.
    """
    bit_depth = predictor.bundle.settings.data.bit_depth
    entries: list[Entry] = []

    def keep(sample: Sample, answer: Result | Failure, mask: NDArray[np.bool_] | None) -> None:
        # Of an image that went away since it was measured there is no copy to show.
        with contextlib.suppress(ImageError):
            if isinstance(answer, Result):
                pixels = answer.height * answer.width
                image = read_image(sample.path, max_pixels=pixels, bit_depth=bit_depth)
                drawn = mask if mask is not None and mask.any() else None
                entries.append(make_entry(sample, answer, image, drawn))

    evaluation = evaluate(predictor, samples, on_image=keep, on_progress=on_progress)
    return evaluation, build_report(data, predictor, evaluation, entries)


def build_report(
    data: Path, predictor: Predictor, evaluation: Evaluation, entries: list[Entry]
) -> Report:
    """Return the report's content from an evaluation and the gallery's entries."""
    bundle, calibration = predictor.bundle, predictor.calibration
    training = bundle.training
    image = {f"image {_TITLES[k]}": getattr(evaluation.image, k) for k in ("auroc", "ap", "f1_max")}
    pixel_names = ("auroc", "ap", "f1_max", "aupro", "iap", "iap_90")
    pixel = {f"pixel {_TITLES[k]}": getattr(evaluation.pixel, k) for k in pixel_names}
    reasons = {
        f"image {_TITLES[k]}": v for k, v in evaluation.image.reasons.items() if k in _TITLES
    }
    reasons |= {
        f"pixel {_TITLES[k]}": v for k, v in evaluation.pixel.reasons.items() if k in _TITLES
    }
    return Report(
        title=f"{data.resolve().name}: {bundle.folder.resolve().name}",
        facts={
            "data set": data.resolve().name,
            "model": bundle.folder.resolve().name,
            "preset": bundle.settings.preset,
            "teacher": str(training.get("teacher", "")),
            "trained on": f"{training.get('images')} good images in "
            f"{training.get('minutes')} minutes ({training.get('device')})",
            "weights (SHA-256)": bundle.weights_sha256[:16],
            "threshold": calibration.set_by(),
            "measured": str(evaluation.coverage),
            **({"note": " ".join(evaluation.notes)} if evaluation.notes else {}),
            **_known(bundle, calibration),
            **_left_out(evaluation.failures),
        },
        metrics=_defined({**image, **pixel}),
        reasons=reasons,
        defect_types=[
            {
                "defect type": each.defect_type,
                "images": each.flagged.total,
                "flagged": each.flagged.count,
                "with mask": each.coverage.with_mask,
                **_defined(
                    {
                        "image AUROC": each.image.auroc,
                        "pixel AUROC": each.pixel.auroc,
                        "pixel AP": each.pixel.ap,
                        "AUPRO": each.pixel.aupro,
                        "IAP": each.pixel.iap,
                    }
                ),
            }
            for each in evaluation.defect_types
        ],
        curves={
            f"{level} {name.upper()}": curve
            for (level, name), curve in (
                (key.split("_"), curve) for key, curve in evaluation.curves.items()
            )
        },
        threshold=calibration.threshold,
        guaranteed_false_alarm_rate=calibration.guaranteed_false_alarm_rate,
        calibration_scores=calibration.scores,
        training=training_curves(bundle.folder),
        settings=bundle.settings.to_dict(),
        entries=entries,
        calibration_groups=len(calibration.by_group()) or None,
    )


def _known(bundle: Bundle, calibration: Calibration) -> dict[str, str]:
    """Return the ancestor, and how many known defects would be missed, where there are any."""
    facts = {}
    if ancestor := bundle.training.get("ancestor"):
        named = f"{ancestor['folder']}, weights {ancestor['weights_sha256'][:16]}"
        facts["goes on from"] = named
    if known := load_known_defects(bundle):
        if calibration.weights_sha256 != known.weights_sha256:  # a quantised form's
            calibration = cast(Calibration, load_bundle(bundle.folder).calibration)
        facts["known defects"] = "; ".join(line.strip() for line in known.lines(calibration))
    return facts


def _left_out(failures: Sequence[ImageRecord]) -> dict[str, str]:
    told = [f"{failed.path}: {failed.error}" for failed in failures]
    return {"could not be read": some(told)} if told else {}


_TITLES = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1_max": "F1max",
    "aupro": "AUPRO",
    "iap": "IAP",
    "iap_90": "IAP@90",
}


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
