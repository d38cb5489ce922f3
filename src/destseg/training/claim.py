"""One training at a time in a folder: what lies there, and who may go on in it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from destseg.data.lock import LockError, hold
from destseg.data.outputs import require_folder
from destseg.errors import DataError, SettingsError, TrainingError
from destseg.model_folder import CHECKPOINT, LOCK, MANIFEST, left_by_training
from destseg.training.checkpoint import Checkpoint, load_checkpoint
from destseg.training.processes import rank


class Claim:
    """The folder of a run; inside of a ``with`` other trainings are kept out, once it is there.

    A training that was killed keeps nobody out.  Where the system has no locks, or the folder may
    not be written to, nobody is kept out either.  Of several processes the one that writes holds it
    for all.

    Args:
        folder: of the run.
        resume: go on from the saved state there.
        overwrite: replace what an earlier run left there.
    """

    def __init__(self, folder: Path, *, resume: bool, overwrite: bool) -> None:
        self._folder, self._resume, self._overwrite = folder, resume, overwrite
        self._held = False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def look(self) -> Checkpoint | None:
        """Keep others out of the folder, if it is there, and look at what lies in it.

        Returns:
            The saved state to go on from; ``None``: to begin, or on resuming that it is finished.

        Raises:
            TrainingError: if another training is running there, the folder is taken, or there is
                nothing to resume.
            SettingsError: if it is both to be resumed and to be overwritten.
        """
        if self._folder.is_dir() and rank() == 0:
            self._keep_others_out()
        return _prepared(self._folder, self._resume, self._overwrite)

    def make(self) -> None:
        """Make the folder where there is none, and keep others out of it from now on.

        Raises:
            TrainingError: if it cannot be made or written to, or is another training's by now.
        """
        try:
            require_folder(self._folder)
        except DataError as error:
            raise TrainingError(str(error)) from error
        # Where nobody was kept out, another may have come since, or come and gone.
        if not (self._held or self._resume):
            self.look()

    def _keep_others_out(self) -> None:
        taken = (
            f"{self._folder}: expected to be the only training that writes there, got another one "
            "that is running. Wait for its end or stop it, or choose another --output."
        )
        try:
            lock = hold(self._folder / LOCK, taken)
        except LockError:
            return
        except DataError as error:
            raise TrainingError(str(error)) from error
        self._held = True
        self._undo.callback(lock.close)
        # Before: whoever comes next makes its own.
        self._undo.callback(_remove, self._folder / LOCK)


def _prepared(folder: Path, resume: bool, overwrite: bool) -> Checkpoint | None:
    if resume and overwrite:
        raise SettingsError("--resume and --overwrite: expected one of them, got both")
    finished, begun = (folder / MANIFEST).exists(), (folder / CHECKPOINT).exists()
    if resume:
        # The state is removed only after the calibration, the last file, is written.
        return load_checkpoint(folder / CHECKPOINT) if begun or not finished else None
    if not overwrite and (finished or begun) and left_by_training(folder):
        what = "an unfinished run" if begun else "a trained model"
        way = "go on with --resume, or " if begun else ""
        raise TrainingError(
            f"{folder}: expected a new or empty folder, got {what}. To keep it choose another "
            f"--output; {way}replace it with --overwrite."
        )
    return None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
