"""From a folder of good images to a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from destseg.config import Settings
from destseg.data.defects import Defect
from destseg.inference.ancestor import Ancestor
from destseg.inference.known_defects import save_known_defects
from destseg.inference.predictor import Predictor, load
from destseg.model.destseg import DeSTSeg
from destseg.model_folder import CHECKPOINT, remove_model, remove_unfinished, unfinished_models
from destseg.synthesis.variation import taken_off
from destseg.training.claim import Claim
from destseg.training.cross_fit import cross_fitted
from destseg.training.determinism import exact
from destseg.training.finish import facts_of, finished
from destseg.training.good_parts import GoodParts
from destseg.training.known_parts import KnownParts
from destseg.training.learn import Learning, starting_model
from destseg.training.log import TrainingLog
from destseg.training.processes import rank, together, wait_for_all
from destseg.training.request import Request, Run, checked
from destseg.training.run_folder import note_beginning, region_of_interest, require_same_images

_LOGGER = logging.getLogger(__name__)


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
    asked = Request(data, folder, settings, resume, overwrite, defects, ancestor, accept_losses)
    with Claim(folder, resume=resume, overwrite=overwrite) as claim:
        run = checked(asked, claim.look())
        if run is None:
            if rank() == 0 and not quiet:  # the finished run's own log stays as it is
                _LOGGER.warning("%s: finished before, nothing to go on with", folder)
            device = "auto" if settings is None else settings.training.device
            return load(folder, backend="torch", device=device)
        main = rank() == 0  # of several processes the one that writes
        if main:
            claim.make()
        tensorboard = run.settings.training.tensorboard
        with (
            together(run.device),
            TrainingLog(folder if main else None, tensorboard=tensorboard, quiet=quiet) as log,
        ):
            predictor = _carried_out(run, log, on_progress)
            wait_for_all()
        if predictor is None:  # another process has made it
            return load(folder, backend="torch", device=run.settings.training.device)
        return predictor


def _carried_out(
    run: Run, log: TrainingLog, on_progress: Callable[[int, int], object]
) -> Predictor | None:
    """Learn and save what was learned; of several processes the one that writes returns it."""
    folder = run.asked.folder
    source, known = _read(run, log)
    folds = [] if known is None else known.folds(run.settings.training.cross_fit)
    learning, model, seconds = _learned(run, source, known, folds, log, on_progress)
    main = rank() == 0
    if main:
        facts = facts_of(learning, known, run.steps, seconds)
        predictor, noted = finished(
            learning, model, facts, known, folder, accept_losses=run.asked.accept_losses
        )
    found: dict[str, bool] = {}
    if known is not None:
        found, more = cross_fitted(learning, model, known, folds, folder)
        seconds += more
    if not main:
        return None
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
    return predictor


def _read(run: Run, log: TrainingLog) -> tuple[GoodParts, KnownParts | None]:
    """Read the good images and the known defects, and refuse others than a run began with."""
    asked, settings = run.asked, run.settings
    roi = region_of_interest(
        settings,
        asked.folder,
        resume=asked.resume,
        ancestor=None if asked.ancestor is None else asked.ancestor.bundle,
    )
    for note in run.notes:
        log.say(note)
    source = GoodParts.read(asked.data, settings, log, roi, run.bad, asked.ancestor)
    known = None
    if asked.defects is not None:
        good = [*source.training.paths, *(each.path for each in source.calibration_images)]
        known = KnownParts.read(asked.defects, run.bad, settings, log, good, asked.ancestor, roi)
    elif settings.training.cross_fit:
        log.say("note: --cross-fit has nothing to do without known defects: give --defects.")
    if run.saved is not None:
        require_same_images(source, asked.data, run.saved)
    return source, known


def _learned(
    run: Run,
    source: GoodParts,
    known: KnownParts | None,
    folds: Sequence[Sequence[Defect]],
    log: TrainingLog,
    on_progress: Callable[[int, int], object],
) -> tuple[Learning, DeSTSeg, float]:
    """Return what learned, the model that did, and the seconds that it took."""
    asked, settings, saved = run.asked, run.settings, run.saved
    with exact(settings.training.seed, run.device):
        model, origin = starting_model(settings, saved, asked.ancestor, run.device)
        learning = Learning(
            settings=settings,
            source=source,
            teacher=origin,
            device=run.device,
            log=log,
            on_progress=on_progress,
            steps=run.steps + len(folds) * settings.training.segment_steps,
            ancestor=asked.ancestor,
        )
        batches = learning.batches(() if known is None else known.learned)
        wait_for_all()  # what keeps any of them from beginning shows before this
        if rank() == 0:
            _begin(run, source, log)
        if less := taken_off(settings.variation, batches.variation, source.training):
            log.say(less)
        log.say(f"teacher: {origin}; device: {run.device}; output: {asked.folder}", teacher=origin)
        seconds = learning.run(model, batches, asked.folder, saved, heads_only=run.heads_only)
    return learning, model, seconds


def _begin(run: Run, source: GoodParts, log: TrainingLog) -> None:
    """Put a run in the place of what an earlier one left: nothing can keep it from beginning."""
    folder = run.asked.folder
    if run.replaces:
        remove_model(folder)
        log.restart()
    if run.saved is None:
        remove_unfinished(*unfinished_models(folder))  # of another run
    note_beginning(folder, run.settings, source.roi)
