"""A timm network as feature extractor: taps by stride, always [n, c, h, w]."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from destseg.as_found import without_remarks
from destseg.errors import SettingsError
from destseg.fields import SIDE


class Backbone(nn.Module):
    """Features of a timm network at given strides.

    Args:
        name: a timm name whose network offers ``features_only``.
        strides: the strides wanted, rising; of several taps of one stride the last is taken.
        state_dict: weights of the *whole* timm network; ``None`` leaves them random.
        hub: take the weights from timm's model hub instead (raises what the hub raises).
        image_size: (height, width) of the images, for networks that are built for one size (Swin,
            MaxViT).

    Attributes:
        channels: number of channels of every tap.
        mean, std: the colour statistics that the pretrained weights expect, RGB in [0, 1].

    Raises:
        SettingsError: if timm has no such network or it lacks a stride.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int],
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        hub: bool = False,
        image_size: tuple[int, int] = (SIDE, SIDE),
    ) -> None:
        super().__init__()
        available = _tap_strides(name)
        missing = [stride for stride in strides if stride not in available]
        if missing:
            raise SettingsError(
                f"the network {name!r} has features at strides {sorted(set(available))}; expected "
                f"{list(strides)}. Choose a convolutional or hierarchical timm network."
            )
        last = {stride: index for index, stride in enumerate(available)}
        pretrained: dict[str, Any] = {"pretrained": hub}
        if state_dict is not None:
            pretrained = {
                "pretrained": True,
                "pretrained_cfg_overlay": {"state_dict": dict(state_dict)},
            }
        taps = tuple(last[stride] for stride in strides)
        self.features: Any = _create(name, image_size, out_indices=taps, **pretrained)
        _cut_behind_last_tap(self.features)
        _fix_padding(self.features)
        self.channels: list[int] = self.features.feature_info.channels()
        layout = getattr(self.features, "output_fmt", None)
        self.channels_are_last = str(getattr(layout, "value", layout)).upper() == "NHWC"
        config = timm.get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(config.mean)
        self.std: tuple[float, ...] = tuple(config.std)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return taps [n, c_i, h/stride_i, w/stride_i] of normalised images [n, 3, h, w]."""
        taps: list[Tensor] = self.features(x)
        return [tap.permute(0, 3, 1, 2) for tap in taps] if self.channels_are_last else taps


class FixedSameConv2d(nn.Conv2d):
    """TensorFlow's ``same`` padding for inputs whose sides are multiples of the stride.

    Images have sides that are multiples of 32, so what timm works out from every input is a
    constant here; a graph of any height and width can be exported only so.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            cast(tuple[int, int], layer.kernel_size),
            cast(tuple[int, int], layer.stride),
            dilation=cast(tuple[int, int], layer.dilation),
            groups=layer.groups,
            bias=layer.bias is not None,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.sides: list[int] = []  # left, right, top, bottom
        sizes = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        for kernel, stride, dilation in reversed(list(sizes)):
            total = max(dilation * (kernel - 1) + 1 - stride, 0)
            self.sides += [total // 2, total - total // 2]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of [n, c, h, w], one output a stride."""
        left, right, top, bottom = self.sides
        uneven = (right - left, bottom - top) == (1, 1)
        if torch.is_grad_enabled() or torch.compiler.is_exporting() or not uneven:
            return super().forward(F.pad(x, self.sides))
        # The same sums without a copy of the image: a kernel with a row and a column of zeros
        # more has even sides.  Backward it is slower; other runtimes know uneven padding.
        wider = F.pad(self.weight, (1, 0, 1, 0))
        return F.conv2d(
            x, wider, self.bias, self.stride, (bottom, right), self.dilation, self.groups
        )


def _cut_behind_last_tap(network: Any) -> None:
    """Remove what timm's EfficientNets compute behind the last tap; its other networks do not."""
    taps = getattr(network, "_stage_out_idx", None)
    if taps is not None:
        network.blocks = network.blocks[: max(taps)]


def _fix_padding(network: nn.Module) -> None:
    for module in network.modules():
        for name, layer in module.named_children():
            if isinstance(layer, timm.layers.Conv2dSame):
                setattr(module, name, FixedSameConv2d(layer))


def _create(name: str, image_size: tuple[int, int], **options: Any) -> Any:
    # It warns that the classifier's weights find no place: none is wanted.
    with without_remarks("timm.models._builder"):
        try:
            # Only networks with windows have a size; the others refuse the word.
            return timm.create_model(name, features_only=True, img_size=image_size, **options)
        except TypeError:
            return timm.create_model(name, features_only=True, **options)


# Both build a network without numbers to look at, which takes longer than a tiny model's step.
@functools.cache
def whole_network_keys(name: str) -> frozenset[str]:
    """Return the names of all weights of a timm network but those of its classifier."""
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return frozenset(
        key
        for key in network.state_dict()
        if not key.startswith(tuple(f"{head}." for head in heads))
        and not key.endswith("num_batches_tracked")
    )


@functools.cache
def _tap_strides(name: str) -> tuple[int, ...]:
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True, pretrained=False)
        strides = tuple(network.feature_info.reduction())
    except (
        RuntimeError,  # unknown names, and networks without features
        NotImplementedError,
        AssertionError,
        ValueError,  # names of the model hub
        OSError,
    ) as error:
        near = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f" Similar names: {', '.join(near)}." if near else ""
        raise SettingsError(
            f"expected the name of a timm network that offers features_only, got {name!r} "
            f"({error}).{hint}"
        ) from None
    return strides
