import pytest
import torch
import torch.nn.functional as F

from destseg.config import Settings
from destseg.model.head import AsppHead, LightHead, SurfaceHead, build_head

PAPER = Settings.from_preset("paper").model


def paper_head():
    with torch.device("meta"):
        return build_head(PAPER.head, (64, 128, 256), PAPER.head_width, PAPER.head_dilations)


def settled(head, seed=0):
    """Give the batch norms statistics that no default has, and return the head in eval."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in head.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        elif "running_var" in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return head.eval()


def test_the_papers_convolutions():
    convolutions = {
        name: (c.in_channels, c.out_channels, c.kernel_size[0], c.dilation[0], c.bias is not None)
        for name, c in paper_head().named_modules()
        if isinstance(c, torch.nn.Conv2d)
    }
    assert convolutions == {
        "blocks.0.first.0": (448, 256, 3, 1, False),
        "blocks.0.second.0": (256, 256, 3, 1, False),
        "blocks.0.shortcut.0": (448, 256, 1, 1, False),
        "blocks.1.first.0": (256, 256, 3, 1, False),
        "blocks.1.second.0": (256, 256, 3, 1, False),
        "pool.0": (256, 256, 1, 1, False),
        "branches.0.0": (256, 256, 3, 6, False),
        "branches.1.0": (256, 256, 3, 12, False),
        "branches.2.0": (256, 256, 3, 18, False),
        "fuse.0.0": (1024, 256, 3, 1, False),
        "fuse.1.0": (256, 256, 3, 1, False),
        "classify": (256, 1, 1, 1, True),
    }


def test_the_papers_initial_weights():
    torch.manual_seed(0)
    head = build_head("aspp", (16, 32), 32, (6, 12, 18))
    # Normal with variance 2 / fan out in the blocks, torch's uniform one in the rest.
    assert head.blocks[1].first[0].weight.std().item() == pytest.approx(
        (2 / (32 * 9)) ** 0.5, rel=0.05
    )
    bound = (1 / (32 * 9)) ** 0.5
    assert bound * 0.99 < head.fuse[1][0].weight.abs().max().item() <= bound


def test_the_aspp_head_is_its_literal_form():
    torch.manual_seed(0)
    head = settled(build_head("aspp", (7, 3), 8, (2, 3)))
    state = head.state_dict()

    def conv_bn(x, name, padding, dilation=1):
        x = F.conv2d(x, state[f"{name}.0.weight"], padding=padding, dilation=dilation)
        mean, var = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.1.weight"], state[f"{name}.1.bias"])

    def residual(x, name):
        y = conv_bn(F.relu(conv_bn(x, f"{name}.first", 1)), f"{name}.second", 1)
        return F.relu(y + (conv_bn(x, f"{name}.shortcut", 0) if "0" in name else x))

    fine, coarse = torch.randn(2, 7, 12, 8), torch.randn(2, 3, 6, 4)
    finer = F.interpolate(coarse, size=(12, 8), mode="bilinear", align_corners=False)
    y = residual(residual(torch.cat([fine, finer], 1), "blocks.0"), "blocks.1")
    pooled = F.relu(conv_bn(y.mean((2, 3), keepdim=True), "pool", 0))
    branches = [
        F.relu(conv_bn(y, f"branches.{number}", dilation, dilation))
        for number, dilation in enumerate((2, 3))
    ]
    y = torch.cat([pooled.repeat(1, 1, 12, 8), *branches], 1)
    y = F.relu(conv_bn(F.relu(conv_bn(y, "fuse.0", 1)), "fuse.1", 1))
    expected = F.conv2d(y, state["classify.weight"], state["classify.bias"])
    torch.testing.assert_close(head([fine, coarse]), expected)


@pytest.mark.parametrize("size", [(64, 64), (16, 24), (8, 8)])
@pytest.mark.parametrize("kind", ["light", "aspp"])
def test_logits_lie_at_the_features_stride(kind, size):
    head = build_head(kind, (10, 3), 8, (6, 12)).eval()
    assert isinstance(head, AsppHead if kind == "aspp" else LightHead)
    h, w = size
    compared = [torch.zeros(2, 10, h, w), torch.zeros(2, 3, h // 2, w // 2)]
    assert head(compared).shape == (2, 1, *size)


def test_the_light_heads_entrance_is_a_convolution_of_the_joined_features():
    """Each tap's convolution before the up-sampling is the same as after it."""
    torch.manual_seed(0)
    head = settled(build_head("light", (5, 4, 3), 8, ()))
    compared = [torch.randn(2, c, 16 // s, 24 // s) for c, s in ((5, 1), (4, 2), (3, 4))]
    entrance = head.blocks[0]
    middle = F.interpolate(compared[1], scale_factor=2, mode="bilinear")
    coarse = F.interpolate(compared[2], scale_factor=2, mode="bilinear")
    coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    joined = [compared[0], middle, coarse]
    expected = sum(level(each) for level, each in zip(entrance.levels, joined, strict=True)).relu()
    torch.testing.assert_close(entrance(compared), expected)


def test_the_light_head_looks_far():
    """A change of one corner is felt half an image away, as with the paper's dilations."""
    torch.manual_seed(0)
    head = settled(build_head("light", (6,), 16, ()))
    x = torch.randn(1, 6, 64, 64, requires_grad=True)
    head([x])[0, 0, 32, 32].backward()
    felt = x.grad.abs().sum((0, 1)).nonzero()
    assert (felt.min(0).values <= 8).all()
    assert (felt.max(0).values >= 55).all()


@pytest.mark.parametrize("kind", ["light", "aspp"])
def test_checkpointing_gives_the_same_gradients_and_statistics(kind):
    def learned(saving):
        torch.manual_seed(0)
        head = build_head(kind, (10,), 8, (2, 3))
        head.gradient_checkpointing = saving
        for _ in range(2):
            head([torch.randn(3, 10, 16, 16)]).square().mean().backward()
        return {n: p.grad for n, p in head.named_parameters()} | dict(head.named_buffers())

    plain, saving = learned(False), learned(True)
    assert all(value is not None for value in plain.values())
    assert all(torch.equal(value, saving[name]) for name, value in plain.items())


def test_the_surface_head_compares_a_place_with_the_whole_image():
    """What lies far beyond the reach of its convolutions changes the answer everywhere."""
    torch.manual_seed(0)
    head = settled(SurfaceHead((4, 6, 8), 16)).double()
    described = [torch.rand(1, 2 * c, s, s).double() for c, s in ((6, 128), (8, 64))]
    changed = [each.clone() for each in described]
    for each in changed:
        each[..., -8:, -8:] = each[..., -8:, -8:].flip(1)
    with torch.no_grad():
        one, other = head(described), head(changed)
    assert one.shape == (1, 1, 128, 128)
    corner = (one - other)[..., :16, :16].abs()
    assert 0 < corner.max() < (one - other).abs().max()
