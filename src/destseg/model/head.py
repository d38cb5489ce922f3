"""The segmentation head: from the disagreement of teacher and student to a defect map.

A head takes the compared features of each stride, finest first, as ``compare`` gives them, and
gives logits at the finest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from destseg.model.layers import (
    ResidualBlock,
    SeparableBlock,
    conv_bn_relu,
    initialize,
    recompute,
    upsample,
)


class AsppHead(nn.Module):
    """The paper's head (section 3.3): two residual blocks, then atrous spatial pyramid pooling.

    The pyramid is DeepLab v3's (Chen et al., 2017): a global average and dilated 3x3
    convolutions side by side, fused by a 3x3 convolution.
    """

    def __init__(self, channels: Sequence[int], width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(sum(channels), width), ResidualBlock(width, width)
        )
        initialize(self.blocks)
        self.pool = conv_bn_relu(width, width, 1)
        self.branches = nn.ModuleList(conv_bn_relu(width, width, dilation=d) for d in dilations)
        self.fuse = nn.Sequential(
            conv_bn_relu(width * (len(dilations) + 1), width), conv_bn_relu(width, width)
        )
        self.classify = nn.Conv2d(width, 1, 1)
        self.gradient_checkpointing = False

    def forward(self, compared: list[Tensor]) -> Tensor:
        """Return logits [n, 1, h/4, w/4] for compared features [n, c_i, h/s_i, w/s_i]."""
        x = joined(compared)
        x = recompute(self.blocks, self.blocks, x, self.gradient_checkpointing)
        x = recompute(self, self._pyramid, x, self.gradient_checkpointing)
        return cast(Tensor, self.classify(x))

    def _pyramid(self, x: Tensor) -> Tensor:
        average = self.pool(F.adaptive_avg_pool2d(x, 1)).expand_as(x)
        return cast(Tensor, self.fuse(torch.cat([average, *(b(x) for b in self.branches)], dim=1)))


def joined(compared: list[Tensor]) -> Tensor:
    """Return all features at the finest stride: [n, sum of c_i, h/4, w/4] (section 3.3)."""
    # By the strides, which double: a factor from the shapes is no number to an exporter.
    return torch.cat([upsample(each, 2**level) for level, each in enumerate(compared)], dim=1)


class Entrance(nn.Module):
    """A 1x1 convolution of features of several strides that are joined at the finest.

    It runs at each one's own stride: up-sampling and 1x1 convolution may change places, and so
    there is a quarter of the work.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width))
            for c in channels
        )

    def forward(self, compared: list[Tensor]) -> Tensor:
        """Return [n, width, h/4, w/4] for features [n, c_i, h/s_i, w/s_i], finest first."""
        *finer, x = [level(each) for level, each in zip(self.levels, compared, strict=True)]
        for each in finer[::-1]:
            x = each + upsample(x, 2)
        return F.relu(x)


class LightHead(nn.Module):
    """A head of few multiplications: separable blocks on a pyramid of strides 4, 8, 16 and 32.

    Context comes from coarser strides instead of dilated convolutions, whose scattered reads make
    them ten times as slow on a CPU as plain ones of the same operations.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Entrance(channels, width), SeparableBlock(width))
        self.down = nn.ModuleList(SeparableBlock(width, 5) for _ in range(LEVELS))
        self.up = nn.ModuleList(SeparableBlock(width) for _ in range(LEVELS))
        self.classify = nn.Conv2d(width, 1, 1)
        self.gradient_checkpointing = False

    def forward(self, compared: list[Tensor]) -> Tensor:
        """Return logits [n, 1, h/4, w/4] for compared features [n, c_i, h/s_i, w/s_i]."""
        x = recompute(self.blocks, self.blocks, compared, self.gradient_checkpointing)
        x = recompute(self, self._pyramid, x, self.gradient_checkpointing)
        return cast(Tensor, self.classify(x))

    def _pyramid(self, x: Tensor) -> Tensor:
        finer = []
        for block in self.down:
            finer.append(x)
            x = block(F.avg_pool2d(x, 2))
        for block in self.up:
            x = block(finer.pop() + upsample(x, 2))
        return x


LEVELS = 3


class SurfaceHead(nn.Module):
    """Finds broad regions that are not like the rest of the image, at stride 8.

    Such a region may agree with the student everywhere but at its border.  So this head is also
    given the teacher's features themselves, and it compares places with the mean of the image.
    It is a head of its own: the main head, given these features, would learn the textures of
    its anomalies by heart (measured: half of the pixel AP on grid).
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Entrance([2 * c for c in channels[1:]], width), SeparableBlock(width)
        )
        self.down = nn.ModuleList(SeparableBlock(width, 5) for _ in range(LEVELS - 1))
        self.whole = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.ReLU(inplace=True))
        self.mix = SeparableBlock(width, 5)
        self.up = nn.ModuleList(SeparableBlock(width) for _ in range(LEVELS - 1))
        self.classify = nn.Conv2d(width, 1, 1)

    def forward(self, described: list[Tensor]) -> Tensor:
        """Return logits [n, 1, h/8, w/8].

        Args:
            described: as ``describe`` gives it, [n, 2 c_i, h/s_i, w/s_i] at strides 8 and 16.
        """
        x = self.blocks(described)
        finer = []
        for block in self.down:
            finer.append(x)
            x = block(F.avg_pool2d(x, 2))
        mean = x.mean((2, 3), keepdim=True).expand_as(x)
        x = self.mix(x + self.whole(torch.cat([x - mean, mean], dim=1)))
        for block in self.up:
            x = block(finer.pop() + upsample(x, 2))
        return cast(Tensor, self.classify(x))


Head = AsppHead | LightHead


def build_head(kind: str, channels: Sequence[int], width: int, dilations: Sequence[int]) -> Head:
    """Return the head that the settings name; channels are those of the compared features."""
    return AsppHead(channels, width, dilations) if kind == "aspp" else LightHead(channels, width)
