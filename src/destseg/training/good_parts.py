"""Which good images a run trains on, and which fit its threshold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from destseg.config import DataSettings, Settings
from destseg.data.contents import (
    contents_of,
    each_once,
    fingerprint,
    name_in,
    root_of,
    textures_fingerprint,
)
from destseg.data.decoded import GoodImages
from destseg.data.defects import fingerprint_of
from destseg.data.files import FileState, states_of
from destseg.data.groups import group_names
from destseg.data.lists import counted
from destseg.data.roi import Roi
from destseg.data.samples import Sample, good_samples, split_calibration
from destseg.data.shapes import shrinking_note, turning_note, typical_shape
from destseg.errors import DataError
from destseg.inference.ancestor import Ancestor, Seen, by_groups, split_like
from destseg.training.log import TrainingLog


@dataclass(frozen=True)
class GoodParts:
    """The good images of a run: those it trains on and the calibration images.

    Attributes:
        root: folder that their names are relative to.
        training: decoded, to train on.
        calibration_images: for the threshold.
        calibration_groups: of each of these; ``None`` where each counts by itself.
        training_groups: of the images to train on; none where each counts by itself.
        roi: what of them is inspected; ``None`` is all.
        sha256: of all that the run learns from, as ``run_fingerprint`` gives it.
        textures_sha256: of what is laid over them, as ``textures_fingerprint`` gives it.
        contents: SHA-256 of each image to train on.
        calibration_contents: of each calibration image.
        states: of all files when their content was looked at.
    """

    root: Path
    training: GoodImages
    calibration_images: list[Sample]
    calibration_groups: list[str] | None = None
    training_groups: frozenset[str] = frozenset()
    roi: Roi | None = None
    sha256: str = ""
    textures_sha256: str = ""
    contents: frozenset[str] = frozenset()
    calibration_contents: Sequence[str] = ()
    states: Mapping[Path, FileState | None] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        data: str | Path,
        settings: Settings,
        log: TrainingLog,
        roi: Roi | None = None,
        defects: Sequence[Sample] = (),
        ancestor: Ancestor | None = None,
    ) -> GoodParts:
        """Find, check and split the images of a data set, each once, whatever it is called.

        With an ancestor its calibration images stay those, and of new images, where it says which
        it was trained on, the usual fraction is added; of those with groups whole new groups.

        Raises:
            DataError: if there are none, some cannot be read, or they are too few.
        """
        samples = good_samples(data, tell=log.say)
        wanted = settings.data
        if shape := typical_shape([sample.path for sample in samples]):
            log.say(shrinking_note(shape, wanted), image_size=wanted.size)
        if note := turning_note(wanted):
            log.say(note)
        if wanted.tile and wanted.fit == "pad":
            log.say("note: --fit pad has nothing to do with --tile: tiles keep their shape.")
        states = states_of(sample.path for sample in samples)
        contents = contents_of(sample.path for sample in samples)
        log.say(f"checking {counted(len(samples), 'image')} in {data}", images=len(samples))
        images = _decoded([sample.path for sample in samples], wanted, states, log)
        samples = _readable_once(samples, images, contents, log)
        groups = group_names([(Path(data), [sample.path for sample in samples])], wanted)
        training, calibration_images = _split(
            data, samples, contents, settings, ancestor, log, groups
        )
        _require_enough(data, training, calibration_images, settings, groups)
        chosen, divided, learned = None, "", frozenset[str]()
        if groups is not None:
            of = {each.path: group for each, group in zip(samples, groups, strict=True)}
            chosen = [of[sample.path] for sample in calibration_images]
            learned = frozenset(of[sample.path] for sample in training)
            divided = f" ({len(set(chosen))} of {len(set(groups))} groups)"
        log.say(
            f"{len(training)} images to train on, {len(calibration_images)} for calibration"
            f"{divided}",
            training=len(training),
            calibration_images=len(calibration_images),
        )
        return cls(
            root=root_of(data),
            training=images.only([sample.path for sample in training]),
            calibration_images=calibration_images,
            calibration_groups=chosen,
            training_groups=learned,
            roi=roi,
            sha256=run_fingerprint(fingerprint(data, contents), defects, ancestor),
            textures_sha256=textures_fingerprint(settings.synthesis.textures),
            contents=frozenset(contents[sample.path] for sample in training),
            calibration_contents=[contents[sample.path] for sample in calibration_images],
            states=states,
        )

    def names(self, paths: list[Path]) -> list[str]:
        """Return paths relative to the data set where they lie in it."""
        return [name_in(self.root, path) for path in paths]


def _decoded(
    paths: Sequence[Path],
    wanted: DataSettings,
    states: Mapping[Path, FileState | None],
    log: TrainingLog,
) -> GoodImages:
    """Decode images, telling how far that is and which cannot be."""
    images = GoodImages(
        paths,
        wanted,
        on_progress=lambda done: log.count(done, len(paths), "checked images"),
        states=states,
    )
    for error in images.unreadable:
        log.say(f"left out: {error}", unreadable=error.path)
    return images


def _readable_once(
    samples: Sequence[Sample], images: GoodImages, contents: Mapping[Path, str], log: TrainingLog
) -> list[Sample]:
    """Return the images that were decoded, without copies.

    Of an image and its copy one could be trained on, and the other set the threshold.
    """
    readable = set(images.paths)
    read = [sample for sample in samples if sample.path in readable]
    paths = [sample.path for sample in read]
    once = each_once(paths, [contents[each] for each in paths], lambda it: log.say(f"note: {it}"))
    return [read[place] for place in once]


def _split(
    data: str | Path,
    samples: list[Sample],
    contents: Mapping[Path, str],
    settings: Settings,
    ancestor: Ancestor | None,
    log: TrainingLog,
    groups: list[str] | None,
) -> tuple[list[Sample], list[Sample]]:
    """Return (training, calibration)."""
    if ancestor is not None:
        return _split_again(data, samples, contents, settings, ancestor, log, groups)
    return split_calibration(
        samples,
        fraction=settings.data.calibration_fraction,
        minimum=settings.data.calibration_minimum,
        seed=settings.training.seed,
        groups=groups,
    )


def _require_enough(
    data: str | Path,
    training: Sequence[Sample],
    calibration_images: Sequence[Sample],
    settings: Settings,
    groups: Sequence[str] | None,
) -> None:
    if groups and not calibration_images:
        raise DataError(
            f"{data}: expected good images of at least 2 groups (--group-by "
            f"{settings.data.group_by}), got one: {groups[0]}. Add images of another, or train "
            "without --group-by."
        )
    batch = settings.training.batch_size
    if len(training) < batch or not calibration_images:
        less = ", or lower --batch-size" if batch > 2 else ""  # 2 is the lowest
        raise DataError(
            f"{data}: expected at least {batch} good images to train on (one batch) beside "
            f"the calibration images, got {len(training)} and {len(calibration_images)} of "
            f"those, out of {len(training) + len(calibration_images)}. Add good images{less}."
        )


def _split_again(
    data: str | Path,
    samples: list[Sample],
    contents: Mapping[Path, str],
    settings: Settings,
    ancestor: Ancestor,
    log: TrainingLog,
    groups: list[str] | None,
) -> tuple[list[Sample], list[Sample]]:
    """Return (training, calibration) of which the second has nothing that was ever trained on.

    Of new images, where they have groups, whole ones are added.

    Raises:
        DataError: if none of the ancestor's calibration images is there.
        TrainingError: if it was trained on and calibrated with one group.
    """
    root = root_of(data)
    images = [Seen(name_in(root, each.path), contents[each.path]) for each in samples]
    by_name = {image.name: sample for image, sample in zip(images, samples, strict=True)}
    of = dict(zip(by_name, groups or [], strict=False))
    calibration, new = split_like(images, ancestor)
    if not calibration:
        raise DataError(
            f"{data}: expected the good images that {ancestor.bundle.folder} was trained on, with "
            "new ones or without, got none of its calibration images. Others would set the "
            "threshold by what was trained on. Give those, or train anew without --from."
        )
    if gone := len(ancestor.calibrated) - len(calibration):
        what = counted(gone, "calibration image")
        log.say(f"note: not there: {what} of {ancestor.bundle.folder}")
    if ancestor.trained_on is None:
        log.say("note: that model does not say what it was trained on: new images are trained on")
    if groups is not None:
        calibration, new = by_groups(of, calibration, new, ancestor, settings.data.group_by)
    _, added = split_calibration(
        [by_name[name] for name in new],
        fraction=settings.data.calibration_fraction,
        minimum=0,
        seed=settings.training.seed,
        groups=None if groups is None else [of[name] for name in new],
    )
    chosen = {by_name[name].path for name in calibration} | {sample.path for sample in added}
    return (
        [sample for sample in samples if sample.path not in chosen],
        [sample for sample in samples if sample.path in chosen],
    )


def run_fingerprint(good: str, defects: Sequence[Sample], ancestor: Ancestor | None) -> str:
    """Return the SHA-256 of all that a run learns from: that of its good images, if they are all.

    Args:
        good: of the good images, as ``fingerprint`` gives it.
        defects: known defects.
        ancestor: the model that it goes on from.

    Raises:
        DataError: if one of the defects cannot be read.
    """
    if not defects and ancestor is None:
        return good
    known = fingerprint_of(defects) if defects else ""
    begun = "" if ancestor is None else ancestor.bundle.weights_sha256
    return hashlib.sha256(f"{good}\n{known}\n{begun}\n".encode()).hexdigest()
