"""The denoising student: from an anomalous image to the teacher's clean features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from destseg.fields import SIDE
from destseg.model.backbone import Backbone
from destseg.model.layers import (
    ResidualBlock,
    SeparableBlock,
    ShuffleUp,
    conv_bn_relu,
    initialize,
    recompute,
    upsample,
)

STRIDES = (4, 8, 16, 32)


class Student(nn.Module):
    """The paper's (section 3.2 and figure 3): an encoder to stride 32 and a decoder to stride 4.

    There are no skip connections: what the decoder gives must have passed the narrowest layer, so
    that the anomalies are left behind.

    Args:
        encoder: timm name, random weights.
        tap_channels: the teacher's channels at strides 4, 8 and 16.
        image_size: (height, width) of the images, for encoders that are built for one size.
    """

    reads_taps = False

    def __init__(
        self,
        encoder: str,
        tap_channels: Sequence[int],
        image_size: tuple[int, int] = (SIDE, SIDE),
    ) -> None:
        super().__init__()
        self.encoder = Backbone(encoder, STRIDES, image_size=image_size)
        widths = self.encoder.channels
        # Deepest first: 512 -> 512 -> 256 -> 128 -> 64 for ResNet-18.
        outputs = widths[::-1]
        inputs = [widths[-1], *outputs[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(i, o), ResidualBlock(o, o))
            for i, o in zip(inputs, outputs, strict=True)
        )
        initialize(self.stages)
        self.projections = nn.ModuleList(
            # A block ends in a ReLU.  Where the teacher's tap has as many channels it is taken for
            # such a block too (ResNet), which is what the paper has.
            nn.Identity() if o == t else nn.Conv2d(o, t, 1)
            for o, t in zip(outputs[1:], tap_channels[::-1], strict=True)
        )
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features at strides 4, 8, 16, shaped like the teacher's taps.

        Args:
            x: normalised images [n, 3, h, w], h and w multiples of 32.
        """
        save = self.gradient_checkpointing
        x = recompute(self.encoder, self.encoder, x, save)[-1]  # [n, c, h/32, w/32]
        x = recompute(self.stages[0], self.stages[0], x, save)
        taps = []
        for stage, project in zip(list(self.stages)[1:], self.projections, strict=True):
            x = recompute(stage, stage, upsample(x, 2), save)
            taps.append(project(x))
        return taps[::-1]


class SharedStudent(nn.Module):
    """A student that reads the frozen teacher's features of the anomalous image.

    The teacher is the encoder of both, so that one pass of it serves, and there is only a decoder
    to be learned: from a bottleneck at stride 16, without skip connections, as in the paper.
    (Reverse distillation does the same without synthetic anomalies: Deng and Li, CVPR 2022.)
    Up-sampling is learned: behind an interpolation so few layers could not learn a fine pattern
    again.

    Args:
        tap_channels: the teacher's channels at strides 4, 8 and 16.
        width: channels of the bottleneck; of the decoder 3/4 of it at stride 8, 1/2 at stride 4.
    """

    reads_taps = True

    def __init__(self, tap_channels: Sequence[int], width: int) -> None:
        super().__init__()
        half, wide = width // 2, width * 3 // 4
        fine, middle, coarse = tap_channels
        self.embed = nn.ModuleList(
            [
                nn.Sequential(
                    conv_bn_relu(fine, half, stride=2), conv_bn_relu(half, half, stride=2)
                ),
                conv_bn_relu(middle, half, stride=2),
                conv_bn_relu(coarse, width, 1),
            ]
        )
        self.fuse = conv_bn_relu(2 * half + width, width, 1)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv_bn_relu(width, width), conv_bn_relu(width, width)),
                nn.Sequential(
                    ShuffleUp(width, wide), conv_bn_relu(wide, wide), SeparableBlock(wide, 5)
                ),
                nn.Sequential(ShuffleUp(wide, half), SeparableBlock(half, 5)),
            ]
        )
        initialize(self)
        self.projections = nn.ModuleList(
            nn.Conv2d(o, t, 1) for o, t in ((width, coarse), (wide, middle), (half, fine))
        )
        self.gradient_checkpointing = False

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        """Return features at strides 4, 8, 16, shaped like the teacher's taps that are given.

        Args:
            taps: the teacher's features of anomalous images, [n, c_i, h/s_i, w/s_i].
        """
        save = self.gradient_checkpointing
        x = self.fuse(self._embedded(taps))  # [n, width, h/16, w/16]
        given = []
        for stage, project in zip(self.stages, self.projections, strict=True):
            x = recompute(stage, stage, x, save)
            given.append(project(x))
        return given[::-1]

    def _embedded(self, taps: list[Tensor]) -> Tensor:
        return torch.cat(
            [embed(tap) for embed, tap in zip(self.embed, taps, strict=True)], dim=1
        )  # [n, 2 width, h/16, w/16]
