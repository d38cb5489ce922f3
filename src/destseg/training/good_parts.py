"""Which good images a run trains on, and which fit its threshold."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from destseg.config import Settings
from destseg.data.decoded import GoodImages
from destseg.data.groups import group_names
from destseg.data.roi import Roi
from destseg.data.samples import Sample, good_samples, split_calibration
from destseg.data.shapes import shrinking_note, typical_shape
from destseg.errors import DataError
from destseg.training.log import TrainingLog


@dataclass(frozen=True)
class GoodParts:
    """The good images of a run: those it trains on and the calibration images.

    Attributes:
        root: folder that their names are relative to.
        training: decoded, to train on.
        calibration_images: for the threshold.
        calibration_groups: of each of these; ``None`` where each counts by itself.
        roi: what of them is inspected; ``None`` is all.
        sha256: which images the data set has, as ``fingerprint`` gives it.
    """

    root: Path
    training: GoodImages
    calibration_images: list[Sample]
    calibration_groups: list[str] | None = None
    roi: Roi | None = None
    sha256: str = ""

    @classmethod
    def read(
        cls, data: str | Path, settings: Settings, log: TrainingLog, roi: Roi | None = None
    ) -> GoodParts:
        """Find, check and split the images of a data set.

        Raises:
            DataError: if there are none, some cannot be read, or they are too few.
        """
        samples = good_samples(data, tell=log.say)
        wanted = settings.data
        if shape := typical_shape([sample.path for sample in samples]):
            log.say(shrinking_note(shape, wanted), image_size=wanted.size)
        log.say(f"checking {len(samples)} images in {data}", images=len(samples))
        images = GoodImages(
            [sample.path for sample in samples],
            wanted,
            on_progress=lambda done: log.count(done, len(samples), "checked images"),
        )
        for error in images.unreadable:
            log.say(f"left out: {error}", unreadable=error.path)
        readable = set(images.paths)
        samples = [sample for sample in samples if sample.path in readable]
        groups = group_names([(Path(data), images.paths)], wanted)
        training, calibration_images = split_calibration(
            samples,
            fraction=wanted.calibration_fraction,
            minimum=wanted.calibration_minimum,
            seed=settings.training.seed,
            groups=groups,
        )
        if groups and not calibration_images:
            raise DataError(
                f"{data}: expected good images of at least 2 groups (--group-by "
                f"{wanted.group_by}), got one: {groups[0]}. Add images of another, or train "
                "without --group-by."
            )
        batch = settings.training.batch_size
        if len(training) < batch or not calibration_images:
            raise DataError(
                f"{data}: expected at least {batch} good images to train on (one batch) beside "
                f"the calibration images, got {len(training)} and {len(calibration_images)} of "
                f"those, out of {len(readable)}. Add good images, or lower --batch-size."
            )
        chosen, divided = None, ""
        if groups is not None:
            of = dict(zip(images.paths, groups, strict=True))
            chosen = [of[sample.path] for sample in calibration_images]
            divided = f" ({len(set(chosen))} of {len(set(groups))} groups)"
        log.say(
            f"{len(training)} images to train on, {len(calibration_images)} for calibration"
            f"{divided}",
            training=len(training),
            calibration_images=len(calibration_images),
        )
        return cls(
            root=_root(data),
            training=images.only([sample.path for sample in training]),
            calibration_images=calibration_images,
            calibration_groups=chosen,
            roi=roi,
            sha256=fingerprint(data),
        )

    def names(self, paths: list[Path]) -> list[str]:
        """Return paths relative to the data set where they lie in it."""
        return [_name(path, self.root) for path in paths]


def fingerprint(data: str | Path) -> str:
    """Return the SHA-256 of a data set's good images: their names in it, order and contents.

    Two runs of the same settings see the same exactly where this is the same, wherever it lies.

    Raises:
        DataError: if there are none.
    """
    root, whole = _root(data), hashlib.sha256()
    for sample in good_samples(data):
        try:
            with sample.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            content = f"unreadable: {error.strerror}"
        name = os.fsencode(_name(sample.path, root))
        whole.update(name + b"\0" + content.encode() + b"\n")
    return whole.hexdigest()


def _root(data: str | Path) -> Path:
    path = Path(data)
    return path if path.is_dir() else path.parent


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
