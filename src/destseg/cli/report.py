"""``destseg report``: one HTML file that shows what a model does on labelled pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options

if TYPE_CHECKING:
    from destseg.evaluation.evaluate import Evaluation
    from destseg.evaluation.report import Entry, Report
    from destseg.inference.predictor import Predictor

DESCRIPTION = """Write one HTML file with all pictures, heatmaps, curves and a threshold to move.

DATA is a folder in MVTec AD's layout: test/good, test/KIND and masks in ground_truth/KIND.  The
file works without a network; it holds small copies of the pictures.
"""

EPILOG = """example:
  destseg report runs/bottle data/bottle --output report.html
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("report", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("data", metavar="DATA", help="data set in MVTec AD's layout")
    parser.add_argument(
        "--output", metavar="FILE", help="HTML file (default: report.html in the bundle)"
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from destseg.cli.progress import counted
    from destseg.data.images import read_image
    from destseg.data.samples import test_samples
    from destseg.evaluation.evaluate import evaluate
    from destseg.evaluation.report import make_entry, write_report
    from destseg.inference.predictor import load

    samples = test_samples(parsed.data)
    predictor = load(parsed.bundle, **runtime_options(parsed))
    entries: list[Entry] = []
    with counted(len(samples)) as advance:

        def keep(sample, result, mask) -> None:  # type: ignore[no-untyped-def]
            image = read_image(sample.path, max_pixels=result.height * result.width)
            entries.append(make_entry(sample, result, image, mask if mask.any() else None))
            advance()

        evaluation = evaluate(predictor, samples, on_picture=keep)
    output = Path(parsed.output or Path(parsed.bundle) / "report.html")
    write_report(output, build_report(Path(parsed.data), predictor, evaluation, entries))
    print(output)
    return 0


def build_report(
    data: Path, predictor: Predictor, evaluation: Evaluation, entries: list[Entry]
) -> Report:
    """Return the report's content from an evaluation and the gallery's entries."""
    from destseg.evaluation.report import Report, training_curves

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
