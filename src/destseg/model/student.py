"""The denoising student: an encoder and decoder that give the teacher's clean features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from destseg.config import DataSettings
from destseg.model.backbone import Backbone
from destseg.model.layers import ResidualBlock, conv_bn_relu, initialize, recompute, upsample

STRIDES = (4, 8, 16, 32)


class Student(nn.Module):
    """Encoder to stride 32 and a decoder back to stride 4 (paper, section 3.2 and figure 3).

    There are no skip connections: what the decoder gives must have passed the narrowest layer, so
    that the damage is left behind.

    Args:
        encoder: timm name, random weights.
        decoder: ``residual`` (two basic blocks a stage, the paper's) or ``plain`` (two 3x3
            convolutions a stage).
        tap_channels: the teacher's channels at strides 4, 8 and 16.
        image_size: side of the pictures, for encoders that are built for one size.
    """

    def __init__(
        self,
        encoder: str,
        decoder: str,
        tap_channels: Sequence[int],
        image_size: int = DataSettings.image_size,
    ) -> None:
        super().__init__()
        self.encoder = Backbone(encoder, STRIDES, image_size=image_size)
        widths = self.encoder.channels
        # Deepest first: 512 -> 512 -> 256 -> 128 -> 64 for ResNet-18.
        outputs = widths[::-1]
        inputs = [widths[-1], *outputs[:-1]]
        block: Callable[[int, int], nn.Module] = (
            ResidualBlock if decoder == "residual" else conv_bn_relu
        )
        self.stages = nn.ModuleList(
            nn.Sequential(block(i, o), block(o, o)) for i, o in zip(inputs, outputs, strict=True)
        )
        initialize(self.stages)
        self.projections = nn.ModuleList(
            # A block ends in a ReLU.  Where the teacher's tap is such a block too (ResNet) that is
            # what the paper has; a linear tap (EfficientNet) has negative values to be met.
            nn.Identity() if decoder == "residual" and o == t else nn.Conv2d(o, t, 1)
            for o, t in zip(outputs[1:], tap_channels[::-1], strict=True)
        )
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features at strides 4, 8, 16, shaped like the teacher's taps.

        Args:
            x: normalised pictures [n, 3, h, w], h and w multiples of 32.
        """
        save = self.gradient_checkpointing
        x = recompute(self.encoder, self.encoder, x, save)[-1]  # [n, c, h/32, w/32]
        x = recompute(self.stages[0], self.stages[0], x, save)
        taps = []
        for stage, project in zip(list(self.stages)[1:], self.projections, strict=True):
            x = recompute(stage, stage, upsample(x, 2), save)
            taps.append(project(x))
        return taps[::-1]
