"""From a folder of good images to a bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import destseg
from destseg.config import Settings, changed_settings
from destseg.data.defects import defect_samples
from destseg.errors import BundleError, SettingsError
from destseg.fields import HARMLESS_WHEN_FINISHED
from destseg.inference.ancestor import TRAINED_ON, Ancestor
from destseg.inference.bundle import (
    LEARNED,
    Bundle,
    load_bundle,
    save_bundle,
    save_calibration,
    weights_sha256_of,
)
from destseg.inference.known_defects import KnownDefects, save_known_defects
from destseg.inference.predictor import Predictor, load
from destseg.model.destseg import DeSTSeg
from destseg.model.device import resolve_device
from destseg.model_folder import (
    CANDIDATE,
    CHECKPOINT,
    left_by_training,
    remove_model,
    remove_unfinished,
    unfinished_models,
)
from destseg.phases import SEGMENT
from destseg.synthesis.variation import taken_off
from destseg.training.cross_fit import cross_fitted
from destseg.training.determinism import exact
from destseg.training.good_parts import GoodParts
from destseg.training.guard import guarded, measured
from destseg.training.known_parts import KnownParts
from destseg.training.learn import Learning, starting_model, weights_of
from destseg.training.log import TrainingLog
from destseg.training.processes import (
    local_device,
    rank,
    require_equal_shares,
    together,
    wait_for_all,
    world,
)
from destseg.training.run_folder import (
    alone_in,
    make_folder,
    note_beginning,
    prepare_output,
    refuse_files_of_others,
    region_of_interest,
    require_apart_from,
    require_same_images,
    require_same_run,
    settled,
)
from destseg.training.threshold import calibrated, warnings

# Settings that no calibration hangs on.
_NOT_CALIBRATED = HARMLESS_WHEN_FINISHED | {"cross_fit"}


def train(
    data: str | Path,
    *,
    output: str | Path,
    settings: Settings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    on_progress: Callable[[int, int], object] = lambda *_: None,
    defects: Path | None = None,
    ancestor: Ancestor | None = None,
    accept_losses: bool = False,
) -> Predictor:
    """Do what ``destseg.train`` says, which calls this.

    Args:
        data: as there, and so are the others.
        output: folder for the bundle.
        settings: ``None`` is the preset ``fast``, or on resuming the settings of that run.
        resume: go on from the saved state.
        overwrite: replace what an earlier run left.
        quiet: print nothing.
        on_progress: called after each step, with the steps of all phases.
        defects: folder of known defects.
        ancestor: a finished model to go on from, heads only.
        accept_losses: keep the new model even if it loses a defect that the ancestor found.
    """
    folder = Path(output)
    with alone_in(folder) as keep_others_out:
        keep_others_out()
        return _trained(
            data,
            folder,
            settings,
            keep_others_out,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
            on_progress=on_progress,
            defects=defects,
            ancestor=ancestor,
            accept_losses=accept_losses,
        )


def _trained(
    data: str | Path,
    folder: Path,
    settings: Settings | None,
    keep_others_out: Callable[[], None],
    *,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    on_progress: Callable[[int, int], object],
    defects: Path | None,
    ancestor: Ancestor | None,
    accept_losses: bool,
) -> Predictor:
    saved = prepare_output(folder, resume, overwrite)
    replaces = overwrite and left_by_training(folder)  # before this run's own log is there
    notes: list[str] = []
    bad = [] if defects is None else defect_samples(defects, tell=notes.append)
    if resume and saved is None:
        require_same_run(folder, data, settings, bad, ancestor)
        return load(
            folder, backend="torch", device=settings.training.device if settings else "auto"
        )
    settings = settled(settings, saved, data)
    if ancestor is not None:
        ancestor.require_fits(settings)
    require_equal_shares(settings.training)
    device = local_device(resolve_device(settings.training.device))
    if settings.training.precision == "fp16" and device.type == "cpu":
        raise SettingsError("--precision: expected fp32 or bf16 on a CPU, got fp16")
    require_apart_from(
        folder, data, settings, resume=saved is not None, defects=bad, ancestor=ancestor
    )
    if not resume:
        refuse_files_of_others(folder)
    main = rank() == 0  # of several processes the one that writes
    if main:
        make_folder(folder)
        keep_others_out()
        if not resume:  # another may have come and gone since it was looked at
            prepare_output(folder, resume, overwrite)
    tensorboard = settings.training.tensorboard
    with (
        together(device),
        TrainingLog(folder if main else None, tensorboard=tensorboard, quiet=quiet) as log,
    ):
        roi = region_of_interest(
            settings,
            folder,
            resume=saved is not None,
            ancestor=None if ancestor is None else ancestor.bundle,
        )
        for note in notes:
            log.say(note)
        source = GoodParts.read(data, settings, log, roi, bad, ancestor)
        known = None
        if defects is None and settings.training.cross_fit:
            log.say("note: --cross-fit has nothing to do without known defects: give --defects.")
        if defects is not None:
            good = [*source.training.paths, *(each.path for each in source.calibration_images)]
            known = KnownParts.read(defects, bad, settings, log, good, ancestor)
        if saved is not None:
            require_same_images(source, data, saved)
        with exact(settings.training.seed, device):
            model, origin = starting_model(settings, saved, ancestor, device)
            heads_only = ancestor is not None
            steps = settings.steps_of_phases()
            own = steps[SEGMENT.name] if heads_only else sum(steps.values())
            folds = [] if known is None else known.folds(settings.training.cross_fit)
            learning = Learning(
                settings=settings,
                source=source,
                teacher=origin,
                device=device,
                log=log,
                on_progress=on_progress,
                steps=own + len(folds) * steps[SEGMENT.name],
                ancestor=ancestor,
            )
            batches = learning.batches(() if known is None else known.learned)
            wait_for_all()  # what keeps any of them from beginning shows before this
            if main:
                if replaces:
                    # Only now: nothing that could have kept this run from beginning is left.
                    remove_model(folder)
                    log.restart()
                if saved is None:
                    remove_unfinished(*unfinished_models(folder))  # of another run
                note_beginning(folder, settings, roi)
            if less := taken_off(settings.variation, batches.variation, source.training):
                log.say(less)
            log.say(f"teacher: {origin}; device: {device}; output: {folder}", teacher=origin)
            seconds = learning.run(model, batches, folder, saved, heads_only=heads_only)
        if main:
            facts = _facts(learning, known, own, seconds)
            predictor, noted = _finished(
                learning, model, facts, known, folder, accept_losses=accept_losses
            )
        found: dict[str, bool] = {}
        if known is not None:
            found, more = cross_fitted(learning, model, known, folds, folder)
            seconds += more
        if main:
            if noted is not None:
                noted = noted.left_out(found)
                save_known_defects(predictor.bundle, noted, predictor.calibration)
                for line in noted.lines(predictor.calibration):
                    log.say(line)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            remove_unfinished(*unfinished_models(folder))
            calibration = predictor.calibration
            log.say(
                f"done in {seconds / 60:.1f} min; threshold {calibration.threshold:.4f}, "
                f"{calibration.set_by()}, {calibration.guarantee()}; model saved in {folder}",
                threshold=calibration.threshold,
                guaranteed_false_alarm_rate=calibration.guaranteed_false_alarm_rate,
                threshold_images=calibration.threshold_images,
                pixel_threshold_images=calibration.pixel_threshold_images,
            )
        wait_for_all()
    return predictor if main else load(folder, backend="torch", device=settings.training.device)


def _finished(
    learning: Learning,
    model: DeSTSeg,
    facts: dict[str, Any],
    known: KnownParts | None,
    folder: Path,
    *,
    accept_losses: bool,
) -> tuple[Predictor, KnownDefects | None]:
    """Save a model that has learned, with its threshold; return it and its known defects."""
    settings, source, log = learning.settings, learning.source, learning.log
    ancestor = learning.ancestor
    wanted = settings.training.device
    weights = weights_of(model)
    # A run that was interrupted in its folds has been here, and may be calibrated anew since.
    earlier = _saved_before(folder, weights_sha256_of(weights))
    kept = earlier is not None and not changed_settings(earlier.settings, settings, _NOT_CALIBRATED)

    def save(where: Path) -> Bundle:
        keep = kept and where == folder
        return save_bundle(where, settings, weights, facts, source.roi, keep_calibration=keep)

    if kept and ancestor is None:
        predictor = load(save(folder).folder, backend="torch", device=wanted)
        return predictor, measured(predictor, known)
    # Where no command takes it for a model until it is compared with its ancestor.
    place = folder if ancestor is None else folder / CANDIDATE
    predictor = calibrated(save(place), source, wanted)
    for warning in warnings(predictor.calibration, source, folder):
        log.say(warning)
    if ancestor is None:
        return predictor, measured(predictor, known)
    accepted = accept_losses or earlier is not None
    try:
        noted = guarded(predictor, ancestor, source, known, log, accept_losses=accepted)
        saved = save(folder)
        if not kept:
            save_calibration(saved, predictor.calibration)
    finally:
        remove_unfinished(place)
    return load(folder, backend="torch", device=wanted), noted


def _saved_before(folder: Path, weights_sha256: str) -> Bundle | None:
    """Return the model of these weights that a folder has already, if it has."""
    try:
        bundle = load_bundle(folder)
    except BundleError:  # none yet
        return None
    return bundle if bundle.weights_sha256 == weights_sha256 else None


def _facts(
    learning: Learning,
    known: KnownParts | None,
    steps: int,
    seconds: float,
) -> dict[str, Any]:
    """Return what a bundle says of its training, which took so many steps and seconds."""
    source, device = learning.source, learning.device
    images = learning.settings.training.batch_size * steps
    learned = {*source.contents, *(() if known is None else known.contents())}
    if learning.ancestor is not None:
        learned |= learning.ancestor.bundle.learned_sha256
    more = {} if known is None else {"known_defects": known.counts()}
    more |= {} if learning.ancestor is None else {"ancestor": learning.ancestor.facts()}
    return {
        **more,
        TRAINED_ON: source.names(source.training.paths),
        LEARNED: sorted(learned),
        "images": len(source.training),
        "calibration_images": len(source.calibration_images),
        "data_sha256": source.sha256,
        "teacher": learning.teacher,
        "minutes": round(seconds / 60, 2),
        "images_per_s": round(images / seconds, 2) if seconds else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "processes": world(),
        "platform": platform.platform(),
        "versions": {
            "destseg": destseg.__version__,
            "torch": str(torch.__version__),
        },
    }
