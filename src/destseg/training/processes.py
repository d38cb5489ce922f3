"""One training in several processes: same batches, same statistics, one that writes.

Every process knows the whole batch of a step, for it is a function of (seed, phase, step), and
learns from its own equal share of it.  Gradients are averaged by PyTorch's DDP, batch norm takes
the statistics of the whole batch, and so the weights are those of one process up to the rounding
of sums.  Nothing depends on how many there are, so a run can be resumed with another number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from destseg.config import TrainingSettings
from destseg.errors import SettingsError, TrainingError


def rank() -> int:
    """Return which of the processes this is, from 0, as the launcher says it."""
    # A leftover RANK is no launcher: of one process it would be a part that is not there.
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def world() -> int:
    """Return how many processes train together, as the launcher says it; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process: of a machine's CUDA devices, each process has one."""
    if device.type == "cuda" and world() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def share_of(batch_size: int) -> slice:
    """Return which samples of a batch this process learns from."""
    size = batch_size // world()
    return slice(rank() * size, (rank() + 1) * size)


def require_equal_shares(settings: TrainingSettings) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        SettingsError: if the batch cannot be shared equally, or activations are to be recomputed.
    """
    if world() == 1:
        return
    if settings.batch_size % world():
        raise SettingsError(
            f"--batch-size: expected a multiple of the {world()} processes, got "
            f"{settings.batch_size}; it is the size of the batch of all of them together"
        )
    if settings.gradient_checkpointing:
        raise SettingsError(
            "--gradient-checkpointing: expected one process, got "
            f"{world()}; take a smaller share of the batch instead, by more processes"
        )


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Inside, the processes that a launcher began can speak with each other, if there are several.

    A process group that the caller has made is used, and left to the caller; without a launcher
    it is not even looked at.
    """
    if world() == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    with _loss_of_another(), torch.cuda.device(device) if on_gpu else contextlib.nullcontext():
        begun = not dist.is_initialized()
        if begun:
            dist.init_process_group(
                "nccl" if on_gpu else "gloo", device_id=device if on_gpu else None
            )
        try:
            yield
        finally:
            if begun:
                dist.destroy_process_group()


def shared(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module whose gradients are averaged over the processes; of one process, itself."""
    if world() == 1:
        return module
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[device.index] if device.type == "cuda" else None
    )


@contextlib.contextmanager
def _loss_of_another() -> Iterator[None]:
    """Say in plain words that another process has ended, which breaks what they do together.

    Raises:
        TrainingError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no class of its own.
        if world() > 1 and (isinstance(error, dist.DistError) or "gloo/" in str(error)):
            raise TrainingError(
                f"another of the {world()} processes has ended; its own message says why. "
                "A state that was saved before is kept: go on with --resume."
            ) from error
        raise


def wait_for_all() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def mean_of_all(losses: Sequence[Tensor]) -> Tensor:
    """Return losses, each averaged over the processes: those of the whole batches."""
    stacked = torch.stack(list(losses))
    if world() > 1:
        dist.all_reduce(stacked)
        stacked /= world()
    return stacked


def any_of_all(flag: int | None, device: torch.device) -> int | None:
    """Return the highest number that a process has, so that all act on it at the same step."""
    if world() == 1:
        return flag
    highest = torch.tensor(flag or 0, device=device)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return int(highest) or None


@contextlib.contextmanager
def synchronized_norms(network: nn.Module) -> Iterator[None]:
    """Inside, the batch norms of a network are PyTorch's SyncBatchNorm, which is for GPUs alone.

    It holds the very tensors of the norms in whose places it is, under their names: optimisers,
    saved states and weights see no difference.  Afterwards the norms are back, having learned.
    """
    norms = [
        (name, part)
        for name, part in network.named_modules(remove_duplicate=False)
        if isinstance(part, _BatchNorm)
    ]
    from timm.layers import convert_sync_batchnorm  # takes longer to import than PyTorch

    convert_sync_batchnorm(network)  # timm's also knows its own norms with an activation inside
    try:
        yield
    finally:
        for name, norm in norms:
            network.set_submodule(name, norm.train(network.get_submodule(name).training))


class WholeBatchNorm(TorchFunctionMode):
    """Inside, batch norm in training takes its statistics over the processes' shares together.

    It stands in for ``torch.nn.functional.batch_norm``, which every batch norm calls, those of timm
    too, where ``synchronized_norms`` cannot be: on CPUs.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch's, or its stand-in."""
        del types
        if func is F.batch_norm and dist.is_initialized():
            given = dict(zip(_BATCH_NORM, args, strict=False), **(kwargs or {}))
            if given.get("training", False):
                return _batch_norm(**given)
        return func(*args, **(kwargs or {}))


_BATCH_NORM = (
    *("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise as ``F.batch_norm`` does, with statistics over all processes; shares are equal."""
    del training
    x = input.float()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    # The mean first and then the deviations from it: a mean of squares would lose small ones.
    mean = _mean_of_shares(x.mean(axes))
    centred = x - mean.view(shape)
    variance = _mean_of_shares(centred.square().mean(axes))
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(1, count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normal = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None and bias is not None:
        normal = normal * weight.float().view(shape) + bias.float().view(shape)
    return normal.to(input.dtype)


def _mean_of_shares(share: Tensor) -> Tensor:
    mean: Tensor = _Sum.apply(share) / dist.get_world_size()
    return mean


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of all of theirs, as each got the sum."""

    @staticmethod
    def forward(context: Any, share: Tensor) -> Tensor:
        del context
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(context, gradient)
