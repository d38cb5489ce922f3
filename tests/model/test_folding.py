"""Folded networks against the networks that they were folded from."""

import pytest
import timm
import torch
from torch import Tensor, nn

from destseg.model.backbone import Backbone
from destseg.model.folding import folded
from destseg.model.student import SharedStudent, Student


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def settle(network: nn.Module) -> nn.Module:
    """Give the norms statistics of their own, as training would."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "test_efficientnet"])
def test_a_folded_backbone_gives_the_same_features_without_norms(name):
    network = settle(Backbone(name, (4, 8, 16)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copy = folded(network, torch.randn(1, 3, 64, 64))
    assert norms(network) > norms(copy) == 0
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for expected, got in zip(network(images), copy(images), strict=True):
            assert torch.allclose(expected, got, rtol=1e-3, atol=1e-4 * expected.abs().max())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_student_is_folded_too():
    student = settle(Student("test_efficientnet", (8, 16, 24)))
    copy = folded(student, torch.randn(1, 3, 64, 64))
    assert norms(copy) == 0
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for expected, got in zip(student(images), copy(images), strict=True):
            assert torch.allclose(expected, got, rtol=1e-3, atol=1e-4 * expected.abs().max())


def test_a_network_that_reads_several_tensors_is_folded_too():
    student = settle(SharedStudent((8, 16, 24), 16))
    taps = [torch.randn(2, c, 64 // s, 64 // s) for c, s in ((8, 4), (16, 8), (24, 16))]
    copy = folded(student, [tap[:1] for tap in taps])
    assert norms(student) > norms(copy) == 0
    with torch.no_grad():
        for expected, got in zip(student(taps), copy(taps), strict=True):
            assert torch.allclose(expected, got, rtol=1e-3, atol=1e-4 * expected.abs().max())


class Forked(nn.Module):
    """A convolution whose output goes into a norm and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.convolution(x)
        return [self.norm(y) + y]


def test_what_cannot_be_folded_stays_as_it_is():
    network = settle(Forked())
    x = torch.randn(1, 3, 8, 8)
    copy = folded(network, x)
    assert norms(copy) == 1
    with torch.no_grad():
        assert torch.equal(copy(x)[0], network(x)[0])


@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_is_the_same_with_and_without_gradients(kernel):
    from destseg.model.backbone import FixedSameConv2d

    torch.manual_seed(0)
    reference = timm.layers.Conv2dSame(6, 6, kernel, stride=2, groups=6)
    layer = FixedSameConv2d(reference)
    x = torch.randn(2, 6, 64, 32)
    expected = reference(x)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-5)
