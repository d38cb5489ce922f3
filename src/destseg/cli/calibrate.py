"""``destseg calibrate``: a new threshold for a trained model, without training or exporting."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.errors import DataError, SettingsError

if TYPE_CHECKING:
    from destseg.inference.calibration import Calibration

DESCRIPTION = """Fit the threshold of a trained model anew; nothing is trained or exported again.

GOOD are images of good parts as the line sees them now.  The model must not have been trained on
them: its own training images look better than any new part.  Of labelled folders and lists the
good images are taken; the rest is left out or refused, as destseg train does.  Without GOOD the
calibration scores stay and only the rate changes.  Quantised forms in the bundle, which have
scores of their own, are fitted to the same images.

The old calibration stays in the bundle as calibration.until-TIME.json, beside the new one;
--restore goes back to it.
"""

EPILOG = """examples:
  destseg calibrate runs/bottle new_good_parts
  destseg calibrate runs/bottle new_good_parts --max-false-alarm-rate 0.002
  destseg calibrate runs/bottle --max-false-alarm-rate 0.05
  destseg calibrate runs/bottle --restore calibration.until-20261101T080000Z.json
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("calibrate", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("good", metavar="GOOD", nargs="?", help="folder or list of good images")
    parser.add_argument(
        "--max-false-alarm-rate",
        type=float,
        metavar="A",
        help="fraction of good parts that may be called defective (default: as it was)",
    )
    parser.add_argument(
        "--restore", metavar="FILE", help="go back to a calibration that was kept, by its name"
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from destseg.data.outputs import require_folder
    from destseg.inference.bundle import load_bundle
    from destseg.inference.exports import find_exports, load_export
    from destseg.inference.recalibration import recalibrate, restored

    bundle = load_bundle(parsed.bundle)
    before = bundle.calibration
    assert before is not None
    rate = parsed.max_false_alarm_rate
    settings = bundle.settings.replace(
        max_false_alarm_rate=before.max_false_alarm_rate if rate is None else rate
    )
    quantised = {
        name: load_export(bundle, name) for name in find_exports(bundle) if name.endswith("-int8")
    }
    for folder in (bundle.folder, *(export.folder for export in quantised.values())):
        require_folder(folder)
    # All are made before the first is written: no threshold is new while another is old.
    fitted: dict[str, Calibration] = {}
    if parsed.restore is not None:
        if parsed.good is not None or rate is not None:
            raise SettingsError("--restore: expected no GOOD and no rate with it, got some")
        fitted = restored(bundle, quantised, parsed.restore)
    elif parsed.good is None:
        if rate is None:
            raise DataError(
                "expected good images, --max-false-alarm-rate, or both, got neither: there is "
                "nothing to change"
            )
        fitted[""] = before.with_rate(rate)
        for name, export in quantised.items():
            if export.calibration is not None:
                fitted[name] = export.calibration.with_rate(rate)
    else:
        from destseg.cli.progress import counted
        from destseg.inference.calibrate import fit_calibration
        from destseg.inference.predictor import load

        paths = _new_images(Path(parsed.good))
        names = [path.as_posix() for path in paths]
        options = runtime_options(parsed)
        hashes = {"": bundle.weights_sha256} | {n: e.sha256 for n, e in quantised.items()}
        with counted(len(paths) * len(hashes)) as advance:
            for name, sha256 in hashes.items():
                # --device is of --backend; quantised forms are made for processors.
                own = {"backend": name, "device": "cpu"} if name else {}
                predictor = load(bundle.folder, **(options | own))
                fitted[name] = fit_calibration(predictor, paths, names, settings, sha256, advance)
    kept = recalibrate(bundle, quantised, fitted)
    for name, calibration in fitted.items():
        old = before if not name else quantised[name].calibration
        _tell(name, old, calibration)
    for name in quantised.keys() - fitted.keys():
        print(f"destseg: note: {name} has no calibration that was changed", file=sys.stderr)
    print(
        f"the old calibration is kept as {bundle.folder / kept}; "
        f"to go back: destseg calibrate {bundle.folder} --restore {kept}"
    )
    return 0


def _new_images(source: Path) -> list[Path]:
    from destseg.data.good_images import training_folder
    from destseg.data.samples import good_samples

    _refuse_training(source, training_folder(source))
    paths = [sample.path for sample in good_samples(source)]
    for path in paths if source.is_file() else ():
        _refuse_training(source, training_folder(path))
    return paths


def _refuse_training(source: Path, trained_on: Path | None) -> None:
    if trained_on is not None:
        raise DataError(
            f"{source}: expected new images of good parts, got those of {trained_on}/: images "
            "that the model was trained on would set the threshold too low. Give a folder of "
            "others; if nothing was trained on these, give that folder another name."
        )


def _tell(name: str, old: Calibration | None, new: Calibration) -> None:
    was = f" (was {old.threshold:.4f})" if old is not None else ""
    print(
        f"{name + ': ' if name else ''}threshold {new.threshold:.4f}{was}, at most "
        f"{new.guaranteed_false_alarm_rate:.2%} false alarms, from {len(new.scores)} good images"
    )
    print(f"  {new.set_by()}")
    if short := new.guarantee_note():
        print(f"destseg: note: {short}", file=sys.stderr)
