"""A bundle's model in INT8: as much of it as keeps its accuracy, with a threshold of its own."""

from __future__ import annotations

import functools
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.data.choice import evenly
from destseg.data.contents import each_once, root_of
from destseg.data.files import FileState, require_all_same, sha256_of_image, state_of
from destseg.data.groups import group_names
from destseg.data.images import padded
from destseg.data.lists import some
from destseg.data.samples import (
    Sample,
    good_samples,
    split_calibration,
    test_folder,
    test_samples,
)
from destseg.errors import BundleError, DataError, SettingsError
from destseg.evaluation.agreement import agreement
from destseg.evaluation.evaluate import Evaluation, evaluate
from destseg.evaluation.seen import Seen, without_learned
from destseg.exporting.export import export as export_fp32
from destseg.exporting.int8 import SCOPES, good_and_anomalous, quantized
from destseg.fields import EACH_IMAGE
from destseg.inference.backends import Backend, Runtime, open_backend
from destseg.inference.bundle import Bundle
from destseg.inference.calibrate import fit_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.exports import (
    Export,
    find_exports,
    load_export,
    require_place,
    save_export,
)
from destseg.inference.predictor import Predictor
from destseg.validation import at_least, one_of, problem

TIMED = 20

_METRICS = ("image_auroc", "pixel_ap")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Good images by what they are for.

    No image is in two of the sets, nor a copy of it.

    Attributes:
        ranges: those that the ranges of activations are measured on.
        judged: those on which INT8 is compared with fp32.
        calibration_images: those that fit the threshold.
        names: of the calibration images.
        contents: SHA-256 of each of them.
        states: of their files before that was taken.
        groups: of them, and by what; ``None`` where each counts by itself.
    """

    ranges: list[Path]
    judged: list[Path]
    calibration_images: list[Path]
    names: list[str]
    contents: list[str]
    states: Mapping[Path, FileState | None]
    groups: Sequence[str] | None = None
    group_by: str = EACH_IMAGE


def quantize(
    bundle: Bundle,
    data: str | Path,
    to: str,
    *,
    max_drop: float = 0.01,
    scope: str = "auto",
    count: int = 64,
    vnni: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> Export:
    """Write a bundle's model in INT8 into the bundle, if it stays accurate enough.

    As much of the network as possible is quantised: scopes are tried in the order of
    ``int8.SCOPES`` until image AUROC and pixel AP are within ``max_drop`` of fp32's: on good images
    and synthetic anomalies, and on the labelled images, where there are some.

    Args:
        bundle: the trained model.
        data: good images as for training; of a data set with labelled test images these count
            too.
        to: ``onnx`` or ``openvino``; exported in fp32 first where that is missing.
        max_drop: largest loss of image AUROC and of pixel AP that is accepted, as a fraction.
        scope: the name of one of ``int8.SCOPES``, or ``auto`` for the first that is accurate
            enough.
        count: good images that ranges are measured on, at least 2; of fewer than two times as many
            half, as INT8 is compared with fp32 on others, up to two times as many.
        vnni: for processors with VNNI alone; see ``int8.quantized``.
        on_step: called with what is being done, as it begins.

    Raises:
        SettingsError: if ``count`` is below 2, ``max_drop`` below 0, or the scope unknown.
        BundleError: if every scope loses more; the bundle is left as it was.
        ImageError: if an image cannot be read, or a calibration image is replaced meanwhile.
        DataError: if there are too few good images, or the bundle cannot be written to; known
            before the work.
        MissingExtraError: if the extras ``export`` or that of the runtime are not installed.
    """
    require_options(count=count, max_drop=max_drop, scope=scope)
    require_place(bundle)
    if to not in find_exports(bundle):
        on_step(f"exporting to {to} first")
        export_fp32(bundle, to, on_step)
    source = load_export(bundle, to)
    images = _images(bundle, data, count)
    roi = bundle.roi()
    drawn, *_ = good_and_anomalous(images.ranges, bundle.settings, roi, seed=0)
    made = np.stack([padded(image, bundle.settings.data.size) for image in drawn])
    checked = good_and_anomalous(images.judged, bundle.settings, roi, seed=1)
    fp32 = open_backend(bundle, Runtime(to, "cpu"))
    before = Predictor(bundle, fp32)
    labelled = functools.cache(lambda: _Labelled.of(before, data))  # of fp32 once
    tried: list[dict[str, Any]] = []
    for each in SCOPES:
        if scope not in ("auto", each.name):
            continue
        on_step(f"quantising {each.text}")
        files = quantized(bundle, source, made, each, vnni=vnni)
        with tempfile.TemporaryDirectory() as folder:
            int8, calibrated = _calibrated(bundle, f"{to}-int8", files, images, Path(folder))
            after = Predictor(calibrated, int8)
            on_step("comparing it with fp32 on good images and synthetic anomalies")
            agreed = agreement(_regionless(bundle, fp32), _regionless(calibrated, int8), *checked)
            tried.append({"scope": each.text, **agreed.to_json()})
            if not agreed.drop <= max_drop:  # NaN, where no anomaly was drawn, is no proof
                continue
            facts: dict[str, Any] = {
                "precision": "int8",
                "scope": each.text,
                "vnni": vnni,
                "images": len(made),
                "compared_on": len(checked[0]),
                "max_drop": max_drop,
                "tried": tried,
                "synthetic": agreed.to_json(),
            }
            if test_folder(data) is not None:
                on_step("comparing it with fp32 on the labelled images")
                if (new := labelled()) is not None:
                    measured = facts["labelled"] = new.measured(after)
                    pairs = tried[-1]["labelled"] = {name: measured[name] for name in _METRICS}
                    # One by one: a metric that labels do not give is NaN and would hide the other.
                    if any(fp32 - int8 > max_drop for fp32, int8 in pairs.values()):
                        continue
            facts["milliseconds"] = _milliseconds(before, after, made)
        require_all_same(images.states, "quantised")  # else it would have another image's hash
        return save_export(bundle, f"{to}-int8", files, facts, calibrated.calibration)
    less = scope not in ("auto", SCOPES[-1].name)
    way = " --scope auto tries to quantise less." if less else ""
    raise BundleError(
        f"{bundle.folder}: INT8 for {to} loses more than --max-drop {max_drop:g} of image AUROC "
        "or pixel AP on good images and synthetic anomalies, or on the labelled images, whatever "
        "stays in fp32:\n"
        + "\n".join(f"  {_told(one)}" for one in tried)
        + f"\nNothing was written.{way} Stay with fp32, accept a larger --max-drop, or for a "
        "processor with VNNI try --vnni."
    )


def require_options(*, count: int, max_drop: float, scope: str) -> None:
    """Refuse what makes no sense, before any work.

    Raises:
        SettingsError: naming every option that does not fit.
    """
    wrong = []
    if few := problem(count, int, at_least(2)):
        wrong.append(f"--images: {few}")
    if not max_drop >= 0:
        wrong.append(f"--max-drop: expected at least 0, got {max_drop}")
    if scope not in (known := ["auto", *(each.name for each in SCOPES)]):
        wrong.append(f"--scope: expected {one_of(known)}, got {scope!r}")
    if wrong:
        raise SettingsError("\n".join(wrong))


def _images(bundle: Bundle, data: str | Path, count: int) -> Images:
    """Keep the images apart that fit the threshold, as training did where they are the same."""
    found = good_samples(data)
    paths = [sample.path for sample in found]
    content_of = _Contents()
    contents = [content_of(path) for path in paths]
    good = {contents[place]: found[place] for place in each_once(paths, contents)}
    now = bundle.calibration
    lie = {} if now is None else _where_they_lie(now, root_of(data), good, content_of)
    groups: Sequence[str] | None = None
    if now is not None:
        _tell_gone(now, lie)
    if now is not None and lie:
        calibration_images = list(lie.values())
        names = [now.paths[place] for place in lie]
        groups = None if now.groups is None else [now.groups[place] for place in lie]
        group_by = now.group_by
    else:
        settings = bundle.settings
        group_by = settings.data.group_by
        learned = bundle.learned_sha256  # it would set the threshold too low
        new = [sample for content, sample in good.items() if content not in learned]
        of_all = group_names([(Path(data), [sample.path for sample in new])], settings.data)
        if of_all is not None:
            known = bundle.learned_among(of_all, group_by)
            new = [each for each, of in zip(new, of_all, strict=True) if of not in known]
            of_all = [of for of in of_all if of not in known]
        _, chosen = split_calibration(
            new,
            groups=of_all,
            fraction=settings.data.calibration_fraction,
            minimum=settings.data.calibration_minimum,
            seed=settings.training.seed,
        )
        calibration_images = [sample.path for sample in chosen]
        names = [path.as_posix() for path in calibration_images]
        if of_all is not None:
            by_path = {sample.path: group for sample, group in zip(new, of_all, strict=True)}
            groups = [by_path[path] for path in calibration_images]
    own = [content_of(path) for path in calibration_images]
    apart = set(own)
    others = [sample.path for content, sample in good.items() if content not in apart]
    if len(others) < 4 or not calibration_images:
        raise DataError(
            f"{data}: expected at least 4 good images beside those for the threshold, 2 to measure "
            "ranges on and 2 to compare INT8 with fp32 on, and at least 1 for the threshold, got "
            f"{len(others)} and {len(calibration_images)}. Add good images."
        )
    ranges = evenly(others, min(count, len(others) // 2))
    # What gave the ranges fits them best: it would say too little of the loss on other images.
    measured = set(ranges)
    judged = evenly([path for path in others if path not in measured], 2 * count)
    states = {path: content_of.states[path] for path in calibration_images}
    return Images(ranges, judged, calibration_images, names, own, states, groups, group_by)


class _Contents:
    """The SHA-256 of images, each read once, and the states of their files before that."""

    def __init__(self) -> None:
        self.states: dict[Path, FileState | None] = {}
        self._known: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        if path not in self._known:
            self.states[path] = state_of(path)
            self._known[path] = sha256_of_image(path)
        return self._known[path]


def _where_they_lie(
    calibration: Calibration,
    root: Path,
    good: Mapping[str, Sample],
    content_of: Callable[[Path], str],
) -> dict[int, Path]:
    """Return where images of a calibration lie, by their places in it.

    By their names in the data or as they were given, or anywhere in the data by their content.  One
    of the same name with another content is another image.

    Args:
        calibration: of the model.
        root: of the data.
        good: the images of the data by their SHA-256.
        content_of: gives the SHA-256 of an image.
    """
    found = {}
    for place, (name, content) in enumerate(
        zip(calibration.paths, calibration.contents, strict=True)
    ):
        there = [path for path in (root / name, Path(name)) if path.is_file()]
        same = [path for path in there if not content or content_of(path) == content]
        if content in good:
            same.append(good[content].path)
        if same:
            found[place] = same[0]
    return found


def _tell_gone(calibration: Calibration, lie: Mapping[int, Path]) -> None:
    gone = [path for place, path in enumerate(calibration.paths) if place not in lie]
    if not gone:
        return
    instead = f"the other {len(lie)}" if lie else "others of the data"
    _LOGGER.warning(
        "of the %d calibration images %d are not where they were: %s. So the threshold of INT8 is "
        "from %s; run this where the model was calibrated to have it from all",
        len(calibration.paths),
        len(gone),
        some(sorted(gone)),
        instead,
    )


def _calibrated(
    bundle: Bundle, name: str, files: dict[str, bytes], images: Images, folder: Path
) -> tuple[Backend, Bundle]:
    """Return what runs an INT8 form, and the bundle with a calibration of that."""
    scratch = replace(bundle, folder=folder)
    form = save_export(scratch, name, files, {})
    backend = open_backend(scratch, Runtime(name, "cpu"))
    settings = bundle.settings_now.replace(group_by=images.group_by)
    calibration = fit_calibration(
        Predictor(bundle, backend),
        images.calibration_images,
        images.names,
        settings,
        form.sha256,
        groups=images.groups,
        image_sha256=images.contents,
    )
    if bundle.calibration is not None:  # those of the model that it was made from
        calibration = replace(calibration, anomalies=bundle.calibration.anomalies)
    return backend, replace(bundle, calibration=calibration)


def _regionless(bundle: Bundle, backend: Backend) -> Predictor:
    """Return a predictor without the region of interest, for tiles that bring their parts of it."""
    return Predictor(replace(bundle, roi_sha256=None), backend)


@dataclass(frozen=True)
class _Labelled:
    """Labelled images that nothing was learned from, and what fp32 makes of them."""

    samples: Sequence[Sample]
    seen: Seen
    fp32: Evaluation

    @classmethod
    def of(cls, predictor: Predictor, data: str | Path) -> _Labelled | None:
        """Measure fp32 on the labelled images of a data set; ``None`` if there are no new ones."""
        samples, seen = without_learned(predictor, test_samples(data))
        for note in seen.notes:
            _LOGGER.warning("%s", note)
        if not samples:
            return None
        return cls(samples, seen, evaluate(predictor, samples, seen=seen))

    def measured(self, after: Predictor) -> dict[str, Any]:
        """Return how many images there are, and the metrics of fp32 and INT8 on them."""
        before, quantised = self.fp32, evaluate(after, self.samples, seen=self.seen)
        return {
            "images": before.coverage.given,
            "coverage": vars(before.coverage),
            "image_auroc": (before.image.auroc, quantised.image.auroc),
            "pixel_ap": (before.pixel.ap, quantised.pixel.ap),
        }


def _milliseconds(
    before: Predictor, after: Predictor, images: NDArray[np.uint8]
) -> tuple[float, float]:
    """Return the median time an image of both, one after the other so that both see the same."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(TIMED):
        for predictor, mine in zip((before, after), times, strict=True):
            begun = time.perf_counter()
            predictor.predict(images[number % len(images)])
            mine.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times[0])), float(np.median(times[1]))


def _told(tried: dict[str, Any]) -> str:
    told = f"{tried['scope']}: {_dropped(tried)}"
    if "labelled" in tried:
        told += f"; on the labelled images {_dropped(tried['labelled'])}"
    return told


def _dropped(metrics: Mapping[str, Any]) -> str:
    image, pixel = (metrics[name] for name in _METRICS)
    return (
        f"image AUROC {image[0]:.4f} -> {image[1]:.4f}, pixel AP {pixel[0]:.4f} -> {pixel[1]:.4f}"
    )
