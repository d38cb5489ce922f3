"""The one thing that every backend does, and the choice between them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from destseg.errors import MissingExtraError
from destseg.inference.bundle import Bundle


class Backend(Protocol):
    """Runs the exported arithmetic: pixels in, anomaly maps out."""

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB pictures [n, h, w, 3]."""
        ...


def open_backend(bundle: Bundle, device: str = "auto") -> Backend:
    """Return a backend that runs a bundle.

    Args:
        bundle: the trained model.
        device: auto, cpu, cuda or mps.

    Raises:
        MissingExtraError: if PyTorch is not installed.
        BundleError: if the weights are missing, changed or do not fit.
    """
    try:
        from destseg.inference.backends.torch_ import TorchBackend, load_model
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "running this bundle", str(error.name)) from error
    return TorchBackend(load_model(bundle), device)
