"""From a folder of categories to a model for each, measured, and a table of all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from destseg.categories import plan, ray_jobs
from destseg.categories.job import JobOutcome, finished, measured_otherwise
from destseg.categories.plan import TrainingJob
from destseg.categories.ray_jobs import Resources
from destseg.categories.summary import CategorySummary, rows_of
from destseg.categories.summary_files import FILES, write_summary
from destseg.config import Settings
from destseg.data.outputs import require_files, write_each
from destseg.errors import SettingsError

_LOGGER = logging.getLogger(__name__)


def train_categories(
    folder: Path,
    output: Path,
    settings: Settings,
    resources: Resources,
    *,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
    per_category: Path | Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] = lambda *_: None,
    on_waiting: Callable[[Sequence[TrainingJob]], object] = lambda _: None,
    on_outcome: Callable[[JobOutcome], object] = lambda _: None,
) -> tuple[CategorySummary, ...]:
    """Train a model for each category and seed, measure it, and write a table of all.

    Args:
        folder: has one folder a category.
        output: gets the models and the table.
        settings: of all.
        resources: of each job.
        seeds: a model each.
        only: names of categories; ``None`` is all.
        per_category: what of the settings is different for some: values by field by category, or a
            YAML file of them.
        inputs: files that are read and that no result may replace.
        overwrite: train anew what earlier calls left.
        on_progress: called with the jobs that are done and those that are to be.
        on_waiting: called about every second with the jobs that have no outcome yet.
        on_outcome: called with the outcome of each job.

    Returns:
        A row a category, also of those that earlier calls have finished.

    Raises:
        SettingsError, DataError, TrainingError: if it cannot begin; see ``plan`` and ``ray_jobs``.
        NotWrittenError: if all is done, but the table could not be written.
    """
    if settings.training.device.startswith("cuda") and not resources.gpus:
        raise SettingsError(
            f"--gpus: expected more than 0 for --device {settings.training.device}, got 0"
        )
    categories = plan.find_categories(folder, output)
    if isinstance(per_category, Path):
        inputs = [*inputs, per_category]
    names = [each.name for each in categories]
    own = plan.settings_by_category(per_category or {}, names)
    jobs = plan.make_jobs(categories, settings, seeds, output, own)
    chosen = plan.only(jobs, only)
    require_files([output / name for name in FILES], inputs)
    if overwrite:
        plan.forget(chosen)
    else:
        plan.require_same_runs(chosen)
        plan.measure_anew(filter(measured_otherwise, chosen))
    _tell_of_other_rows([job for job in jobs if job not in chosen and job.state == "finished"])
    done = {job: outcome for job in jobs if (outcome := finished(job))}
    missing = [job for job in chosen if job not in done]
    on_progress(0, len(missing))
    outcomes = ray_jobs.run_on_ray(missing, resources, on_waiting)
    for number, outcome in enumerate(outcomes, 1):
        on_outcome(outcome)
        on_progress(number, len(missing))
        done[outcome.job] = outcome
    # Those of earlier calls too, so that a choice of some does not make the table shorter.
    rows = tuple(rows_of(done[job] for job in jobs if job in done))
    write_each({output: lambda: write_summary(output, rows)}, rows)
    return rows


def _tell_of_other_rows(jobs: Sequence[TrainingJob]) -> None:
    """Warn of rows that the table keeps though a call for all would refuse or measure them anew."""
    differing, _ = plan.other_runs(jobs)
    differing += [
        f"{job.folder}: other test images or threshold than then"
        for job in jobs
        if measured_otherwise(job)
    ]
    if differing:
        _LOGGER.warning(
            "the table keeps rows of other settings or files than now; to renew them, leave out "
            "--only:\n%s",
            "\n".join(differing),
        )
