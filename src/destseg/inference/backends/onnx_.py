"""The backend that runs an exported model with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from destseg.data.faults import is_ours
from destseg.data.paths import shown
from destseg.errors import BundleError, SettingsError
from destseg.inference.backends import imports
from destseg.inference.backends.runtime import Runtime

onnxruntime = imports.onnxruntime()

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxBackend:
    """ONNX Runtime on one device; see ``Backend``.

    Args:
        model: the ONNX file.
        runtime: its device is auto, cpu or cuda; its threads are those within an operation.

    Raises:
        BundleError: if ONNX Runtime cannot read the file.
        SettingsError: if it has no such device here.
    """

    def __init__(self, model: Path, runtime: Runtime) -> None:
        device = "cpu" if runtime.device == "auto" else runtime.device
        if device not in devices():
            raise SettingsError(
                f"--device: expected one of {', '.join(['auto', *devices()])} for ONNX Runtime "
                f"on this machine, got {runtime.device!r}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads or 0
        options.log_severity_level = 3
        # Without it a waiting thread keeps a core busy, which is the camera's or the next model's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # ONNX Runtime takes no path that is not text.
            is_text = shown(model) == str(model)
            self._session = onnxruntime.InferenceSession(
                str(model) if is_text else model.read_bytes(),
                options,
                providers=[_PROVIDERS[device]],
            )
        except Exception as error:  # ONNX Runtime's errors have no common class
            if is_ours(error):
                raise
            raise BundleError(f"{model}: ONNX Runtime cannot run it: {error}") from error
        self._name = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3]."""
        (maps,) = self._session.run(None, {self._name: np.ascontiguousarray(images)})
        return np.asarray(maps, dtype=np.float32)


def devices() -> list[str]:
    """Return the devices that ONNX Runtime can use here and we can ask for."""
    here = onnxruntime.get_available_providers()
    return [name for name, provider in _PROVIDERS.items() if provider in here]
