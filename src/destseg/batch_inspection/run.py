"""Very many stored images on Ray Data: restartable, every image once in the results."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions

from destseg.as_found import without_remarks
from destseg.batch_inspection.inspector import TRIES, Inspector, Work, hash_of, pack
from destseg.batch_inspection.job import begin, complete, finished
from destseg.batch_inspection.partitions import Piece, fingerprint
from destseg.batch_inspection.schema import count, row, to_parquet
from destseg.batch_inspection.storage import Storage, absolute, is_uri
from destseg.batch_inspection.stored import plan
from destseg.batch_inspection.tries import Tries
from destseg.batch_inspection.values import BatchCounts, BatchJob, BatchPlan
from destseg.errors import DataError, ImageError, SettingsError
from destseg.inference.backends import Runtime, choose
from destseg.inference.bundle import load_bundle
from destseg.inference.exports import bundle_for
from destseg.ray_session import Needs, room, session
from destseg.redaction import hide, without_secrets

logger = logging.getLogger(__name__)

_PARTS = 32  # that a piece is cut into whose processes always died
_ENOUGH = 8  # such pieces when none is done: it is not an image's fault
_ALL_DIE = (
    "expected processes that inspect images, got only such as end without an answer. If memory "
    "ran out, give fewer --actors, a smaller --batch-size, or machines with more; Ray's logs say "
    "more."
)


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        runtime: what runs the model; threads ``None`` for as many as an actor has CPUs.
        batch_size: images or tiles that go through the networks together.
        actors: processes with a model each; ``None`` for as many as the machines hold.
        needs: what each has of a machine.
        address: of a Ray cluster; ``None`` begins one in this machine and ends it afterwards.
        partition_size: images of a partition; ``None`` chooses by their number.
        image_column, path_column: of a Parquet source.
        overwrite: whether to delete another batch's results and begin anew.
        retry_failed: whether to do partitions again that have images that could not be read.
    """

    runtime: Runtime = Runtime()  # noqa: RUF009 - frozen
    batch_size: int = 8
    actors: int | None = None
    needs: Needs = Needs()  # noqa: RUF009 - frozen
    address: str | None = None
    partition_size: int | None = None
    image_column: str | None = None
    path_column: str | None = None
    overwrite: bool = False
    retry_failed: bool = False

    def __post_init__(self) -> None:
        wrong = [
            f"--{name.replace('_', '-')}: expected at least 1, got {value}"
            for name in ("partition_size", "actors", "batch_size")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if not self.needs.cpus > 0:
            wrong.append(f"--cpus-per-actor: expected more than 0, got {self.needs.cpus:g}")
        if not self.needs.gpus >= 0:
            wrong.append(f"--gpus-per-actor: expected 0 or more, got {self.needs.gpus:g}")
        if wrong:
            raise SettingsError("\n".join(wrong))


def inspect_stored(
    bundle: str,
    source: str,
    output: str,
    options: Options,
    *,
    on_plan: Callable[[BatchPlan], object] = lambda _: None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> BatchCounts:
    """Inspect stored images and write a Parquet file a partition; finished ones are kept.

    Args:
        bundle: folder of the trained model; its files are sent to the workers.
        source: folder, glob, file, list or Parquet; a path or a URI.
        output: folder for the results; a path or a URI.
        options: how.
        on_plan: called once with what there is to do.
        on_progress: called with the images that are finished and how many there are.

    Returns:
        The counts of the whole batch, with what was finished before.

    Raises:
        DataError: if there is nothing to inspect, the output holds another batch, or Ray fails.
        BundleError, MissingExtraError, SettingsError: if the model cannot be run.
    """
    loaded = load_bundle(bundle)
    runtime = choose(loaded, options.runtime)
    if runtime.threads is None:
        runtime = replace(runtime, threads=max(1, int(options.needs.cpus)))
    calibration = bundle_for(loaded, runtime.backend).calibration
    assert calibration is not None, "bundle_for always gives one"
    files = pack(loaded, runtime.backend)
    _require_apart(source, output)
    stored, pieces, size = plan(
        source,
        image_column=options.image_column,
        path_column=options.path_column,
        size=options.partition_size,
    )
    job = BatchJob(
        source=without_secrets(absolute(source)),
        images=sum(map(len, pieces)),
        partitions=len(pieces),
        partition_size=size,
        listing_sha256=fingerprint(pieces),
        bundle_sha256=hash_of(files),
        weights_sha256=calibration.weights_sha256,
        backend=runtime.backend,
        image_column=stored.image_column,
        path_column=stored.path_column,
    )
    work = Work(job, stored, absolute(output), runtime, options.batch_size)
    storage = Storage(work.output)
    begin(storage, job, overwrite=options.overwrite)
    done = finished(storage, job, pieces, retry_failed=options.retry_failed)
    total = sum(done.values(), BatchCounts())
    left = [piece for piece in pieces if piece.partition not in done]
    on_plan(BatchPlan(job, total, len(left)))
    if left:
        with session(
            options.address,
            options.needs,
            flags="--cpus-per-actor, --gpus-per-actor",
            what_for="destseg batch",
        ):
            for counts in _Batch(work, files, options).inspect(left):
                total += counts
                on_progress(total.images, job.images)
    complete(storage, job, total)
    return total


def _require_apart(source: str, output: str) -> None:
    """Refuse an output in a folder that is searched: a restart would find other files there."""
    if is_uri(source) or is_uri(output) or not Path(source).is_dir():
        return
    searched, place = Path(source).resolve(), Path(output).resolve()
    if searched in (place, *place.parents):
        raise SettingsError(
            f"--output: expected a folder that is not in {source}, which is searched to any depth, "
            f"got {output}. Give a folder beside it, or a glob such as "
            f"'{source.rstrip('/')}/**/*.png' for the source."
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's own bars and traces away."""
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        with without_remarks("ray.data", level=logging.CRITICAL):
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


class _Batch:
    """Takes pieces through Ray Data, and finds the images that end the processes."""

    def __init__(self, work: Work, files: Mapping[str, bytes], options: Options) -> None:
        self._work = work
        self._options = options
        self._files = files
        self._rows: dict[int, dict[int, list[dict[str, Any]]]] = {}  # by partition and start
        self._sizes: dict[int, int] = {}

    def inspect(self, pieces: Sequence[Piece]) -> Iterator[BatchCounts]:
        """Yield the counts of partitions as they are finished."""
        self._sizes = {piece.partition: len(piece) for piece in pieces}
        waiting = list(pieces)
        while waiting:
            lost = {(piece.partition, piece.start): piece for piece in waiting}
            died = 0
            for answer in self._run(waiting):
                if answer["lost"]:
                    died += 1
                    if died >= _ENOUGH and len(lost) == len(waiting):
                        raise DataError(_ALL_DIE)
                    continue
                del lost[answer["partition"], answer["start"]]
                if answer["rows"]:
                    yield from self._collect(answer, json.loads(answer["rows"]))
                else:
                    yield BatchCounts(answer["images"], answer["failed"], answer["defective"])
            waiting = []
            for piece in lost.values():
                waiting += piece.split(_PARTS) if len(piece) > 1 else []
                if len(piece) == 1:
                    yield from self._give_up(piece)
            if waiting:
                logger.warning(
                    "the processes that inspected %d of the pieces ended without an answer; they "
                    "are cut up to find the images that do it",
                    len(lost),
                )

    def _give_up(self, piece: Piece) -> Iterator[BatchCounts]:
        name = self._work.stored.place(piece)
        reason = (
            "expected an image that can be inspected, got one whose process ended each of "
            f"{TRIES} times (out of memory, or a fault of a decoder); look at the file"
        )
        logger.warning("%s: %s", name, reason)
        failed = row(name, piece.partition, ImageError(name, reason), self._work.job.weights_sha256)
        where = {"partition": piece.partition, "start": piece.start}
        yield from self._collect(where, [failed])

    def _collect(
        self, where: Mapping[str, int], rows: list[dict[str, Any]]
    ) -> Iterator[BatchCounts]:
        """Keep rows of a part of a partition; write the partition when all are there."""
        partition = where["partition"]
        parts = self._rows.setdefault(partition, {})
        parts[where["start"]] = rows
        whole = [each for _, part in sorted(parts.items()) for each in part]
        if len(whole) == self._sizes[partition]:
            del self._rows[partition]
            try:
                name = self._work.job.file(partition)
                Storage(self._work.output).write(name, to_parquet(whole))
            except OSError as error:
                told = hide(str(error), self._work.output)
                raise DataError(f"{self._work.output}: cannot write results: {told}") from error
            yield count(whole)

    def _run(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """Yield the answers for pieces, as they come; none for those whose processes died."""
        options = self._options
        items = [{"piece": piece.to_json()} for piece in pieces]
        try:
            with quiet():
                answers = ray.data.from_items(items, override_num_blocks=len(items)).map(
                    Inspector,
                    fn_constructor_args=(self._work, self._files, Tries()),
                    num_cpus=options.needs.cpus,
                    num_gpus=options.needs.gpus or None,
                    concurrency=min(options.actors or room(ray, options.needs), len(items)),
                )
                for answer in answers.iter_rows():
                    if answer["trace"]:
                        raise RuntimeError(f"a worker failed:\n{answer['trace']}")
                    if answer["error"]:
                        raise DataError(f"a worker cannot go on: {answer['error']}")
                    yield answer
        except ray.exceptions.RayError as error:
            raise DataError(
                f"Ray failed: {error}\nWhat is finished is kept: give the same command again."
            ) from error
