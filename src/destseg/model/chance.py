"""Random numbers of our own where PyTorch would draw from those of the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OwnChance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, what a CPU draws in this thread comes from a generator that nobody else has.

    To put PyTorch's default generator back afterwards would undo what other threads, a training
    for one, have drawn from it meanwhile.

    Args:
        seed: of the generator; the numbers are those of ``torch.manual_seed`` with it.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call an operation of PyTorch's, with the generator if it draws numbers."""
        del types
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            if all(each.name != "generator" for each in func._schema.arguments):
                func = func.overloadpacket.generator
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)
