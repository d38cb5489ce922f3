"""The choice between backends, and how one is opened."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from destseg.errors import BundleError, needs_extra
from destseg.inference.backends.runtime import BACKENDS, Backend, Runtime
from destseg.inference.bundle import Bundle
from destseg.inference.exports import find_exports, load_export, recorded_export

__all__ = ["BACKENDS", "Backend", "Runtime", "choose", "devices", "installed", "open_backend"]


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
    # Devices of PyTorch's are asked of PyTorch.
    there = find_exports(bundle) if runtime.device in ("auto", "cpu") else []
    exported = [name for name in ("openvino", "onnx") if name in there]
    for name in (*exported, "torch"):
        if installed(name):
            return replace(runtime, backend=name)
    # Where nothing is, the small one is missed rather than the large one.
    return replace(runtime, backend=[*exported, "torch"][0])


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

    is_onnx = runtime.backend.startswith("onnx")
    export = recorded_export(bundle, runtime.backend)

    def opened() -> Backend:
        # OpenVINO is given the bytes that are checked; ONNX Runtime opens the file itself.
        now = (load_export if is_onnx else recorded_export)(bundle, runtime.backend)
        # In a forked process that may be later, and made anew it could have other scores.
        if now.sha256 != export.sha256:
            raise BundleError(
                f"{export.folder}: expected the model that was opened before this process was "
                "forked, got another. Load the bundle anew."
            )
        if is_onnx:
            from destseg.inference.backends.onnx_ import OnnxBackend

            return OnnxBackend(export.model, runtime)
        from destseg.inference.backends.openvino_ import OpenvinoBackend

        return OpenvinoBackend(export, runtime)

    return OpenedHere(opened)


def _other_ways(bundle: Bundle) -> str:
    there = find_exports(bundle)
    if there:
        return f" (the bundle also has: {', '.join(there)})"
    return " (to do without PyTorch, export the model on a machine that has it)"
