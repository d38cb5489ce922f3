"""Batch norms of frozen networks folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def folded(network: nn.Module, example: Tensor | list[Tensor]) -> nn.Module:
    """Return a frozen copy of a network that computes the same with fewer operations.

    Which norm follows which convolution is seen while the example passes, so that it works for any
    network; a norm whose input is not just a convolution's output stays.  Where the copy does not
    give the same features, something else had used a convolution's output, and nothing is folded.

    Args:
        network: gives features or maps; is not changed.
        example: an input, a tensor or a list of them, on the network's device; of any values.

    Returns:
        The copy, in eval mode, without gradients.
    """
    copied = _frozen(network)
    device = (example if isinstance(example, Tensor) else example[0]).device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        expected, pairs = _pairs(copied, example)
    for convolution, norm in pairs.values():
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = (
            nn.Parameter(each.detach(), requires_grad=False) for each in (weight, bias)
        )
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in pairs:
                setattr(parent, name, _after(child))
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return copied if _agree(expected, copied(example)) else _frozen(network)


def _frozen(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)


def _pairs(
    network: nn.Module, example: Tensor | list[Tensor]
) -> tuple[Any, dict[int, tuple[nn.Conv2d, Any]]]:
    """Return what comes out, and (convolution, norm) by the norm's id.

    Only norms of nothing but a convolution are among them.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[int, tuple[nn.Conv2d, Any]] = {}

    def after_convolution(module: nn.Module, _: Any, output: Tensor) -> None:
        made[id(output)] = (module, output)  # type: ignore[assignment]  # held, so ids stay

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for each in inputs:
            if isinstance(each, Tensor) and id(each) in made:
                pairs[id(module)] = (made[id(each)][0], module)

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        features = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return features, pairs


def _agree(expected: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    """Return whether features are the same but for rounding: no other part used a convolution."""
    return all(
        float((one - other).abs().max()) <= ROUNDING * float(one.abs().max())
        for one, other in zip(expected, got, strict=True)
    )


ROUNDING = 1e-3


def _after(norm: nn.Module) -> nn.Module:
    """Return what remains of a norm: the activation that timm keeps inside."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
