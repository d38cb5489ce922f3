"""What there is to do for many categories: a job for each of them and each seed."""

from __future__ import annotations

import difflib
import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from destseg.config import Settings, changed_settings, gone_on_with, read_yaml, recorded_yaml
from destseg.data.contents import (
    changed_files,
    contents_of,
    fingerprint,
    textures_fingerprint,
)
from destseg.data.folders import folders_in
from destseg.data.lists import some
from destseg.data.names import is_good, is_split
from destseg.data.roi import read_roi
from destseg.data.samples import Sample, good_samples
from destseg.data.shapes import settled_size
from destseg.errors import DataError, SettingsError, TrainingError
from destseg.fields import HARMLESS, HARMLESS_WHEN_FINISHED
from destseg.inference.bundle import TEXTURES
from destseg.model_folder import (
    CHECKPOINT,
    LOG,
    MANIFEST,
    RESULT,
    ROI,
    SETTINGS,
    left_by_training,
    remove_model,
)

_LOGGER = logging.getLogger(__name__)

LEFT_BY_A_RUN = (RESULT, MANIFEST, CHECKPOINT)


@dataclass(frozen=True)
class Category:
    """One category of parts.

    Attributes:
        name: of its folder.
        data: good images to train on, as ``destseg.train`` takes them.
        test: labelled images to measure on; ``None`` takes those of ``data/test``, if any.
    """

    name: str
    data: Path
    test: tuple[Sample, ...] | None = None


@dataclass(frozen=True)
class TrainingJob:
    """One model to train and to measure.

    Attributes:
        category: what of.
        settings: with which, the seed among them.
        folder: of the model.
    """

    category: Category
    settings: Settings
    folder: Path

    @property
    def seed(self) -> int:
        """The seed that tells it from the category's other jobs."""
        return self.settings.training.seed

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.category.name}, seed {self.seed}"

    @property
    def state(self) -> Literal["finished", "begun", "new"]:
        """How far an earlier call has come with it."""
        if (self.folder / RESULT).is_file():
            return "finished"
        begun = any((self.folder / name).is_file() for name in LEFT_BY_A_RUN)
        return "begun" if begun else "new"


def find_categories(root: Path, output: Path) -> list[Category]:
    """Return the categories whose folders lie in a folder, by name; links are followed.

    Args:
        root: the folder of categories.
        output: where the models go; it is no category if it lies there too.

    Raises:
        DataError: if there is no such folder or none in it, or it is a category itself.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with a folder a category, got no such folder.")
    for own in (*folders_in(root, is_split), *folders_in(root, is_good)):
        raise DataError(
            f"{root}: expected a folder with a folder a category, got one category (it has "
            f"{own.name}/). Give the folder above it, or use destseg train."
        )
    folders = sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.resolve() != output.resolve()
    )
    if not folders:
        raise DataError(f"{root}: expected a folder with a folder a category, got no folder in it.")
    return [Category(folder.name, folder.absolute()) for folder in folders]


def settings_by_category(
    given: Path | Mapping[str, Mapping[str, Any]], known: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Check what of the settings is different for some categories.

    Given are the names of categories and under each its settings as flags without dashes, as
    values or in a YAML file::

        bottle: {rotation: 5, quarter_turns: true}
        cable: {rotation: 5, batch_size: 8}

    Raises:
        SettingsError: if a category is not known, or something else stands there; names all.
    """
    read = read_yaml(given) if isinstance(given, Path) else given
    values: dict[str, Any] = {str(name): own for name, own in read.items()}
    problems = [_unknown(name, known) for name in values if name not in known]
    problems += [
        f"{name}: expected settings such as {{rotation: 5}}, got {own!r}"
        for name, own in values.items()
        if not isinstance(own, Mapping)
    ]
    problems += [
        f"{name}: expected no seed, got {own['seed']!r}; seeds are the command's: --seeds"
        for name, own in values.items()
        if isinstance(own, Mapping) and "seed" in own
    ]
    if problems:
        where = given if isinstance(given, Path) else "per_category"
        raise SettingsError(f"{where}:\n" + "\n".join(f"  {line}" for line in problems))
    return {
        name: {str(key).replace("-", "_"): value for key, value in own.items()}
        for name, own in values.items()
    }


def make_jobs(
    categories: Iterable[Category],
    settings: Settings,
    seeds: Sequence[int],
    output: Path,
    by_category: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[TrainingJob]:
    """Return a job for each category and seed, in ``output/CATEGORY/seed-N``.

    Raises:
        SettingsError: naming every category whose own settings do not fit.
    """
    jobs, problems = [], []
    for category in categories:
        try:
            own = settings.replace(**(by_category or {}).get(category.name, {}))
        except SettingsError as error:
            problems.append(f"{category.name}: {error}")
            continue
        for seed in dict.fromkeys(seeds):
            folder = output.absolute() / category.name / f"seed-{seed}"
            jobs.append(TrainingJob(category, own.replace(seed=seed), folder))
    if problems:
        raise SettingsError("\n".join(problems))
    return jobs


def only(jobs: Sequence[TrainingJob], names: Sequence[str] | None) -> list[TrainingJob]:
    """Return the jobs of some categories; ``None`` is all.

    Raises:
        SettingsError: naming every category that is not there.
    """
    known = list(dict.fromkeys(job.category.name for job in jobs))
    unknown = [_unknown(name, known) for name in names or () if name not in known]
    if unknown:
        raise SettingsError("--only: " + "; ".join(unknown))
    return [job for job in jobs if names is None or job.category.name in names]


def require_same_runs(jobs: Iterable[TrainingJob]) -> None:
    """Refuse to take models for done, or to go on with them, that are of other settings or files.

    The files are those of finished jobs: good images, textures and the region of interest.  Of a
    begun one its resumption looks at them.

    Raises:
        TrainingError: naming them, and what differs.
    """
    problems, untold = other_runs(jobs)
    if problems:
        raise TrainingError(
            "expected the settings and files that these models were begun with, got others:\n"
            + "\n".join(problems)
            + "\nGive the same, choose another --output, or train anew with --overwrite."
        )
    if untold:
        _LOGGER.warning(
            "it is not known which images these finished models are of, so they are taken as they "
            "are: %s",
            some([str(folder) for folder in untold]),
        )


def other_runs(jobs: Iterable[TrainingJob]) -> tuple[list[str], list[Path]]:
    """Return which jobs are of other settings or files than now and how, and which do not tell."""
    problems = []
    files = _Files()
    for job in jobs:
        if job.state == "finished" and (differs := files.changed(job)):
            problems.append("\n".join([f"{job.folder} ({job.state}):", *differs]))
            continue
        written = job.folder / SETTINGS
        if job.state == "new" or not written.is_file():
            continue
        harmless = HARMLESS_WHEN_FINISHED if (job.folder / MANIFEST).is_file() else HARMLESS
        then = settled_size(recorded_yaml(written), job.category.data)
        asked = gone_on_with(job.settings, read_yaml(written))
        now = settled_size(asked, job.category.data)
        changed = changed_settings(then, now, harmless)
        if changed:
            problems.append("\n".join([f"{job.folder} ({job.state}):", *changed]))
    return problems, files.untold


class _Files:
    """What finished jobs were trained with, now and then; what several share is read once."""

    def __init__(self) -> None:
        self.untold: list[Path] = []
        self._good = functools.cache(_good_fingerprint)
        self._textures = functools.cache(textures_fingerprint)

    def changed(self, job: TrainingJob) -> list[str]:
        """Return how a job's images and region differ from those that it was trained with."""
        data, differing = job.category.data, list[str]()
        then, own = fact(job.folder, "data_sha256"), job.folder / ROI
        if then is None:
            self.untold.append(job.folder)
        try:
            if then is not None and self._good(data) != then:
                differing.append(
                    f"  {data}: other images than then: their number, names or contents"
                )
            roi = None
            if job.settings.data.roi is not None and own.is_file():
                roi = read_roi(own, max_pixels=job.settings.data.max_pixels)
            laid_over = fact(job.folder, TEXTURES)
            differing += changed_files(job.settings, roi, laid_over, self._textures)
        except DataError as error:
            differing.append(f"  {error}")
        return differing


def _good_fingerprint(data: Path) -> str:
    samples = good_samples(data, tell=lambda _: None)
    return fingerprint(data, contents_of(each.path for each in samples))


def fact(folder: Path, name: str) -> str | None:
    """Return what a finished job says of what it learned from; ``None`` where it does not say."""
    for file, within in ((RESULT, ()), (MANIFEST, ("training",))):
        try:
            facts = json.loads((folder / file).read_bytes())
            for key in within:
                facts = facts[key]
            return str(facts[name])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def measure_anew(jobs: Iterable[TrainingJob]) -> None:
    """Take away the results of finished jobs, but not their models."""
    for job in jobs:
        _LOGGER.warning("%s: other test images or threshold than then: measured anew", job.folder)
        (job.folder / RESULT).unlink()


def forget(jobs: Iterable[TrainingJob]) -> None:
    """Take away what belongs to a finished or begun job, so that it is done anew."""
    for job in jobs:
        if job.state == "new" and not left_by_training(job.folder):
            continue
        remove_model(job.folder)
        (job.folder / LOG).unlink(missing_ok=True)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f" of {', '.join(known)}"
    return f"expected a category, got {name!r}{hint}"
