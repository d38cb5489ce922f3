"""Where results may go: places that can be written to, and none that is read from.

A command looks at all of its outputs before it begins, so that no work is done for a place that
cannot be used, and no input is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from destseg.data.files import beside
from destseg.errors import DataError, NotWrittenError, SettingsError


def require_files(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are inputs or one another, or that could not be written; make folders.

    Raises:
        SettingsError: as ``require_apart``.
        DataError: as ``require_file``.
    """
    outputs = list(outputs)
    require_apart(outputs, inputs)
    for output in outputs:
        require_file(output)


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are one of the inputs by whatever name, or one another.

    Links, hard links and other spellings on file systems that take them for the same are seen.

    Args:
        outputs: files to be written; those that are not there yet can be no input.
        inputs: files that are read; ones that are missing are passed over.

    Raises:
        SettingsError: naming both.
    """
    there: dict[tuple[int, int], Path] = {}
    new: dict[tuple[str, str], Path] = {}
    folders: dict[Path, str] = {}  # real ones: many outputs share few
    for output in outputs:
        identity = _identity(output)
        if identity is not None:
            other = there.setdefault(identity, output)
        else:
            folder = output.parent
            real = folders.get(folder) or folders.setdefault(folder, os.path.realpath(folder))
            other = new.setdefault((real, os.path.normcase(output.name)), output)
        if other is not output:
            raise SettingsError(f"expected two files to write to, got one: {other} and {output}")
    if not there:
        return
    for path in inputs:
        identity = _identity(path)
        if identity in there:
            output = there[identity]
            same = "" if output == path else f" (the same file as {path})"
            raise SettingsError(
                f"{output}: expected a file to write to that is not read from, got one of the "
                f"inputs{same}, which would be lost. Choose another place for the output."
            )


def require_outside(output: Path, sources: Iterable[Path], flag: str = "--output") -> None:
    """Refuse images to be written into a folder that images are looked for in, at any depth.

    The next command would take them for parts: a training would learn synthetic anomalies.

    Args:
        output: file or folder for images.
        sources: what images are read from; only folders are searched.
        flag: that named the output.

    Raises:
        SettingsError: naming both.
    """
    place = output.resolve()
    for source in sources:
        if source.is_dir() and source.resolve() in (place, *place.parents):
            raise SettingsError(
                f"{flag}: expected a place outside of {source}, which is searched for images to "
                f"any depth, got {output}, which would be taken for one of them. Choose a place "
                "beside it."
            )


def require_file(path: Path) -> None:
    """Make a file's folder and refuse a file that could not be written there.

    It is tried: permission bits tell nothing of mounts that are read-only, or of root.

    Raises:
        DataError: naming the file.
    """
    device = os.path.realpath(path.parent) == "/dev"
    if device or (path.exists() and not path.is_file()):
        what = "a folder" if path.is_dir() else "a device or a pipe"
        raise DataError(
            f"{path}: expected a file to write to, got {what}. Name a file; without a name some "
            "commands write to the standard output."
        )
    require_folder(path.parent, f"{path}: expected a file to write to")


def require_folder(folder: Path, expected: str = "") -> None:
    """Make a folder and refuse one in which no file can be made.

    Args:
        folder: where files are to go.
        expected: what the error begins with: the place, and what is to be written.

    Raises:
        DataError: naming the place.
    """
    probe = beside(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        begun = expected or f"{folder}: expected a folder to write to"
        raise DataError(
            f"{begun}, got: {error.strerror or error} ({folder}). Choose another place."
        ) from error


def write_each(writes: Mapping[Path, Callable[[], object]], result: object) -> None:
    """Write files one after another: one that cannot be written takes no other along.

    Args:
        writes: by the file, what writes it.
        result: what the files are made of; the error has it.

    Raises:
        NotWrittenError: for those that could not be, when all were tried.
    """
    failures = {}
    for path, write in writes.items():
        try:
            write()
        except DataError as error:
            failures[path] = error
    if failures:
        raise NotWrittenError(result, failures)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what ``os.path.samefile`` compares, of a file or what a link leads to."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
