"""Exported forms of a bundle's model: files with their hashes, and what was measured of them.

They lie in the bundle, ``exports/<name>/``: the model's files, ``export.json``, and a
``calibration.json`` of their own where the arithmetic is not the trained model's (INT8).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import destseg
from destseg.data.files import beside, replace_folder, sha256_of, write_atomically
from destseg.data.outputs import require_folder
from destseg.errors import BundleError, DataError
from destseg.inference.bundle import Bundle, read_calibration, write_calibration
from destseg.inference.calibration import Calibration
from destseg.model_folder import CALIBRATION, EXPORTS, FORMS

FORMAT = 1
RECORD = "export.json"
"""How a form was made, and the hashes of its files."""


@dataclass(frozen=True)
class Export:
    """One exported form of a model.

    Attributes:
        name: one of ``FORMS``.
        folder: where its files lie.
        files: SHA-256 of each file by its name; the first one is what a runtime opens.
        source_sha256: of the bundle's weights that it was made from.
        calibration: its own calibration scores; ``None`` where the bundle's hold for it.
        facts: how it was made and what was measured of it.
    """

    name: str
    folder: Path
    files: Mapping[str, str]
    source_sha256: str
    calibration: Calibration | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The file that a runtime opens."""
        return self.folder / next(iter(self.files))

    @property
    def sha256(self) -> str:
        """Of all files together: what a calibration of its own is bound to."""
        return hashlib.sha256("".join(self.files.values()).encode()).hexdigest()

    def read(self) -> dict[str, bytes]:
        """Return the content of each file by its name: the very bytes that were checked.

        Raises:
            BundleError: if one is missing or is not the one that was saved.
        """
        contents = {}
        for name, expected in self.files.items():
            path = self.folder / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise BundleError(
                    f"{path}: expected a file of an exported model, got {error.strerror}. "
                    "Copy the bundle again."
                ) from error
            _require_hash(path, hashlib.sha256(content).hexdigest(), expected)
            contents[name] = content
        return contents


def find_exports(bundle: Bundle) -> list[str]:
    """Return the names of the forms that lie in a bundle, in the order of ``FORMS``."""
    return [name for name in FORMS if (bundle.folder / EXPORTS / name / RECORD).is_file()]


def load_export(bundle: Bundle, name: str) -> Export:
    """Read and check an exported form: its files are those that were written, for these weights.

    Raises:
        BundleError: if it is missing, changed, or made from other weights.
    """
    export, how = recorded_export(bundle, name), _how_to_make(bundle, name)
    try:
        for file, expected in export.files.items():
            _require_hash(export.folder / file, sha256_of(export.folder / file), expected, how)
    except OSError as error:
        raise _unlike(export.folder, error, how) from error
    return export


def recorded_export(bundle: Bundle, name: str) -> Export:
    """Read what is recorded of an exported form; its files are checked by whoever opens them.

    Raises:
        BundleError: if it is missing, its record damaged, or made from other weights.
    """
    folder = bundle.folder / EXPORTS / name
    how = _how_to_make(bundle, name)
    if not (folder / RECORD).is_file():
        raise BundleError(f"{bundle.folder}: expected its model as {name}, got none. {how}")
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT:
            raise BundleError(
                f"{folder}: expected export format {FORMAT}, got {record['format']}. {how}"
            )
        files = dict(record["files"])
        if not files:
            raise BundleError(f"{folder}: expected an exported model, got no files in it. {how}")
        export = Export(name, folder, files, record["source_sha256"], None, record)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise _unlike(folder, error, how) from error
    if export.source_sha256 != bundle.weights_sha256:
        raise BundleError(f"{folder}: it was exported from other weights than the bundle's. {how}")
    if (path := folder / CALIBRATION).is_file():
        return replace(export, calibration=read_calibration(path, bundle, export.sha256))
    return export


def bundle_for(bundle: Bundle, backend: str) -> Bundle:
    """Return the bundle with the calibration that holds for a backend.

    Raises:
        BundleError: if a quantised form is missing, its record damaged, or it has no calibration.
    """
    if not backend.endswith("-int8"):
        return bundle
    calibration = recorded_export(bundle, backend).calibration
    if calibration is None:
        raise BundleError(
            f"{bundle.folder}: {backend} has no calibration of its own, so its threshold would "
            f"mean nothing. {_how_to_make(bundle, backend)}"
        )
    return replace(bundle, calibration=calibration)


def require_place(bundle: Bundle) -> None:
    """Refuse a bundle that no form could be written into, before the work.

    Raises:
        DataError: naming the folder.
    """
    folder = bundle.folder / EXPORTS
    require_folder(folder if folder.exists() else bundle.folder)


def save_export(
    bundle: Bundle,
    name: str,
    files: Mapping[str, bytes],
    facts: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> Export:
    """Write an exported form into its bundle, replacing an earlier one as a whole.

    Args:
        bundle: the model that it was made from.
        name: one of ``FORMS``.
        files: content by file name; the first one is what a runtime opens.
        facts: plain values for JSON: how it was made, what was measured.
        calibration: of its own, for a quantised form.

    Raises:
        BundleError: if the folder cannot be written to.
    """
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    record = {
        "format": FORMAT,
        "destseg": destseg.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source_sha256": bundle.weights_sha256,
        "files": hashes,
        **facts,
    }
    target = bundle.folder / EXPORTS / name
    made = beside(target)
    try:
        for file, content in files.items():
            write_atomically(made / file, content)
        write_atomically(made / RECORD, json.dumps(record, indent=1) + "\n")
        if calibration is not None:
            write_calibration(made / CALIBRATION, calibration)
        replace_folder(target, made)
    except (OSError, DataError) as error:
        raise BundleError(f"{target}: expected a folder to write to, got {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Export(name, target, hashes, bundle.weights_sha256, calibration, record)


def save_export_calibration(export: Export, calibration: Calibration) -> Export:
    """Write the calibration of an exported form that has scores of its own."""
    write_calibration(export.folder / CALIBRATION, calibration)
    return replace(export, calibration=calibration)


def _how_to_make(bundle: Bundle, name: str) -> str:
    runtime, _, precision = name.partition("-")
    command = f"quantize {bundle.folder} DATA" if precision else f"export {bundle.folder}"
    return f"Make it with: destseg {command} --to {runtime}"


def _unlike(folder: Path, error: Exception, how: str) -> BundleError:
    got = error if isinstance(error, OSError) else repr(error)
    return BundleError(f"{folder}: expected an exported model, got {got}. {how}")


def _require_hash(path: Path, digest: str, expected: str, how: str = "") -> None:
    if digest != expected:
        raise BundleError(
            f"{path}: expected SHA-256 {expected[:12]}..., got {digest[:12]}...: the file was "
            f"changed or damaged. Copy the bundle again. {how}".rstrip()
        )
