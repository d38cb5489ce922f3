"""A report of a model on labelled pictures: inspected once, for the metrics and the gallery."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from destseg.data.images import read_image
from destseg.data.samples import Sample
from destseg.evaluation.evaluate import Evaluation, evaluate
from destseg.evaluation.report import Entry, Report, make_entry, training_curves
from destseg.inference.predictor import Predictor


def report_on(
    data: Path,
    predictor: Predictor,
    samples: Sequence[Sample],
    on_picture: Callable[[], None] = lambda: None,
) -> tuple[Evaluation, Report]:
    """Return how well a predictor does on labelled pictures, and the report that shows it.

    Args:
        data: the data set, for its name.
        predictor: the trained model.
        samples: test pictures with their kind and, where defective, their mask.
        on_picture: called after each picture.

    Raises:
        ImageError, DataError: as ``evaluate`` does.
    """
    entries: list[Entry] = []

    def keep(sample, result, mask) -> None:  # type: ignore[no-untyped-def]
        image = read_image(sample.path, max_pixels=result.height * result.width)
        entries.append(make_entry(sample, result, image, mask if mask.any() else None))
        on_picture()

    evaluation = evaluate(predictor, samples, on_picture=keep)
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
            "trained on": f"{training.get('pictures')} good pictures in "
            f"{training.get('minutes')} minutes ({training.get('device')})",
            "weights (SHA-256)": bundle.weights_sha256[:16],
        },
        metrics=_defined({**image, **pixel}),
        reasons=reasons,
        kinds=[
            {
                "kind": each.kind,
                "pictures": each.flagged.total,
                "flagged": each.flagged.count,
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
            for each in evaluation.kinds
        ],
        curves={
            f"pixel {name.upper()}": (curve.x.tolist(), curve.y.tolist())
            for name, curve in evaluation.curves.items()
        },
        threshold=calibration.threshold,
        promised_rate=calibration.promised_rate,
        held_out=calibration.scores,
        training=training_curves(bundle.folder),
        settings=bundle.settings.to_dict(),
        entries=entries,
    )


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
