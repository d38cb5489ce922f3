"""A trained model on disk: manifest, weights and calibration, each with its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

import destseg
from destseg.config import Settings, recorded
from destseg.data.files import write_atomically
from destseg.data.names import may_be_one
from destseg.data.noise import UsualNoise
from destseg.data.roi import Roi
from destseg.errors import BundleError, DataError, SettingsError
from destseg.fields import BY_FOLDER
from destseg.inference.calibration import Calibration
from destseg.model_folder import (
    CALIBRATION,
    EXPORTS,
    KEPT,
    MANIFEST,
    RESULT,
    ROI,
    WEIGHTS,
    WRITTEN_BY_TRAINING,
)

FORMAT = 1
LEARNED = "learned_sha256"
"""Fact of a bundle: the SHA-256 of all images that it has learned from, good and defective."""

LEARNED_GROUPS = "learned_groups"
"""Fact of a bundle: the groups of the good images that it was trained on, and what groups are."""

NOISE = "noise"
"""Fact of a bundle: the noise of the images that it was trained on, as of ``UsualNoise``."""

TEXTURES = "textures_sha256"
"""Fact of a bundle: SHA-256 of the textures that it learned with, where a folder has them."""


@dataclass(frozen=True)
class Bundle:
    """What a finished training leaves, and all that inspecting an image needs.

    Attributes:
        folder: where it lies.
        settings: the settings of the training run.
        weights_sha256: of the weights file.
        calibration: the calibration scores and the thresholds; ``None`` while training fits them.
        training: facts about the run: images, minutes, device, versions.
        roi_sha256: of the region of interest's file; ``None`` where whole images are inspected.
    """

    folder: Path
    settings: Settings
    weights_sha256: str
    calibration: Calibration | None
    training: Mapping[str, Any]
    roi_sha256: str | None = None

    @property
    def settings_now(self) -> Settings:
        """The settings, with what its threshold has been asked for since the training."""
        now = self.calibration
        if now is None:
            return self.settings
        return self.settings.replace(
            max_false_alarm_rate=now.max_false_alarm_rate,
            confidence=now.confidence,
            room=now.room,
            group_by=now.group_by,
        )

    @property
    def learned_sha256(self) -> frozenset[str]:
        """SHA-256 of the image files that it, or a model that it went on from, has learned from.

        Empty where it does not say so, as models of before did not.
        """
        return frozenset(self.training.get(LEARNED, ()))

    def learned_groups(self, group_by: str) -> frozenset[str]:
        """Return the names of the groups that it was trained on.

        Args:
            group_by: what groups are; none are known where that was something else, or as in models
                of before nothing is said.
        """
        said = self.training.get(LEARNED_GROUPS, {})
        return frozenset(said["names"] if said.get("group_by") == group_by else ())

    def learned_among(self, groups: Iterable[str], group_by: str) -> set[str]:
        """Return the names of groups that it was trained on; a folder may be called by its last.

        Args:
            groups: the names.
            group_by: what groups are.
        """
        known = self.learned_groups(group_by)
        same = may_be_one if group_by == BY_FOLDER else str.__eq__
        return {name for name in groups if any(same(name, each) for each in known)}

    @property
    def noise(self) -> UsualNoise | None:
        """What noise its good images had, beyond which it is filtered out.

        ``None`` where none is: on request, and in models of before.
        """
        if not self.settings.data.filter_noise or NOISE not in self.training:
            return None
        return UsualNoise(**self.training[NOISE])

    def weights(self) -> dict[str, NDArray[Any]]:
        """Read the weights, by name.

        Raises:
            BundleError: if the file is missing or is not the one that was saved.
        """
        path = self.folder / WEIGHTS
        content = _read_hashed(path, self.weights_sha256)
        try:
            return safetensors.numpy.load(content)
        except safetensors.SafetensorError as error:
            raise BundleError(f"{path}: expected safetensors, got {error}") from error

    def roi(self) -> Roi | None:
        """Read the region of interest; ``None`` where whole images are inspected.

        Raises:
            BundleError: if the file is missing or is not the one that was saved.
        """
        if self.roi_sha256 is None:
            return None
        return Roi.from_png(_read_hashed(self.folder / ROI, self.roi_sha256))


def save_bundle(
    folder: Path,
    settings: Settings,
    weights: Mapping[str, NDArray[Any]],
    training: Mapping[str, Any],
    roi: Roi | None = None,
    *,
    keep_calibration: bool = False,
) -> Bundle:
    """Write manifest, weights and region; the calibration follows with ``save_calibration``.

    The manifest, which names the weights' hash, comes last: an interruption leaves a folder that
    is refused, never one that mixes old and new.  Calibrations that lie there are of other weights
    and go, unless ``keep_calibration`` says that they are of these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = _content(weights)
    region = None if roi is None else roi.to_png()
    bundle = Bundle(
        folder=folder,
        settings=settings,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        calibration=None,
        training=dict(training),
        roi_sha256=None if region is None else hashlib.sha256(region).hexdigest(),
    )
    (folder / MANIFEST).unlink(missing_ok=True)
    for old in () if keep_calibration else (folder / CALIBRATION, *folder.glob(KEPT)):
        old.unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS, content)
    if region is None:
        (folder / ROI).unlink(missing_ok=True)
    else:
        write_atomically(folder / ROI, region)
    manifest = {
        "format": FORMAT,
        "destseg": destseg.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights_sha256": bundle.weights_sha256,
        "roi_sha256": bundle.roi_sha256,
        "settings": settings.to_dict(),
        "training": bundle.training,
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return bundle


def weights_sha256_of(weights: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the file that weights are, or would be, saved in."""
    return hashlib.sha256(_content(weights)).hexdigest()


def _content(weights: Mapping[str, NDArray[Any]]) -> bytes:
    return safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in weights.items()})


def save_calibration(bundle: Bundle, calibration: Calibration) -> Bundle:
    """Write the calibration beside its weights and return the bundle with it."""
    write_calibration(bundle.folder / CALIBRATION, calibration)
    return replace(bundle, calibration=calibration)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file of a calibration: of a bundle, or of a form with scores of its own.

    Raises:
        DataError: if it cannot be written.
    """
    write_atomically(path, json.dumps(calibration.to_dict(), indent=1) + "\n")


def read_calibration(path: Path, bundle: Bundle, weights_sha256: str) -> Calibration:
    """Read the file of a calibration, and see that it is of the bundle and of these weights.

    Args:
        path: of the file.
        bundle: that it belongs to; its own calibration is not looked at.
        weights_sha256: of what gave the scores: the bundle's weights, or a quantised form.

    Raises:
        BundleError: if it is missing, damaged, or was made for other weights or settings.
    """
    try:
        calibration = Calibration.from_dict(json.loads(_read(path)))
    except (ValueError, TypeError, KeyError, DataError, SettingsError) as error:
        raise BundleError(
            f"{path}: expected a calibration of destseg, got {error!r}. "
            "Copy the bundle again or train anew; an INT8 form is made anew by destseg quantize."
        ) from error
    calibration.require_match(bundle.settings, weights_sha256, path.parent, bundle.roi_sha256)
    return calibration


def own_files(folder: str | Path) -> list[Path]:
    """Return what makes a bundle, there or not: nothing else may be written over it."""
    folder = Path(folder)
    named = [folder / name for name in (*WRITTEN_BY_TRAINING, RESULT)]
    return [*named, *folder.glob("calibration*"), *(folder / EXPORTS).rglob("*")]


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's manifest and calibration; the weights are read when a backend opens.

    Raises:
        BundleError: if it is missing, incomplete, of another format, or the calibration was made
            for other weights or settings.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    try:
        if manifest["format"] != FORMAT:
            raise BundleError(
                f"{folder / MANIFEST}: expected format {FORMAT}, got {manifest['format']}, written "
                f"by destseg {manifest.get('destseg')}. Use that version, or train anew."
            )
        bundle = Bundle(
            folder=folder,
            settings=recorded(manifest["settings"]),
            weights_sha256=manifest["weights_sha256"],
            calibration=None,
            training={**manifest["training"]},
            roi_sha256=manifest.get("roi_sha256"),
        )
    except (KeyError, TypeError, SettingsError) as error:
        raise BundleError(
            f"{folder / MANIFEST}: expected a manifest of destseg, got {error!r} wrong in it. "
            "Copy the bundle again or train anew."
        ) from error
    calibration = read_calibration(folder / CALIBRATION, bundle, bundle.weights_sha256)
    bundle.roi()  # It is small, and a missing one is better known before a line starts.
    return replace(bundle, calibration=calibration)


def recorded_in(folder: Path) -> Mapping[str, Any]:
    """Return the settings of a bundle that ``load_bundle`` takes, as its training wrote them down.

    Raises:
        BundleError: if the manifest is missing or damaged.
    """
    settings: Mapping[str, Any] = _read_manifest(folder)["settings"]
    return settings


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BundleError(f"expected the folder of a trained model, got {folder}: no such folder")
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"expected a trained model in {folder}, got a folder without {MANIFEST}. "
            "If its training was interrupted, finish it with --resume."
        )
    try:
        manifest = json.loads(_read(path))
    except ValueError as error:
        raise BundleError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path}: expected a manifest of destseg, got {type(manifest).__name__}")
    return manifest


def _read_hashed(path: Path, expected: str) -> bytes:
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise BundleError(
            f"{path}: expected SHA-256 {expected[:12]}..., got {digest[:12]}...: "
            "the file was changed or damaged. Copy the bundle again or train anew."
        )
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: expected a file of the bundle, got {error.strerror}. "
            "Copy the bundle again; if its training was interrupted, finish it with --resume."
        ) from error
