"""What ``import destseg`` offers to call: each function is one task, from paths to a value.

Rooms are imported inside the functions, so that nothing is imported, and no extra asked for,
before it is needed.  Paths may be any ``os.PathLike``, with ``~`` for the home folder; numbers may
be NumPy's.  Functions that take a model take a ``Predictor`` or the folder of one, which they open
with the keywords of ``load``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

from destseg.config import PresetName, Room, Settings, recorded_yaml
from destseg.data.paths import AnyPath, expanded, require_given
from destseg.errors import DataError, SettingsError, needs_extra
from destseg.keywords import RuntimeKeywords, SettingsKeywords, shows
from destseg.model_folder import REPORT, SETTINGS
from destseg.validation import at_least, problem, scalar

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from destseg.batch_inspection.values import BatchCounts, BatchPlan
    from destseg.categories.job import JobOutcome
    from destseg.categories.plan import TrainingJob
    from destseg.categories.summary import CategorySummary
    from destseg.data.samples import Sample
    from destseg.evaluation.evaluate import Evaluation
    from destseg.inference.exports import Export
    from destseg.inference.parity import Parity
    from destseg.inference.predictor import ImageLike, Predictor
    from destseg.inference.recalibration import Recalibration
    from destseg.inference.result import Failure, Result
    from destseg.monitoring.check import DriftCheck
    from destseg.qualification.qualification import Qualification
    from destseg.watching.watch import Stop

OnProgress: TypeAlias = Callable[[int, int], object]
"""Is called with how many are done and how many there are."""

OnStep: TypeAlias = Callable[[str], object]
"""Is called with what is being done, as it begins."""


def _ignore(*_: object) -> None:
    """Take no notice."""


# --- making a model


@shows(SettingsKeywords)
def train(
    data: AnyPath,
    *,
    output: AnyPath,
    defects: AnyPath | None = None,
    ancestor: AnyPath | None = None,
    accept_losses: bool = False,
    settings: Settings | AnyPath | None = None,
    preset: PresetName | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    on_progress: OnProgress | None = None,
    **changes: Unpack[SettingsKeywords],
) -> Predictor:
    """Learn from good images and return the predictor; the model is saved in ``output``.

    Thread safety: it may be called in any thread.  Trainings in one process wait for one another,
    for PyTorch's random numbers are those of the process: draw none in other threads meanwhile.

    Args:
        data: a data set in MVTec's layout, a folder of good images, or a list of them.
        output: folder for the model, the log, the settings used and the saved state.
        defects: folder of known defects to learn from, and to measure on: one folder a type, with
            masks in ``ground_truth/TYPE/``, beside the images or as labelme's files.
        ancestor: folder of a finished model to go on from instead of training anew: only the heads
            learn, in a few minutes, with its settings; ``data`` has its good images and new ones.
        accept_losses: with ``ancestor``: keep the new model even if it does not find a defect that
            the ancestor found.
        settings: to start from, or a YAML file of them; ``None`` is the preset, or on resuming the
            settings of that run.
        preset: to start from: ``fast``, the default, or ``paper``; instead of ``settings``.
        resume: go on from the saved state in ``output`` to the same weights as without the break.
        overwrite: replace what an earlier run left in ``output``.
        quiet: print nothing; ``log.jsonl`` is written all the same.
        on_progress: called after each step, with the steps of all phases.
        **changes: any setting by its name: ``image_size=128``.

    Raises:
        DataError: if images are missing, unreadable or too few.
        SettingsError: if settings do not fit, or a file that is read would be written over.
        WeightsError: if there are no pretrained weights for the teacher.
        TrainingError: if ``output`` is taken, the state cannot be resumed, the loss is not finite,
            or a defect that the ancestor found is lost.
        BundleError: if the ancestor is no model that can be used.
        TrainingInterrupted: after SIGINT or SIGTERM; the state is saved.
        MissingExtraError: without the extra ``train``.
    """
    from destseg.data.outputs import require_apart

    folder = expanded(output)
    begun_with = folder / SETTINGS if resume else None
    if not (resume or overwrite):
        require_apart([folder / SETTINGS], _settings_file(settings))
    begin = None
    if ancestor is not None:
        from destseg.inference.ancestor import Ancestor

        begin = Ancestor.open(expanded(ancestor))
        if settings is None and not resume:
            if preset is not None:
                raise SettingsError(
                    "--from and --preset: expected one of them, got both: a model goes on with its "
                    "own settings; change single ones by their flags"
                )
            settings = begin.settings
    if accept_losses and begin is None:
        raise SettingsError("--accept-losses: expected --from BUNDLE with it, got none")
    chosen = _settings(settings, preset, changes, begun_with)
    with needs_extra("train", "training"):
        from destseg.training.train import train as run
    return run(
        expanded(data),
        output=folder,
        settings=chosen,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        on_progress=on_progress or _ignore,
        defects=None if defects is None else expanded(defects),
        ancestor=begin,
        accept_losses=accept_losses,
    )


@shows(SettingsKeywords)
def train_many(
    folder: AnyPath,
    *,
    output: AnyPath,
    settings: Settings | AnyPath | None = None,
    preset: PresetName | None = None,
    seeds: Iterable[int] | None = None,
    only: Iterable[str] | None = None,
    per_category: AnyPath | Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    cpus: int = 1,
    gpus: float = 0.0,
    retries: int = 3,
    address: str | None = None,
    on_progress: OnProgress | None = None,
    on_waiting: Callable[[Sequence[TrainingJob]], object] | None = None,
    on_outcome: Callable[[JobOutcome], object] | None = None,
    **changes: Unpack[SettingsKeywords],
) -> tuple[CategorySummary, ...]:
    """Train a model for each of many categories side by side, measure them, and sum them up.

    Models go to ``output/CATEGORY/seed-N``, the table to ``summary.json``, ``summary.csv`` and
    ``index.html``.  The same call again does what is missing.

    Thread safety: one call at a time in a process, which has one session of Ray.

    Args:
        folder: has one folder a category, each as ``train`` takes it.
        output: folder for the models and the table.
        settings: to start from, or a YAML file of them.
        preset: to start from, instead of ``settings``.
        seeds: a model for each; ``None`` is the one of the settings.
        only: names of categories; ``None`` is all.
        per_category: what of the settings is different for some, or a YAML file of it:
            ``{"bottle": {"image_size": 128}}``.
        overwrite: train anew what earlier calls left.
        cpus: of a job, and threads that it computes with.
        gpus: of a job; 0.5 lets two jobs share one.
        retries: how often a job goes on after its worker was lost.
        address: of a Ray cluster; ``None`` begins one on this machine and ends it afterwards.
        on_progress: called with the jobs that are done and those that there are to do: first with
            0, then after each.
        on_waiting: called about every second with the jobs that have no outcome yet.
        on_outcome: called with the outcome of each job.
        **changes: any setting by its name.

    Returns:
        A row a category, with a result or a reason for each seed; earlier calls' too.

    Raises:
        DataError: if there are no categories.
        SettingsError: if settings or resources do not fit.
        TrainingError: if models are there that are of other settings or images, or Ray fails.
        TrainingInterrupted: after SIGINT or SIGTERM; the states are saved.
        NotWrittenError: if all is done, but the table could not be written.
        MissingExtraError: without the extra ``ray``.
    """
    from destseg.categories.ray_jobs import Resources
    from destseg.categories.run import train_categories

    chosen = _settings(settings, preset, changes) or Settings()
    resources = Resources(scalar(cpus), scalar(gpus), scalar(retries), address)
    if isinstance(per_category, str | os.PathLike):
        per_category = expanded(per_category)
    return train_categories(
        expanded(folder),
        expanded(output),
        chosen,
        resources,
        seeds=[chosen.training.seed] if seeds is None else list(map(scalar, seeds)),
        only=None if only is None else list(only),
        per_category=per_category,
        inputs=_settings_file(settings),
        overwrite=overwrite,
        on_progress=on_progress or _ignore,
        on_waiting=on_waiting or _ignore,
        on_outcome=on_outcome or _ignore,
    )


@shows(SettingsKeywords)
def preview(
    data: AnyPath,
    output: AnyPath | None = None,
    *,
    count: int = 8,
    defects: AnyPath | None = None,
    settings: Settings | AnyPath | None = None,
    preset: PresetName | None = None,
    **changes: Unpack[SettingsKeywords],
) -> NDArray[np.uint8]:
    """Draw good images beside what training will make of them, and the masks.

    Thread safety: it may be called in several threads at once; of those that write one file,
    the last to finish wins as a whole.

    Args:
        data: good images, as for ``train``.
        output: image file for the sheet; ``None`` writes none.
        count: number of images.
        defects: folder of known defects, as for ``train``, which are drawn instead: in their own
            images, and cut out and laid onto good ones.
        settings: to start from, or a YAML file of them.
        preset: to start from, instead of ``settings``.
        **changes: any setting by its name.

    Returns:
        The sheet, uint8 RGB [height, width, 3].

    Raises:
        DataError: if there are no images, none can be read, or ``output`` cannot be written.
        SettingsError: if settings do not fit, a file that is read would be written over, or
            ``output`` lies in a folder that is read.
        MissingExtraError: without the extra ``train``.
    """
    if wrong := problem(scalar(count), int, at_least(1)):
        raise SettingsError(f"--count: {wrong}")
    chosen = _settings(settings, preset, changes) or Settings()
    with needs_extra("train", "the preview of synthetic anomalies"):
        from destseg.synthesis.preview import files_read, folders_read
        from destseg.synthesis.preview import preview as draw
    source, known = expanded(data), None if defects is None else expanded(defects)
    if output is None:
        return draw(source, chosen, scalar(count), known)
    from destseg.data.images import format_of, write_image
    from destseg.data.outputs import require_files, require_outside

    target = expanded(output)
    format_of(target)  # refuses a name before the work
    require_files([target], [*_settings_file(settings), *files_read(source, chosen, known)])
    require_outside(target, folders_read(source, chosen, known))
    sheet = draw(source, chosen, scalar(count), known)
    write_image(target, sheet)
    return sheet


# --- using a model


@shows(RuntimeKeywords)
def watch(
    model: Predictor | AnyPath,
    folder: AnyPath,
    output: AnyPath,
    *,
    move: AnyPath | None = None,
    once: bool = False,
    interval: float = 0.5,
    settle: float = 0.5,
    give_up: float = 10.0,
    stop: Stop | None = None,
    on_note: OnStep | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> Generator[Result | Failure]:
    """Inspect images as they arrive in a folder, and yield what was said of each.

    An image is yielded when its result is durably written.  Leave the loop, or let ``stop`` end it.

    Thread safety: calls with different results may run in several threads at once; a second one
    with the same results is refused.

    Args:
        model: a predictor, or the folder of a trained model.
        folder: where images arrive, at any depth.
        output: results: JSON lines (.jsonl) or SQLite (.db, .sqlite, .sqlite3); also the record of
            what is done, so that a new watch goes on from there.
        move: folder for what was inspected: good/, defective/ or failed/ in it; ``None`` leaves it.
        once: end when all that was there at the start is inspected.
        interval: seconds between two looks, at least.
        settle: an image is read when it has not changed for so many seconds.
        give_up: one that cannot be read fails when it has not changed for so many seconds.
        stop: a ``threading.Event``, or what waits like one; ends the watch after the image in hand.
        on_note: called with what a user should mend, or has come right.
        **runtime: as for ``load``, where ``model`` is a folder.

    Raises:
        SettingsError: if a time or ``output`` makes no sense; at once.
        DataError: if there is no such folder; at once.  When the first image is asked for: if
            results cannot be written, are of another folder, or another watch writes them.
        BundleError, MissingExtraError: if the model cannot be run; when the first is asked for.
    """
    import threading

    from destseg.data.outputs import require_apart
    from destseg.inference.bundle import own_files
    from destseg.watching.watch import Timing, watch_folder

    timing = Timing(scalar(interval), scalar(settle), scalar(give_up))
    place = expanded(folder)
    if not place.is_dir():
        raise DataError(
            f"{place}: expected a folder to watch, got {'a file' if place.exists() else 'none'}."
        )
    require_apart([expanded(output)], own_files(_folder(model)))
    return watch_folder(
        place,
        lambda: _predictor(model, runtime),
        expanded(output),
        move=None if move is None else expanded(move),
        timing=timing,
        once=once,
        say=on_note or _ignore,
        stop=threading.Event() if stop is None else stop,
    )


def batch(
    model: Predictor | AnyPath,
    source: AnyPath,
    output: AnyPath,
    *,
    partition_size: int | None = None,
    image_column: str | None = None,
    path_column: str | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    actors: int | None = None,
    cpus_per_actor: float = 1.0,
    gpus_per_actor: float = 0.0,
    address: str | None = None,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    cache: AnyPath | None = None,
    batch_size: int = 8,
    on_plan: Callable[[BatchPlan], object] | None = None,
    on_progress: OnProgress | None = None,
) -> BatchCounts:
    """Inspect very many stored images, on this machine or on a Ray cluster, into Parquet.

    After an interruption the same call goes on: every image is in the results once.

    Thread safety: one call at a time in a process, which has one session of Ray.

    Args:
        model: folder of a trained model, or a predictor of it; its files are sent to the workers.
        source: folder, glob, file, list or Parquet; a path, or a URI such as ``s3://``.
        output: folder for the results; a path or a URI.
        partition_size: images of a partition; ``None`` chooses by their number.
        image_column: of Parquet: has the bytes of images; ``None`` is the only one that does.
        path_column: of Parquet: names the images; ``None`` is FILE#ROW.
        overwrite: delete the results of another batch and begin anew.
        retry_failed: do partitions again that have images that could not be read.
        actors: processes with a model each; ``None`` is as many as the machines hold.
        cpus_per_actor: CPUs of each, also parts of one.
        gpus_per_actor: GPUs of each, also parts of one.
        address: of a Ray cluster; ``None`` begins one on this machine and ends it afterwards.
        backend: as for ``load``, in each process; so are the next four.
        device: where.
        threads: CPU threads; ``None`` is as many as an actor has CPUs.
        cache: folder for what OpenVINO compiles.
        batch_size: images or tiles that go through the networks together.
        on_plan: called once with what there is to do.
        on_progress: called with the images that are done, with those of earlier calls, and how
            many there are.

    Returns:
        The counts of the whole batch.

    Raises:
        DataError: if there is nothing to inspect, the output holds another batch, or Ray fails.
        BundleError: if the model cannot be used.
        SettingsError: if a number, a backend or the output makes no sense.
        MissingExtraError: without the extra ``ray``, or that of the backend.
    """
    with needs_extra("ray", "inspecting a batch"):
        from destseg.batch_inspection.run import Options, inspect_stored
    from destseg.inference.backends import Runtime
    from destseg.ray_session import Needs

    options = Options(
        Runtime(backend, device, scalar(threads), None if cache is None else expanded(cache)),
        batch_size=scalar(batch_size),
        actors=scalar(actors),
        needs=Needs(scalar(cpus_per_actor), scalar(gpus_per_actor)),
        address=address,
        partition_size=scalar(partition_size),
        image_column=image_column,
        path_column=path_column,
        overwrite=overwrite,
        retry_failed=retry_failed,
    )
    return inspect_stored(
        str(_folder(model)),
        _place(source),
        _place(output),
        options,
        on_plan=on_plan or _ignore,
        on_progress=on_progress or _ignore,
    )


@shows(RuntimeKeywords)
def create_app(
    models: Predictor
    | AnyPath
    | Sequence[AnyPath]
    | Mapping[str, Predictor | AnyPath | Callable[[], Predictor]],
    *,
    token: str | None = None,
    queue: int = 64,
    deadline: float = 10.0,
    max_bytes: int = 32 * 2**20,
    **runtime: Unpack[RuntimeKeywords],
) -> FastAPI:
    """Return the ASGI application that answers images over HTTP; ``destseg serve`` runs it.

    Thread safety: requests may come from any number of threads, and in processes that are forked
    after it.  A model's images go through it in one thread, in batches.

    Args:
        models: folders of trained models, served under the folders' names, or ``NAME=FOLDER``; or
            by name a folder, a predictor, or a function that gives one, at the start and at each
            reload.  The first is the default.
        token: what callers must show as ``Authorization: Bearer``; ``None`` lets everybody in.
        queue: images of a model that may wait or be in work; more are answered 503.
        deadline: seconds for a request, its reading included; then it is answered 504.
        max_bytes: largest body; more is answered 413.
        **runtime: as for ``load``, for the models that are given by folder.

    Raises:
        SettingsError: if two models have one name, the token is blank, or a number makes no sense.
        BundleError: if a model cannot be loaded.
        MissingExtraError: without the extra ``serve``, or that of a backend.
    """
    with needs_extra("serve", "serving over HTTP"):
        from destseg.serving.app import create_app as run
        from destseg.serving.models import openers
        from destseg.serving.requests import Limits
    from destseg.inference.predictor import Predictor

    if isinstance(models, Predictor):
        models = {models.bundle.folder.absolute().name: models}
    if isinstance(models, Mapping):
        opened = {name: _opener(each, runtime) for name, each in models.items()}
    else:
        several = [models] if isinstance(models, str | os.PathLike) else models
        opened = openers(several, **runtime)
    limits = Limits(scalar(max_bytes), scalar(queue), scalar(deadline))
    return run(opened, limits=limits, token=token)


# --- knowing a model


@shows(RuntimeKeywords)
def evaluate(
    model: Predictor | AnyPath,
    data: AnyPath | Sequence[Sample],
    *,
    output: AnyPath | None = None,
    by_image: AnyPath | None = None,
    exact: bool = True,
    on_progress: OnProgress | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> Evaluation:
    """Measure a model on images whose defects are known.

    What cannot be read costs its row: see ``Evaluation.failures``.  Images that the model learned
    from are left out with a warning, as figures of them would flatter: see ``Evaluation.notes``.

    Thread safety: it may be called in several threads at once; of those that write one file,
    the last to finish wins as a whole.

    Args:
        model: a predictor, or the folder of a trained model.
        data: a data set in MVTec's layout, a CSV of labels, or samples.
        output: JSON file for the metrics; ``None`` writes none.
        by_image: .csv or .parquet file for a row an image; ``None`` writes none.
        exact: hold all maps for exact metrics; else bounded memory, pixel metrics within 1e-4.
        on_progress: called after each image.
        **runtime: as for ``load``, where ``model`` is a folder.

    Raises:
        DataError: if there are no labelled images, the model learned from all of them, or an output
            cannot be written to.
        SettingsError: if an output is one of the inputs, or of no kind that is written.
        BundleError: if the model cannot be used.
        NotWrittenError: if all is measured, but a file could not be written.
        MissingExtraError: if nothing is installed that can run the model, or write Parquet.
    """
    from destseg.data.outputs import require_files, write_each
    from destseg.evaluation import evaluate as measuring
    from destseg.evaluation.writing import require_table, write_metrics, write_records

    samples, read = _samples(data)
    metrics = None if output is None else expanded(output)
    rows = None if by_image is None else expanded(by_image)
    if rows:
        require_table(rows)
    require_files(filter(None, (metrics, rows)), [*read, *_own_files(model)])
    predictor = _predictor(model, runtime)
    found = measuring.evaluate(predictor, samples, exact=exact, on_progress=on_progress or _ignore)
    writes: dict[Path, Callable[[], object]] = {}
    if metrics:
        writes[metrics] = lambda: write_metrics(metrics, found)
    if rows:
        writes[rows] = lambda: write_records(rows, found.records)
    write_each(writes, found)
    return found


@shows(RuntimeKeywords)
def report(
    model: Predictor | AnyPath,
    data: AnyPath | Sequence[Sample],
    output: AnyPath | None = None,
    *,
    on_progress: OnProgress | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> Evaluation:
    """Measure a model as ``evaluate`` does, and write one HTML file that shows all of it.

    Thread safety: it may be called in several threads at once; of those that write one file,
    the last to finish wins as a whole.

    Args:
        model: a predictor, or the folder of a trained model.
        data: a data set in MVTec's layout, a CSV of labels, or samples.
        output: the HTML file; ``None`` is ``report.html`` in the model's folder.
        on_progress: called after each image.
        **runtime: as for ``load``, where ``model`` is a folder.

    Raises:
        DataError: if there are no labelled images, the model learned from all of them, or
            ``output`` cannot be written to.
        SettingsError: if the output is one of the inputs.
        BundleError: if the model cannot be used.
        NotWrittenError: if all is measured, but the file could not be written.
        MissingExtraError: if nothing is installed that can run the model.
    """
    from destseg.data.outputs import require_files, write_each
    from destseg.evaluation.model_report import report_on
    from destseg.evaluation.page import write_report

    samples, read = _samples(data)
    target = _folder(model) / REPORT if output is None else expanded(output)
    require_files([target], [*read, *_own_files(model)])
    predictor = _predictor(model, runtime)
    found, page = report_on(_name_of(data, samples), predictor, samples, on_progress or _ignore)
    write_each({target: lambda: write_report(target, page)}, found)
    return found


def compare(
    model: Predictor | AnyPath,
    images: AnyPath | Iterable[ImageLike] | None = None,
    *,
    limit: int = 32,
    threads: int | None = None,
) -> Parity:
    """Ask all that can run a model here about the same images, and say where they differ.

    Thread safety: it may be called in several threads at once.

    Args:
        model: folder of a trained model, or a predictor of it.
        images: folder, list or file, or images as ``Predictor.predict`` takes them; ``None`` makes
            some up.
        limit: images at most, spread evenly over those that there are.
        threads: CPU threads of each runtime; ``None`` leaves the number to them.

    Raises:
        BundleError: if the model is missing or changed.
        DataError: if there are no images that can be read.
        SettingsError: if a number makes no sense.
    """
    from destseg.data.choice import evenly
    from destseg.data.samples import find_images
    from destseg.inference.bundle import load_bundle
    from destseg.inference.parity import compare_all, example_images

    if wrong := problem(scalar(limit), int, at_least(1)):
        raise SettingsError(f"--limit: {wrong}")
    bundle = load_bundle(_folder(model))
    if images is None:
        chosen: list[ImageLike] = [*example_images(8, bundle.settings.data.size)]
    elif isinstance(images, str | os.PathLike):
        # Spread over the folder: its first images are often all of one kind.
        chosen = [*evenly(find_images(expanded(images)), scalar(limit))]
    else:
        chosen = evenly(list(images), scalar(limit))
    return compare_all(bundle, chosen, scalar(threads))


@shows(RuntimeKeywords)
def drift(
    model: Predictor | AnyPath,
    images: AnyPath | Iterable[AnyPath],
    *,
    state: AnyPath | None = None,
    output: AnyPath | None = None,
    alarm_rate: float = 0.01,
    seed: int | None = None,
    on_progress: OnProgress | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> DriftCheck:
    """Say whether the scores of good-looking images still come as they came.

    Thread safety: it may be called in several threads at once, but calls with one state file
    must follow one another.

    Args:
        model: a predictor, or the folder of a trained model, which runs only if there are images.
        images: files, folders or lists of images, or the results of ``Predictor``, ``watch`` and
            ``batch`` (.jsonl, SQLite, a folder of Parquet), in the order of time.
        state: JSON file to go on from, if it is there, and to write anew; ``None`` begins at the
            calibration images and keeps nothing.
        output: file for a JSON line an image; ``None`` writes none.
        alarm_rate: highest probability of ever giving an alarm without a change.
        seed: of the random numbers that order equal scores; ``None`` is the state's, else 0.
        on_progress: called after each image that is inspected.
        **runtime: as for ``load``, where ``model`` is a folder.

    Raises:
        DataError: if images or results cannot be used, or are of another model.
        SettingsError: if the rate or the seed makes no sense, or an output is one of the inputs.
        BundleError: if the model cannot be used.
        NotWrittenError: if the check is done, but a file could not be written; the state is the
            last, so the same images can be given again.
        MissingExtraError: if nothing is installed that can run the model, or read Parquet.
    """
    from destseg.inference.backends import Runtime
    from destseg.inference.bundle import Bundle, load_bundle
    from destseg.inference.exports import bundle_for
    from destseg.inference.predictor import Predictor
    from destseg.monitoring.check import check_drift

    def bundle() -> Bundle:
        if isinstance(model, Predictor):
            return _predictor(model, runtime).bundle
        backend = Runtime(runtime.get("backend", "auto")).backend
        return bundle_for(load_bundle(_folder(model)), backend)

    given = [images] if isinstance(images, str | os.PathLike) else images
    return check_drift(
        _folder(model),
        bundle,
        lambda: _predictor(model, runtime),
        list(map(expanded, given)),
        state=None if state is None else expanded(state),
        output=None if output is None else expanded(output),
        alarm_rate=scalar(alarm_rate),
        seed=scalar(seed),
        on_progress=on_progress or _ignore,
    )


@shows(RuntimeKeywords)
def qualify(
    model: Predictor | AnyPath,
    good: AnyPath | Iterable[AnyPath],
    output: AnyPath | None = None,
    *,
    mm_per_pixel: float | None = None,
    sizes: Iterable[float] | None = None,
    contrasts: Iterable[float] = (10, 20, 40, 80),
    trials: int = 10,
    images: int = 60,
    repeats: AnyPath | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> Qualification:
    """Say how small a defect a model finds, where it misses some, and what changes it bears.

    Defects are drawn on good images.  The same call gives the same value and the same files.

    Thread safety: it may be called in several threads at once; of those that write one file,
    the last to finish wins as a whole.

    Args:
        model: a predictor, or the folder of a trained model.
        good: folder or list of good images, or such images, that the model was not trained on;
            each counts once, however often and under whatever names it is given.
        output: HTML file for the report; its values go beside it as .json; ``None`` writes none.
        mm_per_pixel: millimetres that a pixel of the images shows; ``None`` gives pixels alone.
        sizes: largest extents of drawn defects in pixels, rising, at least two; ``None`` chooses
            six, from two pixels of the model's to a quarter of the images' shorter side.
        contrasts: in grey levels of 255, rising, in (0, 127].
        trials: drawn defects for each family, size and contrast; all else grows with it.
        images: good images at most, evenly spread over those given.
        repeats: folder with a folder a part, with at least two shots in each, or in that a folder
            a condition with the shots in it; ``None`` leaves the gauge study out.
        seed: of all that is random.
        on_progress: called with the inspections that are done and how many there are at most.
        **runtime: as for ``load``, where ``model`` is a folder.

    Raises:
        DataError: if there are no good images to draw on, shots are missing, or an output cannot
            be written to.
        SettingsError: if a number makes no sense, or an output is one of the inputs.
        BundleError: if the model cannot be used.
        NotWrittenError: if all is measured, but a file could not be written.
        MissingExtraError: if nothing is installed that can run the model.
    """
    from destseg.data.contents import each_once
    from destseg.data.outputs import require_files, write_each
    from destseg.inference.recalibration import new_good_images, require_not_learned
    from destseg.qualification.gauge import repeats_in, shots_in
    from destseg.qualification.page import write_json, write_page
    from destseg.qualification.qualification import Plan, measure

    plan = Plan(
        sizes=() if sizes is None else tuple(float(scalar(each)) for each in sizes),
        contrasts=tuple(float(scalar(each)) for each in contrasts),
        trials=scalar(trials),
        images=scalar(images),
        seed=scalar(seed),
        mm_per_pixel=scalar(mm_per_pixel),
    )
    flatters = "Images that the model was trained on would make it look better than it is."
    given = [good] if isinstance(good, str | os.PathLike) else good
    paths = [path for each in given for path in new_good_images(expanded(each), flatters)]
    study = None if repeats is None else repeats_in(expanded(repeats))
    page = None if output is None else expanded(output)
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--output: expected a file ending in .html, got {page}")
    targets = [] if page is None else [page, page.with_suffix(".json")]
    require_files(targets, [*paths, *shots_in(study or []), *_own_files(model)])
    predictor = _predictor(model, runtime)
    once = each_once(paths, require_not_learned(predictor.bundle, paths, flatters))
    paths = [paths[place] for place in once]
    require_not_learned(predictor.bundle, shots_in(study or []), flatters)
    found = measure(predictor, paths, plan, study, on_progress or _ignore)
    if page is not None:
        values = page.with_suffix(".json")
        write_each(
            {page: lambda: write_page(page, found), values: lambda: write_json(values, found)},
            found,
        )
    return found


# --- changing a model


@shows(RuntimeKeywords)
def calibrate(
    model: Predictor | AnyPath,
    good: AnyPath | Iterable[AnyPath] | None = None,
    *,
    add: bool = False,
    group_by: str | None = None,
    max_false_alarm_rate: float | None = None,
    confidence: float | None = None,
    room: Room | None = None,
    restore: str | None = None,
    on_progress: OnProgress | None = None,
    **runtime: Unpack[RuntimeKeywords],
) -> Recalibration:
    """Fit the thresholds of a model's folder anew; nothing is trained or exported again.

    The old ones are kept beside the new.  A predictor that is open keeps its own: load it anew.

    Thread safety: calls on different models may run in several threads at once; those on one
    model must follow one another.

    Args:
        model: folder of a trained model, or a predictor of it.
        good: folder or list of good images, or such images, that the model was not trained on;
            ``None`` keeps the scores and changes the rate alone.
        add: add them to the calibration images that there are, instead of replacing these.
        group_by: what the images have in common, as the setting of that name says; ``None`` keeps
            it as it was.
        max_false_alarm_rate: fraction of good parts that may be called defective; ``None`` keeps
            it.
        confidence: with which that rate is to hold, in [0, 1), 0 in the mean; ``None`` keeps it.
        room: how far the threshold rises towards synthetic anomalies, in [0, 1], or ``auto``;
            ``None`` keeps it.
        restore: name of a kept calibration to go back to, alone.
        on_progress: called after each image, with those of all forms.
        **runtime: as for ``load``, where ``model`` is a folder; quantised forms run on the CPU, and
            a quantised backend or predictor stands for the form that it was made from.

    Raises:
        DataError: if good images are missing or are those of the training, if there is nothing to
            change, or the folder cannot be written to; if an image's group is not known, or it is
            there already.
        SettingsError: if the rate, the confidence or the room is out of its range or there can be
            no room, ``restore`` is not alone, or ``group_by`` is none or another one than that
            which is added to.
        BundleError: if the model or a kept calibration cannot be used.
        MissingExtraError: if nothing is installed that can run the model.
    """
    from destseg.data.groups import group_names
    from destseg.inference.bundle import load_bundle
    from destseg.inference.exports import find_exports
    from destseg.inference.predictor import load
    from destseg.inference.recalibration import calibrate_forms, new_good_images

    folder = _folder(model)

    def open_form(name: str | None) -> Predictor:
        if name is not None:
            # The device is that of the fp32 form; quantised ones are made for processors.
            own: RuntimeKeywords = {**runtime, "backend": name, "device": "cpu"}
            return load(folder, **own)
        opened = _predictor(model, runtime)
        if not opened.backend_name.endswith("-int8"):
            return opened
        made_from = opened.backend_name.removesuffix("-int8")
        there = made_from in find_exports(opened.bundle)
        plain: RuntimeKeywords = {**runtime, "backend": made_from if there else "auto"}
        return load(folder, **plain)

    if isinstance(good, str | os.PathLike):
        good = [good]
    sources = [expanded(each) for each in good or ()]
    found = [(source, new_good_images(source)) for source in sources]
    return calibrate_forms(
        load_bundle(folder),
        open_form,
        None if good is None else [path for _, paths in found for path in paths],
        groups=lambda settings: group_names(found, settings.data),
        group_by=group_by,
        add=add,
        max_false_alarm_rate=scalar(max_false_alarm_rate),
        confidence=scalar(confidence),
        room=scalar(room),
        restore=restore,
        on_progress=on_progress or _ignore,
    )


def export(
    model: Predictor | AnyPath,
    to: Literal["onnx", "openvino"],
    *,
    on_step: OnStep | None = None,
) -> Export:
    """Write a model as ONNX or OpenVINO into its folder, and check that it gives the same maps.

    Thread safety: one call at a time in a process: PyTorch's exporter is not made for threads.

    Args:
        model: folder of a trained model, or a predictor of it.
        to: ``onnx`` or ``openvino``.
        on_step: called with what is being done, as it begins.

    Raises:
        BundleError: if the network cannot be exported, or gives other maps; nothing is left then.
        DataError: if the folder cannot be written to.
        SettingsError: if there is no such form.
        MissingExtraError: without the extra ``export``.
    """
    from destseg.inference.bundle import load_bundle

    _require_form(to)
    bundle = load_bundle(_folder(model))
    with needs_extra("export", "exporting a model"):
        from destseg.exporting.export import export as run
    return run(bundle, to, on_step or _ignore)


def quantize(
    model: Predictor | AnyPath,
    data: AnyPath,
    to: Literal["onnx", "openvino"] = "openvino",
    *,
    max_drop: float = 0.01,
    scope: Literal["auto", "all", "convolutions", "head"] = "auto",
    images: int = 64,
    vnni: bool = False,
    on_step: OnStep | None = None,
) -> Export:
    """Write a model in INT8 into its folder, if it stays accurate enough.

    Thread safety: one call at a time in a process: PyTorch's exporter is not made for threads.

    Args:
        model: folder of a trained model, or a predictor of it.
        data: good images, as for training; labelled test images there are measured on too.
        to: ``openvino`` or ``onnx``.
        max_drop: largest loss of image AUROC and of pixel AP, as a fraction.
        scope: what is quantised: ``all``, ``convolutions`` or ``head``; ``auto`` is the first of
            them that is accurate enough.
        images: good images that ranges are measured on, at least 2.
        vnni: use the weights' full range, which overflows on processors without VNNI.
        on_step: called with what is being done, as it begins.

    Returns:
        The form, with its own calibration; its facts have what was measured.

    Raises:
        BundleError: if it loses more than ``max_drop`` whatever is quantised; nothing is left then.
        DataError: if there are too few good images, or the folder cannot be written to.
        SettingsError: if an argument makes no sense.
        MissingExtraError: without the extra ``export``.
    """
    from destseg.inference.bundle import load_bundle

    _require_form(to)
    with needs_extra("export", "quantising a model"):
        from destseg.exporting.quantize import quantize as run
        from destseg.exporting.quantize import require_options
    require_options(count=images, max_drop=max_drop, scope=scope)
    return run(
        load_bundle(_folder(model)),
        expanded(data),
        to,
        max_drop=scalar(max_drop),
        scope=scope,
        count=scalar(images),
        vnni=vnni,
        on_step=on_step or _ignore,
    )


# --- what they have in common


def _settings(
    settings: Settings | AnyPath | None,
    preset: str | None,
    changes: SettingsKeywords,
    fallback: Path | None = None,
) -> Settings | None:
    """Return settings with changes; ``None`` where nothing was said of them."""
    if settings is not None and preset is not None:
        raise SettingsError("settings: expected settings or a preset to start from, got both")
    if settings is None and preset is None and not changes:
        return None
    if isinstance(settings, Settings):
        base = settings
    elif settings is not None:
        base = Settings.from_yaml(expanded(settings))
    elif preset is None and fallback is not None and fallback.is_file():
        base = recorded_yaml(fallback)
    else:
        base = Settings.from_preset(preset or "fast")
    return base.replace(**changes)


def _settings_file(settings: Settings | AnyPath | None) -> list[Path]:
    """Return the file that settings are read from, if they are; no result may replace it."""
    return [expanded(settings)] if isinstance(settings, str | os.PathLike) else []


def _folder(model: Predictor | AnyPath) -> Path:
    return expanded(model) if isinstance(model, str | os.PathLike) else model.bundle.folder


def _own_files(model: Predictor | AnyPath) -> Iterable[Path]:
    from destseg.inference.bundle import own_files

    return own_files(_folder(model))


def _predictor(model: Predictor | AnyPath, runtime: RuntimeKeywords) -> Predictor:
    from destseg.inference.predictor import load

    if isinstance(model, str | os.PathLike):
        return load(model, **runtime)
    if runtime:
        raise SettingsError(
            f"{', '.join(runtime)}: expected the folder of a model to open with it, got a "
            "predictor, which is open; give it to destseg.load"
        )
    return model


def _opener(
    model: Predictor | AnyPath | Callable[[], Predictor], runtime: RuntimeKeywords
) -> Callable[[], Predictor]:
    from destseg.inference.predictor import load

    if isinstance(model, str | os.PathLike):
        return lambda: load(model, **runtime)
    return model if callable(model) else lambda: model


def _samples(data: AnyPath | Sequence[Sample]) -> tuple[Sequence[Sample], list[Path]]:
    """Return labelled samples, and the files that are read for them."""
    from destseg.data.labelled import files_of, labelled_samples
    from destseg.data.samples import Sample, require_clear

    if isinstance(data, str | os.PathLike):
        source = expanded(data)
        samples: Sequence[Sample] = labelled_samples(source)
        return samples, [source, *files_of(samples)]
    for each in data:
        if not isinstance(each, Sample):
            raise DataError(
                "data: expected a data set's folder, a table (.csv) or values of destseg.Sample, "
                f"got {each!r} among these. Say what is known of each image: "
                "Sample(path, defect_type)."
            )
    require_clear("data", data)
    return data, list(files_of(data))


def _name_of(data: AnyPath | Sequence[Sample], samples: Sequence[Sample]) -> Path:
    """Return the data set: its name heads the report."""
    if isinstance(data, str | os.PathLike):
        return expanded(data)
    if not samples:  # which evaluating them refuses
        return Path()
    return Path(os.path.commonpath([sample.path.absolute().parent for sample in samples]))


def _place(path: AnyPath) -> str:
    """Return a path or a URI as text: URIs are no paths."""
    require_given(path)
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111


def _require_form(to: str) -> None:
    if to not in ("onnx", "openvino"):
        raise SettingsError(f"--to: expected onnx or openvino, got {to!r}")
