"""Which device the networks run on."""

from __future__ import annotations

import torch

from destseg.errors import SettingsError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: auto (the GPU where there is one), cpu, cuda or mps.

    Raises:
        SettingsError: if there is no such device here.
    """
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(each for each in ("cuda", "mps", "cpu") if present[each]))
    if not present.get(name.split(":")[0], False):
        here = ", ".join(["auto", *(each for each, there in present.items() if there)])
        raise SettingsError(f"--device: expected one of {here} on this machine, got {name!r}")
    return torch.device(name)
