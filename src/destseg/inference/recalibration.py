"""New calibrations in a bundle, with the old ones kept beside them."""

from __future__ import annotations

import fnmatch
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from destseg.config import Room, Settings
from destseg.data.contents import each_once, hashes_of
from destseg.data.files import require_all_same, states_of, write_atomically
from destseg.data.good_images import training_folder
from destseg.data.lists import some
from destseg.data.outputs import require_folder
from destseg.data.samples import good_samples
from destseg.errors import BundleError, DataError, SettingsError
from destseg.fields import ALIKE, BY_FOLDER
from destseg.inference.bundle import Bundle, read_calibration, save_calibration
from destseg.inference.calibrate import fit_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.exports import (
    Export,
    find_exports,
    load_export,
    save_export_calibration,
)
from destseg.inference.known_defects import (
    KnownDefects,
    load_known_defects,
    save_known_defects,
)
from destseg.inference.predictor import Predictor
from destseg.interruption import whole
from destseg.model_folder import CALIBRATION, KEPT

_LOGGER = logging.getLogger(__name__)

FP32 = "fp32"
TOO_LOW = "Images that the model was trained on would set the threshold too low."


@dataclass(frozen=True)
class Recalibration:
    """The calibrations of a bundle, before and after; by form.

    The form ``fp32`` is what PyTorch, ONNX and OpenVINO have in common; ``onnx-int8`` and
    ``openvino-int8`` have scores, and so a calibration, of their own.

    Attributes:
        before: those that there were.
        after: those that there are now.
        kept: the file in the bundle that has the one of fp32 from before.
        known: the defects that the bundle knows; ``None`` where it knows none.
        unchanged: forms that have no calibration that could be changed.
    """

    before: Mapping[str, Calibration]
    after: Mapping[str, Calibration]
    kept: Path
    known: KnownDefects | None
    unchanged: tuple[str, ...]

    @property
    def calibration(self) -> Calibration:
        """The new one of fp32."""
        return self.after[FP32]


def calibrate_forms(
    bundle: Bundle,
    open_form: Callable[[str | None], Predictor],
    good: Sequence[Path] | None = None,
    *,
    groups: Callable[[Settings], Sequence[str] | None] = lambda _: None,
    group_by: str | None = None,
    add: bool = False,
    max_false_alarm_rate: float | None = None,
    confidence: float | None = None,
    room: Room | None = None,
    restore: str | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> Recalibration:
    """Make the calibrations of all forms of a bundle anew, and write them when all are made.

    Args:
        bundle: the trained model.
        open_form: gives what runs an INT8 form by its name, and ``None``, any fp32 one.
        good: images of good parts that the model was not trained on; ``None`` keeps the scores.
        groups: gives the group of each good image by the settings.
        group_by: by what they are grouped; ``None`` keeps it.
        add: add them to the calibration images that there are.
        max_false_alarm_rate: the rate asked for; ``None`` keeps it.
        confidence: with which it is to hold, 0 in the mean; ``None`` keeps it.
        room: how far the threshold rises towards synthetic anomalies; ``None`` keeps it.
        restore: name of a kept calibration to go back to, alone.
        on_progress: called with the images that are done and how many there are, of all forms.

    Raises:
        SettingsError: if the rate, the confidence or the room is out of its range or there can be
            no room, ``restore`` is not alone, or ``group_by`` is none or another one than that
            which is added to, or ``alike`` and they are to be added.
        DataError: if there is nothing to change, the model was trained on the images or on their
            groups, or the bundle cannot be written to.
        ImageError: if an image cannot be read.
        BundleError: if there is no such kept calibration, or what the bundle knows of defects is
            damaged.
    """
    before = bundle.calibration
    assert before is not None
    known = load_known_defects(bundle)
    asked = not (max_false_alarm_rate is confidence is room is None)
    if room and before.anomalies is None:
        raise SettingsError(
            f"--room: expected 0 for {bundle.folder}, which was trained before there was room and "
            f"does not know what synthetic anomalies score, got {room!r}; train anew for it"
        )
    wanted = {
        "max_false_alarm_rate": max_false_alarm_rate,
        "confidence": confidence,
        "room": room,
        "group_by": group_by,
    }
    settings = bundle.settings_now.replace(
        **{name: value for name, value in wanted.items() if value is not None}
    )
    forms = {
        name: load_export(bundle, name) for name in find_exports(bundle) if name.endswith("-int8")
    }
    for folder in _folders(bundle, forms).values():
        require_folder(folder)
    old = {"": before} | {
        name: form.calibration for name, form in forms.items() if form.calibration is not None
    }
    # All are made before the first is written: no threshold is new while another is old.
    if good is None and (add or group_by is not None):
        raise SettingsError("--add and --group-by: expected GOOD images with them, got none")
    if add and settings.data.group_by == ALIKE:
        raise SettingsError(
            "--add: expected groups that are known by their names, got --group-by alike: whether a "
            "new image looks like one of before is seen only where all are looked at together. "
            "Give all of them at once, without --add."
        )
    if restore is not None:
        if good is not None or asked:
            raise SettingsError("--restore: expected no GOOD and no rate with it, got some")
        fitted = restored(bundle, forms, restore)
    elif good is None:
        if not asked:
            raise DataError(
                "expected good images, --max-false-alarm-rate, or both, got neither: there is "
                "nothing to change"
            )
        fitted = {
            name: each.with_rate(
                settings.decision.max_false_alarm_rate, settings.decision.confidence, room
            )
            for name, each in old.items()
        }
    else:
        hashes = _hashes(bundle, forms)
        if add:  # to a form that has none nothing can be added
            hashes = {name: sha256 for name, sha256 in hashes.items() if name in old}
        states = states_of(good)
        contents = require_not_learned(bundle, good)
        named = groups(settings)
        if named is not None:
            _require_no_learned_group(bundle, named, settings.data.group_by)
        if add and named is not None and settings.data.group_by == BY_FOLDER:
            _tell_joined(before, named)
        fitted = {
            # What synthetic anomalies score has not changed.
            name: replace(each, anomalies=old[name].anomalies if name in old else before.anomalies)
            for name, each in _fitted(
                hashes, open_form, good, contents, named, settings, on_progress
            ).items()
        }
        require_all_same(states, "calibrated")  # else the record would have another image's hash
        if add:
            fitted = _added(old, fitted)
    _require_unchanged(bundle, forms, old)
    kept = recalibrate(bundle, forms, fitted, known)
    return Recalibration(
        before={name or FP32: each for name, each in old.items()},
        after={name or FP32: each for name, each in fitted.items()},
        kept=bundle.folder / kept,
        known=known,
        unchanged=tuple(name for name in forms if name not in fitted),
    )


def _fitted(
    hashes: Mapping[str, str],
    open_form: Callable[[str | None], Predictor],
    good: Sequence[Path],
    contents: Sequence[str],
    groups: Sequence[str] | None,
    settings: Settings,
    on_progress: Callable[[int, int], object],
) -> dict[str, Calibration]:
    """Return the calibration of each form, by its name and hash, from good images."""
    places = each_once(good, contents)
    images = [good[place] for place in places]
    names = [path.as_posix() for path in images]
    done = itertools.count(1)
    return {
        name: fit_calibration(
            open_form(name or None),
            images,
            names,
            settings,
            sha256,
            lambda: on_progress(next(done), len(images) * len(hashes)),
            None if groups is None else [groups[place] for place in places],
            [contents[place] for place in places],
        )
        for name, sha256 in hashes.items()
    }


def _added(
    old: Mapping[str, Calibration], more: Mapping[str, Calibration]
) -> dict[str, Calibration]:
    """Return the calibrations of each form with more images.

    A form that has all of them, where another has not, was written before a process that added them
    came to its end: it stays as it is.
    """
    done = {name for name, each in more.items() if len(old[name].also_in(each)) == len(each.paths)}
    if len(done) == len(more):
        done = set()
    return {
        name: old[name] if name in done else old[name].with_more(each)
        for name, each in more.items()
    }


def _require_unchanged(
    bundle: Bundle, forms: Mapping[str, Export], old: Mapping[str, Calibration]
) -> None:
    """Refuse to write over what another process has written meanwhile: its images would be lost."""
    folders, hashes = _folders(bundle, forms), _hashes(bundle, forms)
    for name, before in old.items():
        if read_calibration(folders[name] / CALIBRATION, bundle, hashes[name]) != before:
            raise DataError(
                f"{folders[name] / CALIBRATION}: expected the calibration that was there at the "
                "beginning, got another: something else has calibrated the model meanwhile. "
                "Nothing is written; give the same command again."
            )


def _hashes(bundle: Bundle, forms: Mapping[str, Export]) -> dict[str, str]:
    """Return what each calibration is bound to."""
    return {"": bundle.weights_sha256} | {name: form.sha256 for name, form in forms.items()}


def _folders(bundle: Bundle, forms: Mapping[str, Export]) -> dict[str, Path]:
    """Return where each calibration lies."""
    return {"": bundle.folder} | {name: form.folder for name, form in forms.items()}


def new_good_images(source: Path, why: str = TOO_LOW) -> list[Path]:
    """Return the good images of a folder, list or file that a model was not trained on.

    Args:
        source: where they are.
        why: those that it was trained on may not be.

    Raises:
        DataError: if there are none, some may not be good, or they were there to train on.
    """
    _refuse_training(source, training_folder(source), why)
    paths = [sample.path for sample in good_samples(source)]
    for path in paths if source.is_file() else ():
        _refuse_training(source, training_folder(path), why)
    return paths


def require_not_learned(bundle: Bundle, good: Sequence[Path], why: str = TOO_LOW) -> list[str]:
    """Refuse images that a model has learned from, whatever they are called; return all SHA-256.

    Args:
        bundle: the model.
        good: the images.
        why: such images may not be.

    Raises:
        DataError: naming them.
        ImageError: if an image cannot be read.
    """
    contents = hashes_of(good)
    seen = [
        path.as_posix()
        for path, content in zip(good, contents, strict=True)
        if content in bundle.learned_sha256
    ]
    if seen:
        raise DataError(
            f"expected good images that the model was not trained on, got {len(seen)} of "
            f"{len(good)} that it was: {some(seen)}. {why} Give others."
        )
    return contents


def _require_no_learned_group(bundle: Bundle, groups: Sequence[str], group_by: str) -> None:
    """Refuse images of groups that a model was trained on: they say too little of a new group."""
    given = {*groups}
    if seen := sorted(bundle.learned_among(given, group_by)):
        raise DataError(
            f"--group-by {group_by}: expected images of groups that the model was not trained on, "
            f"got {len(seen)} of {len(given)} groups that it was: {some(seen)}. {TOO_LOW} Give "
            "images of others; if they are others, call them by other names or group by something "
            "else."
        )


def _tell_joined(before: Calibration, groups: Sequence[str]) -> None:
    """Tell which folders are taken for those of before: another can have the same name."""
    if both := sorted({*groups}.intersection(before.groups or ())):
        _LOGGER.warning(
            "note: folders called as in the calibration count as the same groups: %s. If they are "
            "others, give them other names.",
            some(both),
        )


def _refuse_training(source: Path, trained_on: Path | None, why: str) -> None:
    if trained_on is not None:
        raise DataError(
            f"{source}: expected new images of good parts, got those of {trained_on}/. "
            f"{why} Give a folder of others; if nothing was trained on these, give that folder "
            "another name."
        )


def recalibrate(
    bundle: Bundle,
    forms: Mapping[str, Export],
    fitted: Mapping[str, Calibration],
    known: KnownDefects | None,
) -> str:
    """Write new calibrations; each old one stays beside the new one, under a name with the time.

    All old ones are kept before the first is replaced, every file is written atomically, and a
    signal takes effect when all are written.  What is said of known defects follows: how many of
    them are missed depends on the threshold.

    Args:
        bundle: whose calibration is ``fitted[""]``.
        forms: its forms with calibrations of their own, by name.
        fitted: the new ones.
        known: the defects that the bundle knows; ``None`` where it knows none.

    Returns:
        The name of the kept files, the same in every folder; ``restored`` reads them.

    Raises:
        DataError: if the bundle cannot be written to.
        OSError: if an old calibration cannot be read.
    """
    folders = _folders(bundle, forms)
    kept = next(each for each in _kept_names() if not (bundle.folder / each).exists())
    with whole():
        for name in fitted:
            if (folders[name] / CALIBRATION).is_file():
                write_atomically(folders[name] / kept, (folders[name] / CALIBRATION).read_bytes())
        for name, form in forms.items():
            if name in fitted:
                save_export_calibration(form, fitted[name])
        save_calibration(bundle, fitted[""])
        if known is not None:
            save_known_defects(bundle, known, fitted[""])
    return kept


def restored(bundle: Bundle, forms: Mapping[str, Export], kept: str) -> dict[str, Calibration]:
    """Read calibrations that ``recalibrate`` kept, for it to write them again.

    A form has none where it was made later.

    Raises:
        BundleError: if there is none of that name, or it is damaged or of another model.
    """
    name = Path(kept).name
    # The one that holds now is no way back, though it has a name like theirs.
    if not (fnmatch.fnmatch(name, KEPT) and (bundle.folder / name).is_file()):
        there = sorted(path.name for path in bundle.folder.glob(KEPT))
        raise BundleError(
            f"{bundle.folder}: expected a kept calibration, got {kept!r}; there "
            f"{'are ' + ', '.join(there) if there else 'is none'}."
        )
    hashes = _hashes(bundle, forms)
    return {
        each: read_calibration(folder / name, bundle, hashes[each])
        for each, folder in _folders(bundle, forms).items()
        if (folder / name).is_file()
    }


def _kept_names() -> Iterator[str]:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    yield KEPT.replace("*", now)
    number = 2
    while True:
        yield KEPT.replace("*", f"{now}-{number}")
        number += 1
