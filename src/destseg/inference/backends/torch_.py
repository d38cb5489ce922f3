"""The backend that runs a bundle with PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from destseg.errors import BundleError
from destseg.inference.backends.forked import is_forked, unforked
from destseg.inference.backends.runtime import Runtime
from destseg.inference.bundle import Bundle
from destseg.model.chance import OwnChance
from destseg.model.destseg import DeSTSeg, build_model
from destseg.model.device import resolve_device


class TorchBackend:
    """PyTorch in eval mode on one device; see ``Backend``.

    Args:
        model: the networks.
        device: where they run.
        threads: CPU threads; ``None`` leaves the number as it is.  PyTorch has one number a thread
            and one for threads that have not used it yet; both are set for the time of a call and
            then as they were.
    """

    def __init__(self, model: DeSTSeg, device: str = "auto", *, threads: int | None = None) -> None:
        self.device = resolve_device(device)
        self._threads = threads
        self._model = model.eval().to(self.device).to(memory_format=torch.channels_last)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3]."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        with unforked(), _threads(self._threads), torch.inference_mode():
            maps = self._model(batch.permute(0, 3, 1, 2))  # [n, 1, h, w]
            return np.asarray(maps[:, 0].float().cpu().numpy())


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Compute with a number of threads inside, and leave the number as it was."""
    if is_forked():
        wanted = 1  # OpenMP would wait for ever for threads that the fork did not take along
    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def devices() -> list[str]:
    """Return the devices that PyTorch sees here, with their names."""
    cuda = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    threads = torch.get_num_threads()
    return [f"cpu ({threads} thread{'' if threads == 1 else 's'})", *cuda, *mps]


def open_torch(bundle: Bundle, runtime: Runtime) -> TorchBackend:
    """Return the backend of a bundle's own weights.

    Raises:
        BundleError: if the weights are missing, changed or do not fit.
        SettingsError: if there is no such device.
    """
    with unforked(), _threads(runtime.threads):
        return TorchBackend(load_model(bundle), runtime.device, threads=runtime.threads)


def load_model(bundle: Bundle) -> DeSTSeg:
    """Return a bundle's model with its weights, on the CPU.

    Raises:
        BundleError: if the weights are missing, changed or do not fit.
    """
    # The random weights that are replaced below are not to move the process's generator.
    with OwnChance():
        model = build_model(bundle.settings.model, image_size=bundle.settings.data.size)
    weights = {name: torch.from_numpy(value) for name, value in bundle.weights().items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"{bundle.folder}: the weights do not fit: {error}") from error
    return model


def untrained_head(bundle: Bundle) -> TorchBackend:
    """Return a bundle's model with a head of seeded random weights: what training is held against.

    Raises:
        BundleError: if the weights are missing, changed or do not fit.
    """
    model = load_model(bundle)
    with OwnChance(bundle.settings.training.seed):
        untrained = build_model(bundle.settings.model, image_size=bundle.settings.data.size)
    model.head, model.surface = untrained.head, untrained.surface
    return TorchBackend(model)
