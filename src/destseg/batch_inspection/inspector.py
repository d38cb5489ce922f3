"""What a worker of a batch does: open the model once, then inspect pieces and write them."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

import destseg
from destseg.batch_inspection.partitions import Piece
from destseg.batch_inspection.schema import count, row, to_parquet
from destseg.batch_inspection.storage import Storage
from destseg.batch_inspection.stored import Stored
from destseg.batch_inspection.values import BatchJob
from destseg.errors import BundleError, DestsegError
from destseg.inference.backends import Runtime
from destseg.inference.bundle import Bundle
from destseg.inference.exports import RECORD, load_export
from destseg.inference.predictor import Predictor, load
from destseg.model_folder import CALIBRATION, MANIFEST, ROI, WEIGHTS
from destseg.redaction import hide

TRIES = 3
"""Of a piece whose process or machine dies while it is inspected."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs beside the model's files.

    Attributes:
        job: what the results depend on.
        stored: where the images are.
        output: absolute path or URI of the results' folder.
        runtime: what runs the model.
        batch_size: images or tiles that go through the networks together.
        version: of destseg on the machine that began the batch.
    """

    job: BatchJob
    stored: Stored
    output: str = field(repr=False)  # may have a login
    runtime: Runtime
    batch_size: int
    version: str = destseg.__version__


def pack(bundle: Bundle, backend: str) -> dict[str, bytes]:
    """Return the files of a bundle that a backend needs, by their names in it.

    Raises:
        BundleError: if one is missing or changed.
    """
    names = [MANIFEST, CALIBRATION]
    if bundle.roi_sha256 is not None:
        names.append(ROI)
    if backend == "torch":
        names.append(WEIGHTS)
    else:
        export = load_export(bundle, backend)
        beside = export.folder.relative_to(bundle.folder).as_posix()
        own = [] if export.calibration is None else [CALIBRATION]
        names += [f"{beside}/{name}" for name in (RECORD, *export.files, *own)]
    try:
        return {name: (bundle.folder / name).read_bytes() for name in names}
    except OSError as error:
        raise BundleError(
            f"{bundle.folder}: expected the files of a bundle, got {error}. Copy it again."
        ) from error


def hash_of(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of packed files, names included."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def unpack(files: Mapping[str, bytes], runtime: Runtime, batch_size: int) -> Predictor:
    """Return a predictor of packed files, which leave nothing on the disk.

    Raises:
        BundleError, MissingExtraError, SettingsError: as ``load``.
    """
    # A runtime that maps a file keeps it; on Windows it stays until the process ends.
    with tempfile.TemporaryDirectory(prefix="destseg-", ignore_cleanup_errors=True) as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load(folder, **vars(runtime), batch_size=batch_size)


class Inspector:
    """Inspects pieces with one predictor; what goes wrong is part of its answer.

    Ray sees only the death of a process, and begins what it did again, without end.

    Args:
        work: what to do.
        files: of the bundle, as ``pack`` gives them.
        tries: counts how often a piece was begun, over all processes; given its name, it returns
            the number.
    """

    def __init__(self, work: Work, files: Mapping[str, bytes], tries: Callable[[str], int]) -> None:
        self._work = work
        self._tries = tries
        self._fault: dict[str, str] = {}
        try:
            if work.version != destseg.__version__:
                raise BundleError(
                    f"expected destseg {work.version} on every machine, as on the one that began "
                    f"the batch, got {destseg.__version__}"
                )
            cv2.setNumThreads(work.runtime.threads or 0)
            self._predictor = unpack(files, work.runtime, work.batch_size)
            self._output = Storage(work.output)
        except Exception as error:
            self._fault = _fault(error, work)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Inspect a piece and write it if it is a whole partition.

        Args:
            item: ``piece``, as JSON.

        Returns:
            partition, start, images, failed, defective; of parts of partitions also rows, as
            JSON.  Or lost, if its processes died ``TRIES`` times; or error and perhaps trace.
        """
        piece = Piece.from_json(item["piece"])
        answer: dict[str, Any] = {"partition": piece.partition, "start": piece.start}
        answer |= dict.fromkeys(("images", "failed", "defective"), 0)
        answer |= {"rows": "", "lost": False, "error": "", "trace": ""}
        if self._fault:
            return answer | self._fault
        if self._tries(f"{piece.partition}, {piece.start} to {piece.stop}") > TRIES:
            return answer | {"lost": True}
        try:
            rows = list(self._inspect(piece))
            if piece.whole:
                self._output.write(self._work.job.file(piece.partition), to_parquet(rows))
            else:
                answer["rows"] = json.dumps(rows)
            return answer | vars(count(rows))
        except Exception as error:
            return answer | _fault(error, self._work)

    def _inspect(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yield a row an image, in order."""
        max_pixels = self._predictor.bundle.settings.data.max_pixels
        weights = self._work.job.weights_sha256
        waiting: list[tuple[str, Any]] = []  # in order; read, but not yet inspected

        def readable() -> Iterator[bytes]:
            for path, content in self._work.stored.read(piece, max_pixels=max_pixels):
                waiting.append((path, content))
                if isinstance(content, bytes):
                    waiting[-1] = (path, None)
                    yield content

        answers = self._predictor.stream(readable())
        for answer in itertools.chain(answers, [None]):
            # Those that could not be read stand before the image that was inspected next.
            while waiting:
                path, error = waiting.pop(0)
                if error is None:
                    assert answer is not None
                    yield row(path, piece.partition, answer, weights)
                    break
                yield row(path, piece.partition, error, weights)


def _fault(error: Exception, work: Work) -> dict[str, str]:
    """Return an error as an answer, with its trace unless the user can mend it."""
    mendable = isinstance(error, DestsegError | OSError)
    told = {"error": str(error)} if mendable else {"error": repr(error)}
    if not mendable:
        told["trace"] = traceback.format_exc()
    return {name: hide(hide(text, work.output), work.stored.root) for name, text in told.items()}
