import pytest
import torch
import torch.nn.functional as F
from torch import nn

from destseg.config import Settings
from destseg.model.layers import ResidualBlock
from destseg.model.student import SharedStudent, Student

PAPER = Settings.from_preset("paper").model


def paper_student(device="meta"):
    with torch.device(device):
        return Student(PAPER.student, [64, 128, 256])


def test_the_papers_stage_widths():
    student = paper_student()
    assert student.encoder.channels == [64, 128, 256, 512]
    widths = [
        [(block.first[0].in_channels, block.second[0].out_channels) for block in stage]
        for stage in student.stages
    ]
    assert widths == [
        [(512, 512), (512, 512)],
        [(512, 256), (256, 256)],
        [(256, 128), (128, 128)],
        [(128, 64), (64, 64)],
    ]
    assert all(isinstance(b, ResidualBlock) for stage in student.stages for b in stage)
    # A ResNet's taps end in a ReLU like the blocks: nothing comes after them.
    assert all(isinstance(each, nn.Identity) for each in student.projections)


def test_the_papers_number_of_weights():
    def block(i, o):
        return 9 * i * o + 9 * o * o + 4 * o + (i * o + 2 * o if i != o else 0)

    decoder = sum(
        block(i, o) + block(o, o) for i, o in [(512, 512), (512, 256), (256, 128), (128, 64)]
    )
    student = paper_student()
    assert sum(p.numel() for p in student.stages.parameters()) == decoder
    # ResNet-18 of He et al. without its classifier
    assert sum(p.numel() for p in student.encoder.parameters()) == 11_689_512 - 513_000
    assert sum(p.numel() for p in student.parameters()) == decoder + 11_176_512


def test_the_papers_output_shapes():
    shapes = [tuple(tap.shape) for tap in paper_student()(torch.zeros(2, 3, 256, 256).to("meta"))]
    assert shapes == [(2, 64, 64, 64), (2, 128, 32, 32), (2, 256, 16, 16)]


def test_taps_have_the_teachers_channels_whatever_the_encoder():
    student = Student("test_efficientnet", [5, 32, 48]).eval()
    taps = student(torch.zeros(1, 3, 64, 96))
    assert [tuple(tap.shape) for tap in taps] == [(1, 5, 16, 24), (1, 32, 8, 12), (1, 48, 4, 6)]
    projected = [isinstance(each, nn.Conv2d) for each in student.projections]
    # Deepest first: 48 and 32 are the encoder's own, 5 is not.
    assert projected == [False, False, True]


class Deepest(nn.Module):
    """An encoder whose finer taps are useless."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        *finer, deepest = self.encoder(x)
        return [torch.full_like(tap, torch.nan) for tap in finer] + [deepest]


def test_the_decoder_is_stage_by_stage_without_skips():
    torch.manual_seed(0)
    student = Student("test_efficientnet", [24, 32, 7]).eval()
    x = torch.randn(2, 3, 64, 96)
    taps = student(x)
    deepest = student.encoder(x)[-1]
    b4 = student.stages[0](deepest)
    b3 = student.stages[1](F.interpolate(b4, size=(4, 6), mode="bilinear", align_corners=False))
    b2 = student.stages[2](F.interpolate(b3, size=(8, 12), mode="bilinear", align_corners=False))
    b1 = student.stages[3](F.interpolate(b2, size=(16, 24), mode="bilinear", align_corners=False))
    for tap, feature, project in zip(
        taps, (b1, b2, b3), list(student.projections)[::-1], strict=True
    ):
        torch.testing.assert_close(tap, project(feature))
    student.encoder = Deepest(student.encoder)
    for tap, again in zip(taps, student(x), strict=True):
        assert torch.equal(tap, again)


# ---- the student that reads the teacher's taps

CHANNELS, STRIDES = (6, 5, 7), (4, 8, 16)


def teacher_taps(n=2, h=64, w=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, c, h // s, w // s, generator=generator)
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def test_the_shared_student_gives_what_it_reads():
    torch.manual_seed(0)
    given = SharedStudent(CHANNELS, 16)(teacher_taps())
    assert [tap.shape for tap in given] == [tap.shape for tap in teacher_taps()]
    assert all((tap < 0).any() and (tap > 0).any() for tap in given)  # a tap may be linear


def test_every_tap_that_is_given_depends_on_every_tap_that_is_read():
    torch.manual_seed(0)
    student = SharedStudent(CHANNELS, 16)
    taps = [tap.requires_grad_() for tap in teacher_taps()]
    for given in student(taps):
        slopes = torch.autograd.grad(given.square().sum(), taps, retain_graph=True)
        assert all((slope != 0).any() for slope in slopes)


def test_the_shared_student_has_no_skips():
    """What it gives is a function of the bottleneck at stride 16 alone."""
    torch.manual_seed(0)
    student = SharedStudent(CHANNELS, 16).eval()
    bottleneck = []
    student.fuse.register_forward_hook(lambda _, __, output: bottleneck.append(output))
    expected = student(teacher_taps(seed=1))
    student.fuse.register_forward_hook(lambda *_: bottleneck[0])
    for tap, again in zip(expected, student(teacher_taps(seed=2)), strict=True):
        assert torch.equal(tap, again)
    assert bottleneck[0].shape == (2, 16, 4, 6)


def learns_to_repeat(up):
    """Return how far a decoder stage is from a pattern finer than what it reads, after training."""
    torch.manual_seed(0)
    stage = nn.Sequential(up, nn.Conv2d(4, 1, 1))
    optimizer = torch.optim.Adam(stage.parameters(), 0.03)
    coarse = torch.randn(8, 4, 6, 6)
    fine = F.pixel_shuffle(coarse, 2)
    for _ in range(150):
        loss = F.mse_loss(stage(coarse), fine)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_learned_up_sampling_learns_what_lies_between_pixels():
    from destseg.model.layers import ShuffleUp, conv_bn_relu

    class Interpolated(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = conv_bn_relu(4, 4)

        def forward(self, x):
            return self.convolution(F.interpolate(x, scale_factor=2, mode="bilinear"))

    assert learns_to_repeat(ShuffleUp(4, 4)) < 0.5 * learns_to_repeat(Interpolated())


@pytest.mark.parametrize("shared", [False, True])
def test_checkpointing_gives_the_same_gradients_and_statistics(shared):
    def learned(saving):
        torch.manual_seed(0)
        if shared:
            student = SharedStudent(CHANNELS, 16)
        else:
            student = Student("test_efficientnet", [24, 32, 48])
        student.gradient_checkpointing = saving
        for seed in range(2):
            x = teacher_taps(seed=seed) if shared else torch.randn(3, 3, 64, 64)
            sum(tap.square().mean() for tap in student(x)).backward()
        return {n: p.grad for n, p in student.named_parameters()} | dict(student.named_buffers())

    plain, saving = learned(False), learned(True)
    assert sum("running_mean" in name for name in plain) > (9 if shared else 20)
    assert all(torch.equal(value, saving[name]) for name, value in plain.items())
