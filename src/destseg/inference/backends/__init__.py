"""The one thing that every backend does, and the choice between them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from destseg.errors import BundleError, SettingsError, needs_extra
from destseg.inference.bundle import Bundle
from destseg.inference.exports import find_exports, load_export
from destseg.model_folder import FORMS
from destseg.validation import one_of


class Backend(Protocol):
    """Runs the exported arithmetic: pixels in, anomaly maps out.

    Thread safety: it may be called from any number of threads at once, since a ``Predictor`` may.
    """

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3].

        The maps are the caller's: no later call writes into them.
        """
        ...


@dataclass(frozen=True)
class Runtime:
    """What runs a model, where, and with how much.

    Attributes:
        backend: ``torch``, ``onnx``, ``openvino``, ``onnx-int8``, ``openvino-int8`` or ``auto``:
            the first of OpenVINO and ONNX Runtime that the bundle was exported for and that is
            installed, else PyTorch.  Never INT8, whose scores are others.
        device: ``auto`` or ``cpu``; for torch also ``cuda`` and ``mps``, for onnx ``cuda``, for
            openvino any of its own names, such as ``GPU``.
        threads: CPU threads; ``None`` leaves the number to the runtime.  OpenVINO has them for all
            calls together; with PyTorch and ONNX Runtime each thread that calls computes too.
        cache: folder for what the runtime compiles (OpenVINO); ``None`` keeps nothing.
    """

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS and self.backend != "auto":
            expected = one_of(["auto", *BACKENDS])
            raise SettingsError(f"--backend: expected {expected}, got {self.backend!r}")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"--threads: expected at least 1, got {self.threads}")


BACKENDS = ("torch", *FORMS)
PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
EXTRAS = {"torch": "train", "onnx": "onnx", "openvino": "openvino"}


def installed(backend: str) -> bool:
    """Return whether the package that a backend needs is installed, without importing it."""
    return importlib.util.find_spec(PACKAGES[backend.partition("-")[0]]) is not None


def devices(backend: str) -> list[str]:
    """Return the devices that an installed backend sees, with their names.

    Raises:
        ModuleNotFoundError: if its package is not installed.
    """
    if backend == "torch":
        from destseg.inference.backends import torch_

        return torch_.devices()
    if backend == "onnx":
        from destseg.inference.backends import onnx_

        return onnx_.devices()
    from destseg.inference.backends import openvino_

    return openvino_.devices()


def choose(bundle: Bundle, runtime: Runtime) -> Runtime:
    """Return the runtime with ``auto`` resolved to the backend that will be opened."""
    if runtime.backend != "auto":
        return runtime
    there = find_exports(bundle)
    for name in ("openvino", "onnx"):
        # Devices of PyTorch's are asked of PyTorch.
        if name in there and installed(name) and runtime.device in ("auto", "cpu"):
            return replace(runtime, backend=name)
    return replace(runtime, backend="torch")


def open_backend(bundle: Bundle, runtime: Runtime | None = None) -> Backend:
    """Return a backend that runs a bundle.

    Thread safety: it may be called in several threads at once, and what it returns too; in a
    process that was forked after it, too.

    Args:
        bundle: the trained model.
        runtime: which backend, where, and with how much; ``None`` chooses by itself.

    Raises:
        MissingExtraError: if what it needs is not installed.
        BundleError: if the model's files are missing, changed or do not fit.
        SettingsError: if there is no such device.
    """
    runtime = choose(bundle, runtime or Runtime())
    kind = runtime.backend.partition("-")[0]
    what_for = f"running {bundle.folder} with the backend {runtime.backend}"
    if kind == "torch":
        what_for += _other_ways(bundle)
    with needs_extra(EXTRAS[kind], what_for):
        if kind == "torch":
            from destseg.inference.backends.torch_ import open_torch

            return open_torch(bundle, runtime)
        return _open_export(bundle, runtime)


def _open_export(bundle: Bundle, runtime: Runtime) -> Backend:
    from destseg.inference.backends.forked import OpenedHere

    export = load_export(bundle, runtime.backend)

    def opened() -> Backend:
        # In a forked process that may be later, and made anew it could have other scores.
        if load_export(bundle, runtime.backend).sha256 != export.sha256:
            raise BundleError(
                f"{export.folder}: expected the model that was opened before this process was "
                "forked, got another. Load the bundle anew."
            )
        if runtime.backend.startswith("onnx"):
            from destseg.inference.backends.onnx_ import OnnxBackend

            return OnnxBackend(export.model, runtime)
        from destseg.inference.backends.openvino_ import OpenvinoBackend

        return OpenvinoBackend(export.model, runtime)

    return OpenedHere(opened)


def _other_ways(bundle: Bundle) -> str:
    there = find_exports(bundle)
    if there:
        return f" (the bundle also has: {', '.join(there)})"
    return " (to do without PyTorch, export the model on a machine that has it)"
