"""From a model that has learned to a bundle with its threshold, kept only if it lost nothing."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import destseg
from destseg.config import changed_settings
from destseg.data.noise import UsualNoise
from destseg.errors import BundleError
from destseg.fields import ALIKE, HARMLESS_WHEN_FINISHED
from destseg.inference.ancestor import TRAINED_ON
from destseg.inference.bundle import (
    LEARNED,
    LEARNED_GROUPS,
    NOISE,
    TEXTURES,
    Bundle,
    load_bundle,
    save_bundle,
    save_calibration,
    weights_sha256_of,
)
from destseg.inference.known_defects import KnownDefects
from destseg.inference.predictor import Predictor, load
from destseg.model.destseg import DeSTSeg
from destseg.model_folder import CANDIDATE, remove_unfinished
from destseg.training.guard import guarded, measured
from destseg.training.known_parts import KnownParts
from destseg.training.learn import Learning, weights_of
from destseg.training.processes import world
from destseg.training.threshold import calibrated, warnings

# Settings that no calibration hangs on.
_NOT_CALIBRATED = HARMLESS_WHEN_FINISHED | {"cross_fit"}


def finished(
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


def facts_of(
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
    more: dict[str, Any] = {} if known is None else {"known_defects": known.counts()}
    more |= {} if learning.ancestor is None else {"ancestor": learning.ancestor.facts()}
    group_by = learning.settings.data.group_by
    if source.training_groups and group_by != ALIKE:  # whose names are those of images
        groups = source.training_groups
        if learning.ancestor is not None:
            groups |= learning.ancestor.bundle.learned_groups(group_by)
        more |= {LEARNED_GROUPS: {"group_by": group_by, "names": sorted(groups)}}
    return {
        **more,
        TRAINED_ON: source.names(source.training.paths),
        LEARNED: sorted(learned),
        NOISE: vars(UsualNoise.of(source.training.noise)),
        "images": len(source.training),
        "calibration_images": len(source.calibration_images),
        "data_sha256": source.sha256,
        **({TEXTURES: source.textures_sha256} if source.textures_sha256 else {}),
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
