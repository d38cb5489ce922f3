"""From a folder of good images to a bundle."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import destseg
from destseg.config import Settings
from destseg.data.defects import defect_samples
from destseg.data.groups import one_day
from destseg.errors import SettingsError
from destseg.inference.ancestor import TRAINED_ON, Ancestor
from destseg.inference.bundle import Bundle, save_bundle, save_calibration
from destseg.inference.calibrate import fit_calibration
from destseg.inference.known_defects import save_known_defects
from destseg.inference.predictor import Predictor, load
from destseg.interruption import Interruption
from destseg.model.destseg import DeSTSeg, build_model
from destseg.model.device import resolve_device
from destseg.model.teacher import pretrained_teacher
from destseg.model_folder import CHECKPOINT, remove_model
from destseg.phases import SEGMENT
from destseg.synthesis.batches import Batches
from destseg.training.checkpoint import Checkpoint, save_checkpoint
from destseg.training.determinism import exact
from destseg.training.good_parts import GoodParts
from destseg.training.guard import CANDIDATE, guarded, measured
from destseg.training.known_parts import KnownParts
from destseg.training.log import TrainingLog
from destseg.training.loop import START, Progress, run_phase
from destseg.training.phases import phases_to_learn
from destseg.training.processes import (
    local_device,
    rank,
    require_equal_shares,
    share_of,
    synchronized_norms,
    together,
    wait_for_all,
    world,
)
from destseg.training.run_folder import (
    make_folder,
    note_beginning,
    prepare_output,
    region_of_interest,
    require_apart_from,
    require_same_images,
    require_same_run,
    settled,
)


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
    saved = prepare_output(folder, resume, overwrite)
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
    main = rank() == 0  # of several processes the one that writes
    if main:
        make_folder(folder)
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
        if defects is not None:
            good = [*source.training.paths, *(each.path for each in source.calibration_images)]
            known = KnownParts.read(defects, bad, settings, log, good, ancestor)
        if saved is not None:
            require_same_images(source, data, saved)
        with exact(settings.training.seed, device):
            model, origin = _model(settings, saved, ancestor)
            model.to(device).to(memory_format=torch.channels_last)
            batches = _batches(source, known, settings, device)
            wait_for_all()  # what keeps any of them from beginning shows before this
            if main:
                if overwrite:
                    # Only now: nothing that could have kept this run from beginning is left.
                    remove_model(folder)
                    log.restart()
                note_beginning(folder, settings, roi)
            log.say(f"teacher: {origin}; device: {device}; output: {folder}", teacher=origin)
            seconds = _learn(
                model,
                origin,
                source,
                batches,
                settings,
                folder,
                saved,
                device,
                log,
                on_progress,
                heads_only=ancestor is not None,
            )
        if main:
            facts = _facts(source, known, ancestor, settings, device, seconds, origin)
            weights = {name: value.cpu().numpy() for name, value in model.state_dict().items()}

            def save(where: Path) -> Bundle:
                return save_bundle(where, settings, weights, facts, roi)

            wanted = settings.training.device
            if ancestor is None:
                predictor = _calibrated(save(folder), source, wanted, log)
                noted = measured(predictor, known)
            else:
                # Where no command takes it for a model until it is compared with its ancestor.
                candidate = folder / CANDIDATE
                predictor = _calibrated(save(candidate), source, wanted, log)
                noted = guarded(
                    predictor, ancestor, source, known, log, accept_losses=accept_losses
                )
                save_calibration(save(folder), predictor.calibration)
                predictor = load(folder, backend="torch", device=wanted)
                shutil.rmtree(candidate)
            if noted is not None:
                save_known_defects(predictor.bundle, noted, predictor.calibration)
                for line in noted.lines(predictor.calibration):
                    log.say(line)
            (folder / CHECKPOINT).unlink(missing_ok=True)
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


def _model(
    settings: Settings, saved: Checkpoint | None, ancestor: Ancestor | None
) -> tuple[DeSTSeg, str]:
    if saved is not None:
        model = build_model(settings.model, image_size=settings.data.size)
        model.load_state_dict(dict(saved.model))
        origin = saved.teacher
    elif ancestor is not None:
        model = build_model(settings.model, image_size=settings.data.size)
        weights = ancestor.bundle.weights()
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        origin = str(ancestor.bundle.training.get("teacher", "that of the ancestor"))
    else:
        size = settings.data.size
        teacher, origin = pretrained_teacher(
            settings.model.teacher, settings.model.teacher_weights, image_size=size
        )
        model = build_model(settings.model, teacher, image_size=size)
    model.student.gradient_checkpointing = settings.training.gradient_checkpointing
    model.head.gradient_checkpointing = settings.training.gradient_checkpointing
    return model, origin


def _batches(
    source: GoodParts, known: KnownParts | None, settings: Settings, device: torch.device
) -> Batches:
    if not settings.model.surface_width:
        settings = settings.replace(cutpaste_probability=0.0)  # nobody learns from it
    size = settings.training.batch_size
    return Batches.of(
        source.training,
        settings,
        batch_size=size,
        device=device,
        roi=source.roi,
        share=share_of(size),
        defects=() if known is None else known.learned,
    )


def _learn(
    model: DeSTSeg,
    teacher: str,
    source: GoodParts,
    batches: Batches,
    settings: Settings,
    folder: Path,
    saved: Checkpoint | None,
    device: torch.device,
    log: TrainingLog,
    on_progress: Callable[[int, int], object],
    *,
    heads_only: bool,
) -> float:
    """Run the phases as far as they are not done; return the training's seconds in all."""
    wanted = settings.training
    phases = phases_to_learn(model, settings)
    if heads_only:
        phases = [phase for phase in phases if phase.name == SEGMENT.name]
    names = [phase.name for phase in phases]
    first = names.index(saved.phase) if saved else 0
    before = saved.seconds if saved else 0.0
    begun = time.monotonic()
    total = sum(phase.steps for phase in phases)
    with Interruption().watch() as interruption:
        for number, phase in enumerate(phases[first:], first):
            earlier = sum(each.steps for each in phases[:number])
            start = START
            if saved is not None and phase.name == saved.phase:
                start = Progress(saved.step, saved.optimizer, saved.scaler)

            def save(progress: Progress, name: str = phase.name) -> None:
                if rank() != 0:
                    return
                state = Checkpoint(
                    phase=name,
                    step=progress.step,
                    settings=settings.to_dict(),
                    images=source.names(source.training.paths),
                    teacher=teacher,
                    model=model.state_dict(),
                    optimizer=progress.optimizer,
                    scaler=progress.scaler,
                    seconds=before + time.monotonic() - begun,
                    data_sha256=source.sha256,
                )
                save_checkpoint(folder / CHECKPOINT, state)

            def tell(done: int, earlier: int = earlier) -> None:
                on_progress(earlier + done, total)

            on_gpus = world() > 1 and device.type == "cuda"
            with synchronized_norms(phase.learns) if on_gpus else contextlib.nullcontext():
                run_phase(
                    phase,
                    batches,
                    device,
                    wanted,
                    log,
                    start=start,
                    save=save,
                    interruption=interruption,
                    on_step=tell,
                )
    return before + time.monotonic() - begun


def _calibrated(bundle: Bundle, source: GoodParts, device: str, log: TrainingLog) -> Predictor:
    """Fit the threshold with the finished predictor, so that it means what will be measured."""
    from destseg.inference.backends import Runtime, open_backend

    runtime = Runtime(backend="torch", device=device)
    backend = open_backend(bundle, runtime)
    paths = [sample.path for sample in source.calibration_images]
    calibration = fit_calibration(
        Predictor(bundle, backend),
        paths,
        source.names(paths),
        bundle.settings,
        bundle.weights_sha256,
        groups=source.calibration_groups,
    )
    if short := calibration.guarantee_note():
        log.say(f"note: {short} A higher --calibration-fraction also sets more images aside.")
    if alone := calibration.lone_note():
        log.say(f"note: {alone}")
    if source.calibration_groups is None and (day := one_day(paths)) is not None:
        log.say(
            f"note: all calibration images were taken on {day}: what that day had by chance the "
            "threshold takes for granted. Add good images of other days as you get them: destseg "
            f"calibrate {bundle.folder} GOOD --add --group-by day"
        )
    return Predictor(save_calibration(bundle, calibration), backend, runtime=runtime)


def _facts(
    source: GoodParts,
    known: KnownParts | None,
    ancestor: Ancestor | None,
    settings: Settings,
    device: torch.device,
    seconds: float,
    origin: str,
) -> dict[str, Any]:
    steps = settings.steps_of_phases()
    learned = sum(steps.values()) if ancestor is None else steps[SEGMENT.name]
    images = settings.training.batch_size * learned
    more = {} if known is None else {"known_defects": known.counts()}
    more |= {} if ancestor is None else {"ancestor": ancestor.facts()}
    return {
        **more,
        TRAINED_ON: source.names(source.training.paths),
        "images": len(source.training),
        "calibration_images": len(source.calibration_images),
        "data_sha256": source.sha256,
        "teacher": origin,
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
