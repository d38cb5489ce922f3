import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import nn

from destseg.model.layers import (
    ResidualBlock,
    SeparableBlock,
    ShuffleUp,
    conv_bn_relu,
    initialize,
    recompute,
    upsample,
)


def shake(module, seed=0):
    """Give weights and batch norms values that no default has."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + drawn if "running_var" in name else drawn - 0.5)
    return module


@pytest.mark.parametrize(
    ("kernel", "dilation", "stride"), [(1, 1, 1), (3, 1, 1), (3, 6, 1), (5, 1, 1), (3, 1, 2)]
)
def test_conv_bn_relu_is_the_three_of_them(kernel, dilation, stride):
    block = shake(conv_bn_relu(4, 8, kernel, dilation=dilation, stride=stride)).eval()
    x = torch.randn(2, 4, 18, 12, generator=torch.Generator().manual_seed(1))
    padding = {(1, 1): 0, (3, 1): 1, (3, 6): 6, (5, 1): 2}[kernel, dilation]
    weight, norm = block[0].weight, block[1]
    plain = F.conv2d(x, weight, padding=padding, dilation=dilation, stride=stride)
    scaled = (plain - norm.running_mean[:, None, None]) / (
        norm.running_var[:, None, None] + 1e-5
    ).sqrt()
    expected = (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp_min(0)
    assert block(x).shape == (2, 8, 18 // stride, 12 // stride)
    torch.testing.assert_close(block(x), expected)


def test_shuffling_up_gives_each_pixel_four_of_its_own():
    block = shake(ShuffleUp(3, 2)).eval()
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    spread = block.spread(x)  # [n, 2 * 4, h, w]
    made = block(x)
    assert made.shape == (2, 2, 10, 8)
    for channel in range(2):
        for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            mine = made[:, channel, row::2, column::2]
            assert torch.equal(mine, spread[:, 4 * channel + 2 * row + column])


@pytest.mark.parametrize("outputs", [6, 10])
@pytest.mark.parametrize("training", [False, True])
def test_residual_block_is_timms_basic_block(outputs, training):
    ours = shake(ResidualBlock(6, outputs))
    projection = None
    if outputs != 6:
        projection = nn.Sequential(nn.Conv2d(6, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
    theirs = BasicBlock(6, outputs, downsample=projection)
    # Both list first convolution, first norm, second, second, then the projection.
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)), strict=True
    )
    x = torch.randn(3, 6, 9, 7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))


def test_separable_block_adds_depthwise_then_pointwise_to_its_input():
    block = shake(SeparableBlock(5, kernel=5)).eval()
    x = torch.randn(2, 5, 8, 6, generator=torch.Generator().manual_seed(3))
    each = [F.conv2d(x[:, [c]], block.depthwise.weight[[c]], padding=2) for c in range(5)]
    expected = x + block.pointwise(torch.cat(each, 1))
    torch.testing.assert_close(block(x), expected)


def test_initialize_draws_variance_two_over_fan_out():
    block = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64))
    torch.manual_seed(0)
    initialize(block)
    weight = block[0].weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert weight.abs().max() > 3 * weight.std()  # normal, not uniform


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_upsample_is_opencvs_bilinear(factor):
    x = np.random.default_rng(0).random((7, 5), np.float32)
    up = upsample(torch.from_numpy(x)[None, None], factor)[0, 0].numpy()
    expected = cv2.resize(x, (5 * factor, 7 * factor), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(up, expected, atol=1e-6)


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


def test_recompute_gives_the_same_gradients_and_statistics():
    def gradients(enabled):
        torch.manual_seed(0)
        module = Counting(nn.Sequential(conv_bn_relu(3, 4), nn.Dropout(0.3), conv_bn_relu(4, 4)))
        x = torch.randn(4, 3, 8, 8, requires_grad=True)
        for _ in range(3):
            recompute(module, module, x, enabled).square().mean().backward()
        found = {name: p.grad for name, p in module.named_parameters()}
        return found | dict(module.named_buffers()) | {"x": x.grad}, module

    plain, once = gradients(False)
    saving, twice = gradients(True)
    assert (once.calls, twice.calls) == (3, 6)
    assert int(plain["inner.0.1.num_batches_tracked"]) == 3
    assert plain.keys() == saving.keys()
    for name, value in plain.items():
        assert torch.equal(value, saving[name]), name
    assert all(m.track_running_stats for m in twice.modules() if isinstance(m, nn.BatchNorm2d))


def test_recompute_does_nothing_where_no_gradient_is_wanted():
    module = Counting(conv_bn_relu(3, 4))
    with torch.no_grad():
        out = recompute(module, module, torch.ones(1, 3, 4, 4), True)
    assert module.calls == 1
    assert out.grad_fn is None
