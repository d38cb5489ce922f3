"""The same numbers at every run, and afterwards the caller's chance as it was."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

from destseg.phases import PHASES

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def exact(seed: int, device: torch.device) -> Iterator[None]:
    """Make what is inside the same at every run: seeded weights, deterministic kernels.

    PyTorch's default generators and its switch, and the environment, are those of the process:
    other threads see them changed meanwhile.  Afterwards they are as they were.  Of several threads
    one is inside at a time: two would draw each other's numbers.
    """
    with _one_at_a_time, _as_found(device):
        seed_default(seed, device)
        yield


@contextlib.contextmanager
def _as_found(device: torch.device) -> Iterator[None]:
    on_gpu = device.type == "cuda"
    enabled = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    chance = torch.mps.get_rng_state() if device.type == "mps" else None
    workspace = os.environ.get(_CUBLAS)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        try:
            if on_gpu and workspace is None:
                os.environ[_CUBLAS] = ":4096:8"
            # The CPU's kernels are so anyway, and the switch makes them fill memory for nothing.
            torch.use_deterministic_algorithms(device.type != "cpu", warn_only=True)
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warned)
            if on_gpu and workspace is None:
                os.environ.pop(_CUBLAS, None)
            if chance is not None:
                torch.mps.set_rng_state(chance)


def seed_default(seed: int, device: torch.device) -> None:
    """Seed the default generators of the CPU and of one device, and no other.

    ``torch.manual_seed`` seeds those of all devices, also of a GPU that is first used later.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def step_seed(seed: int, phase: str, step: int) -> int:
    """Return the seed of what the networks themselves draw in a step, such as dropped paths."""
    return int(np.random.default_rng([seed, PHASES[phase].number, 2, step]).integers(2**62))
