"""Whether a run fits its folder: the files that lie there, and what an earlier run wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from destseg.config import Settings, changed_settings, gone_on_with, recorded
from destseg.data.contents import changed_files, contents_of, fingerprint
from destseg.data.files import write_atomically
from destseg.data.labelled import files_of
from destseg.data.lists import some
from destseg.data.outputs import require_apart
from destseg.data.roi import Roi, is_other_region, read_roi
from destseg.data.samples import Sample, good_samples
from destseg.data.shapes import settled_size
from destseg.errors import SettingsError, TrainingError
from destseg.fields import HARMLESS, HARMLESS_WHEN_FINISHED
from destseg.inference.ancestor import Ancestor
from destseg.inference.bundle import TEXTURES, Bundle, load_bundle, recorded_in
from destseg.model_folder import (
    CALIBRATION,
    MANIFEST,
    ROI,
    SETTINGS,
    WEIGHTS,
    WRITTEN_BY_TRAINING,
    left_by_training,
    unfinished_models,
)
from destseg.training.checkpoint import Checkpoint
from destseg.training.good_parts import GoodParts, run_fingerprint


def refuse_files_of_others(folder: Path) -> None:
    """Refuse a folder in which a new run would replace files that no training left.

    Raises:
        TrainingError: naming them.
    """
    others = [place for place in _places(folder) if not left_by_training(place)]
    files = [place / name for place in others for name in WRITTEN_BY_TRAINING]
    # An empty file may be the log of a run that ended at once, and is no loss.
    if taken := [str(file) for file in files if file.exists() and file.stat().st_size]:
        raise TrainingError(
            f"{folder}: expected a new or empty folder, got files that no training left and that "
            f"this one would replace: {some(taken)}. Choose another --output, or move them away "
            "(--settings reads a file in any other folder)."
        )


def _places(folder: Path) -> list[Path]:
    return [folder, *unfinished_models(folder)]


def require_apart_from(
    folder: Path,
    data: str | Path,
    settings: Settings,
    *,
    resume: bool,
    defects: Sequence[Sample] = (),
    ancestor: Ancestor | None = None,
) -> None:
    """Refuse a folder in which the run would write over what it reads.

    Refuse, too, a region of interest that would be learned from as a good image.

    Raises:
        SettingsError: naming the file.
        DataError: if the good images cannot be found.
    """
    read = [sample.path for sample in good_samples(data)]
    region = None if resume else settings.data.roi
    if region is not None and Path(region).resolve() in {path.resolve() for path in read}:
        raise SettingsError(
            f"--roi: expected a mask that is not among the good images, got one of them: {region}. "
            "Move it out of their folder."
        )
    given = (settings.model.teacher_weights, region)
    read += [Path(path) for path in given if path]
    read += files_of(defects)
    if ancestor is not None:
        read += [ancestor.bundle.folder / name for name in (MANIFEST, WEIGHTS, CALIBRATION)]
    require_apart([place / name for place in _places(folder) for name in WRITTEN_BY_TRAINING], read)


def region_of_interest(
    settings: Settings, folder: Path, *, resume: bool, ancestor: Bundle | None = None
) -> Roi | None:
    """Return the region that a run inspects: that which it began with, or its ancestor has.

    Raises:
        ImageError, DataError: if its file cannot be used.
        TrainingError: if there is another in the file than it began with, or its ancestor has.
    """
    path, most = settings.data.roi, settings.data.max_pixels
    if path is None:
        return None
    if ancestor is None and not resume:
        return read_roi(path, max_pixels=most)
    begun = folder if ancestor is None else ancestor.folder
    roi = read_roi(begun / ROI, max_pixels=most) if ancestor is None else ancestor.roi()
    if is_other_region(path, roi, most):
        how = "with --overwrite" if ancestor is None else "without --from"
        raise TrainingError(
            f"--roi: expected the region that {begun} was trained with, got another in {path}. To "
            f"go on put its own there ({begun / ROI}); for another region train anew {how}."
        )
    return roi


def note_beginning(folder: Path, settings: Settings, roi: Roi | None) -> None:
    """Write what a run begins with and its resumption goes by: the settings, and the region."""
    write_atomically(folder / SETTINGS, settings.to_yaml())
    if roi is not None:
        write_atomically(folder / ROI, roi.to_png())


def settled(settings: Settings | None, saved: Checkpoint | None, data: str | Path) -> Settings:
    """Return the settings to run with, the image size in pixels.

    Raises:
        TrainingError: naming the settings that a resumed run cannot change.
        DataError: if the good images cannot be found.
    """
    earlier = None if saved is None else recorded(saved.settings)
    if settings is None and earlier is not None:
        return earlier
    settings = settled_size(settings or Settings.from_preset("fast"), data)
    if earlier is None or saved is None:
        return settings
    settings = gone_on_with(settings, saved.settings)
    differing = changed_settings(earlier, settings, HARMLESS)
    if differing:
        raise TrainingError(
            "these settings cannot change when a run is resumed:\n"
            + "\n".join(differing)
            + "\nLeave them out, or start anew with --overwrite."
        )
    return settings


def require_same_images(source: GoodParts, data: str | Path, saved: Checkpoint) -> None:
    """Refuse to go on with other images, or textures, than those that a run began with.

    Raises:
        TrainingError: if their names, number or contents differ.
    """
    if saved.textures_sha256 not in ("", source.textures_sha256):
        raise TrainingError(
            "--textures: expected the images of the run to be resumed, got others in "
            f"{recorded(saved.settings).synthesis.textures}. Restore them, or start anew with "
            "--overwrite."
        )
    names = source.names(source.training.paths)
    if (saved.images, saved.data_sha256) != (names, source.sha256):
        raise TrainingError(
            f"{data}: the training images are not those of the run to be resumed "
            f"({len(names)} now, {len(saved.images)} then, or other names or contents). "
            "Restore them, give the same --defects and --from, or start anew with --overwrite."
        )


def require_same_run(
    folder: Path,
    data: str | Path,
    settings: Settings | None,
    defects: Sequence[Sample] = (),
    ancestor: Ancestor | None = None,
) -> None:
    """Refuse to take a finished model for the result of another run than the one that is asked for.

    Args:
        folder: of the finished model.
        data: the good images asked for.
        settings: those asked for; ``None`` is those of the model.
        defects: the known defects asked for.
        ancestor: the model to go on from asked for.

    Raises:
        TrainingError: naming the settings that differ, and whether the images, the textures or the
            region do.
    """
    bundle = load_bundle(folder)
    differing = []
    if settings is not None:
        settings = gone_on_with(settled_size(settings, data), recorded_in(folder))
        differing += changed_settings(bundle.settings, settings, HARMLESS_WHEN_FINISHED)
    differing += changed_files(
        settings or bundle.settings, bundle.roi(), bundle.training.get(TEXTURES)
    )
    if bundle.training.get("data_sha256") != run_fingerprint(
        fingerprint(data, contents_of(each.path for each in good_samples(data))),
        defects,
        ancestor,
    ):
        has_more = (
            defects or ancestor or not {"known_defects", "ancestor"}.isdisjoint(bundle.training)
        )
        others = ", or other --defects or --from" if has_more else ""
        differing.append(
            f"  {data}: other images than then: their number, names or contents{others}"
        )
    if differing:
        raise TrainingError(
            f"{folder}: expected to resume this finished model's own run, got another:\n"
            + "\n".join(differing)
            + "\nThe model is finished: use it as it is, choose another --output, or replace it "
            "with --overwrite."
        )
