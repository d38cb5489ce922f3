"""The blocks that student and head are made of, and recomputation to save memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Input = TypeVar("Input")
Output = TypeVar("Output")


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Return convolution, batch norm and ReLU: [n, inputs, h, w] -> [n, outputs, h/s, w/s]."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=False,
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def initialize(module: nn.Module) -> None:
    """Draw the convolutions' weights as the public recipe does: normal, variance 2 / fan out."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """ResNet's basic block (He et al., 2016), stride 1: [n, inputs, h, w] -> [n, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(f(x) + x), with a 1x1 projection of x where the channels differ."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class SeparableBlock(nn.Module):
    """Depthwise, then pointwise convolution with batch norm and ReLU, added to the input.

    One norm and one ReLU a block: on a CPU they cost as much as the convolutions.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.pointwise = conv_bn_relu(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, channels, h, w] for [n, channels, h, w]."""
        return x + cast(Tensor, self.pointwise(self.depthwise(x)))


class ShuffleUp(nn.Module):
    """Learned up-sampling by 2: each pixel's channels become four pixels' (Shi et al., 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.spread = conv_bn_relu(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, outputs, 2h, 2w] for [n, inputs, h, w]."""
        return F.pixel_shuffle(self.spread(x), 2)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Return x bilinearly up-sampled by a whole factor: [n, c, h, w] -> [n, c, fh, fw]."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def recompute(
    module: nn.Module, forward: Callable[[Input], Output], x: Input, enabled: bool
) -> Output:
    """Return ``forward(x)``; where enabled, forget its activations and recompute them backward.

    The second pass must not count towards the batch norms' running statistics, or the trained
    weights would depend on whether memory was saved.
    """
    if not (enabled and torch.is_grad_enabled()):
        return forward(x)
    output: Output = checkpoint(
        forward,
        x,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _without_statistics(module)),
    )
    return output


@contextlib.contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats: that saves fewer tensors for the backward pass, which is refused.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
