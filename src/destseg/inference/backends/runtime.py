"""The one thing that every backend does, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from destseg.errors import SettingsError
from destseg.model_folder import FORMS
from destseg.validation import at_least, one_of, problem

BACKENDS = ("torch", *FORMS)


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
        if wrong := problem(self.threads, int | None, at_least(1)):
            raise SettingsError(f"--threads: {wrong}")
