import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from destseg.config import Settings
from destseg.errors import DataError
from destseg.model.destseg import build_model, compare, describe

PAPER = Settings.from_preset("paper")


def tiny_model(tiny_settings, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_settings.model).eval()


def images(n=2, h=64, w=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=generator)


# ---- what the presets cost


def gigaflops(module, *inputs):
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9


def conv(i, o, kernel, side):
    return 2 * i * o * kernel**2 * side**2 / 1e9


def block(i, o, side):
    return conv(i, o, 3, side) + conv(o, o, 3, side) + (conv(i, o, 1, side) if i != o else 0)


def resnet18(deepest):
    """Multiplications and additions of He et al.'s ResNet-18 at 256, down to a stride."""
    cost = conv(3, 64, 7, 128)
    for i, o, side, stride in [
        (64, 64, 64, 4),
        (64, 128, 32, 8),
        (128, 256, 16, 16),
        (256, 512, 8, 32),
    ]:
        if stride <= deepest:
            shortcut = conv(i, o, 1, side) if i != o else 0
            cost += conv(i, o, 3, side) + 3 * conv(o, o, 3, side) + shortcut
    return cost


def test_the_papers_cost_is_that_of_its_layers():
    with torch.device("meta"):
        model = build_model(PAPER.model).eval()
        x = torch.zeros(1, 3, 256, 256)
    head = (
        block(448, 256, 64)
        + block(256, 256, 64)
        + conv(256, 256, 1, 1)
        + 3 * conv(256, 256, 3, 64)
        + conv(4 * 256, 256, 3, 64)
        + conv(256, 256, 3, 64)
        + conv(256, 1, 1, 64)
    )
    student = resnet18(32) + sum(
        block(i, o, side) + block(o, o, side)
        for i, o, side in [(512, 512, 8), (512, 256, 16), (256, 128, 32), (128, 64, 64)]
    )
    teacher = resnet18(16)
    taps = [
        torch.zeros(1, c, 256 // s, 256 // s, device="meta")
        for c, s in zip((64, 128, 256), (4, 8, 16), strict=True)
    ]
    assert gigaflops(model.head, taps) == pytest.approx(head)
    assert gigaflops(model.student, x) == pytest.approx(student)
    assert gigaflops(model.teacher, x) == pytest.approx(teacher)
    assert gigaflops(model, x) == pytest.approx(head + student + teacher)
    assert head == pytest.approx(62.5, abs=0.1)
    assert head + student + teacher == pytest.approx(76.9, abs=0.1)
    assert sum(model.teacher.channels) == 448


def test_fast_costs_less_than_2_gigaflops():
    with torch.device("meta"):
        model = build_model(Settings().model).eval()
        cost = gigaflops(model, torch.zeros(1, 3, 256, 256))
    assert 1 < cost < 2


def test_the_paper_in_every_figure():
    model, training, synthesis = PAPER.model, PAPER.training, PAPER.synthesis
    assert (model.teacher, model.student) == ("resnet18.tv_in1k", "resnet18")
    assert (model.head, model.head_width) == ("aspp", 256)
    assert model.head_dilations == (6, 12, 18)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 1e-4)
    rates = training.lr_student, training.lr_head_blocks, training.lr_head
    assert rates == (0.4, 0.1, 0.01)
    assert (training.batch_size, training.denoise_steps, training.segment_steps) == (32, 1000, 4000)
    assert (training.schedule, training.warmup_steps) == ("constant", 0)
    assert (training.denoise_loss, training.denoise_loss_scale) == ("cosine", 32)
    assert (training.segment_loss, training.focal_gamma) == ("focal_l1", 4)
    assert (training.precision, PAPER.data.image_size) == ("fp32", 256)
    assert (synthesis.perlin_units, synthesis.perlin_octaves, synthesis.perlin_threshold) == (
        "cells",
        (0, 5),
        0.5,
    )
    assert (synthesis.opacity, synthesis.anomaly_probability) == ((0.2, 1.0), 1.0)
    assert PAPER.decision.score_fraction * 256**2 == 100


# ---- what the module computes


def test_compared_channels_sum_to_the_cosine_similarity():
    torch.manual_seed(0)
    shapes = [(2, 5, 16, 24), (2, 7, 8, 12), (2, 3, 4, 6)]
    teacher, student = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    compared = compare(teacher, student)
    assert [part.shape for part in compared] == shapes
    for t, s, part in zip(teacher, student, compared, strict=True):
        cosine = (t * s).sum(1, keepdim=True) / (
            t.square().sum(1, keepdim=True).sqrt() * s.square().sum(1, keepdim=True).sqrt()
        )
        torch.testing.assert_close(part.sum(1, keepdim=True), cosine)


def test_equal_features_compare_to_one_and_opposite_ones_to_minus_one():
    tap = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(compare([tap], [3 * tap])[0].sum(1), torch.ones(1, 4, 4))
    assert torch.allclose(compare([tap], [-tap])[0].sum(1), -torch.ones(1, 4, 4))
    assert (compare([tap], [3 * tap])[0] >= 0).all()
    assert torch.equal(compare([tap], [0 * tap])[0], torch.zeros(1, 6, 4, 4))  # no division by 0


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 160)])
def test_the_map_has_the_images_size_and_lies_between_0_and_1(tiny_settings, size):
    model = tiny_model(tiny_settings)
    with torch.no_grad():
        anomaly_map = model(images(3, *size))
    assert anomaly_map.shape == (3, 1, *size)
    assert anomaly_map.dtype == torch.float32
    assert 0 <= anomaly_map.min() < anomaly_map.max() <= 1


def test_the_map_is_the_upsampled_sigmoid_of_the_logits(tiny_settings):
    model = tiny_model(tiny_settings.replace(surface_width=0))
    with torch.no_grad():
        logits = model.segment(images())
        assert logits.shape == (2, 1, 16, 16)
        expected = F.interpolate(1 / (1 + torch.exp(-logits)), size=(64, 64), mode="bilinear")
        torch.testing.assert_close(model(images()), expected)


@pytest.mark.parametrize("consensus", [0.0, 0.25, 1.0])
def test_the_map_lies_between_the_higher_and_the_lower_answer(tiny_settings, consensus):
    model = tiny_model(tiny_settings.replace(consensus=consensus))
    with torch.no_grad():
        taps, made = model.features(model.normalize(images()))
        described = describe(taps, compare(taps, made))
        # Both shall be the larger one somewhere.
        model.surface.classify.weight *= 2 / model.surface(described).std()
        model.surface.classify.bias -= model.surface(described).mean() - 1
        broad = torch.sigmoid(model.surface(described))
        main = torch.sigmoid(model.segment(images()))
        assert (broad.shape, main.shape) == ((2, 1, 8, 8), (2, 1, 16, 16))
        broad = F.interpolate(broad, size=(16, 16), mode="bilinear")
        sure = main > 0.9 * broad
        assert 0 < sure.float().mean() < 1  # both are seen
        higher, lower = (torch.where(which, main, 0.9 * broad) for which in (sure, ~sure))
        expected = (1 - consensus) * higher + consensus * lower
        expected = F.interpolate(expected, size=(64, 64), mode="bilinear")
        torch.testing.assert_close(model(images()), expected)


def test_without_the_surface_head_all_other_weights_are_the_same(tiny_settings):
    torch.manual_seed(4)
    whole = build_model(tiny_settings.model).state_dict()
    torch.manual_seed(4)
    without = build_model(tiny_settings.replace(surface_width=0).model).state_dict()
    assert without
    assert all(torch.equal(value, whole[name]) for name, value in without.items())
    assert all(name.startswith("surface.") for name in whole.keys() - without.keys())


def test_bytes_and_floats_of_the_same_image_are_the_same(tiny_settings):
    model = tiny_model(tiny_settings)
    with torch.no_grad():
        assert torch.equal(model(images()), model(images().float()))


def test_an_image_does_not_depend_on_its_batch(tiny_settings):
    model = tiny_model(tiny_settings)
    with torch.no_grad():
        together, alone = model(images(3)), model(images(3)[1:2])
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_images_are_normalised_as_the_teacher_was_trained(tiny_settings, name, mean, std):
    model = build_model(tiny_settings.replace(teacher=name).model)
    x = images()
    by_hand = torch.stack(
        [(x[:, c].double() / 255 - mean[c]) / std[c] for c in range(3)], dim=1
    ).float()
    torch.testing.assert_close(model.normalize(x), by_hand)
    assert {"mean", "std"} <= model.state_dict().keys()  # they travel with the weights


# ---- what is frozen


def test_the_teacher_stays_in_eval_and_takes_no_gradient(tiny_settings):
    model = tiny_model(tiny_settings)
    assert model.train() is model
    assert model.student.training
    assert model.head.training
    assert not any(part.training for part in model.teacher.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    model(images()).sum().backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(torch.equal(v, model.teacher.state_dict()[k]) for k, v in before.items())
    assert not model.eval().student.training


@pytest.mark.parametrize("student", ["shared", "test_efficientnet"])
def test_teacher_and_student_run_once_an_image(tiny_settings, student):
    model = tiny_model(tiny_settings.replace(student=student))
    seen = {"teacher": [], "student": [], "head": []}
    for name, calls in seen.items():
        getattr(model, name).register_forward_hook(
            lambda _, __, output, calls=calls: calls.append(
                len(output[0] if isinstance(output, list) else output)
            )
        )
    with torch.inference_mode():
        model(images(3))
    assert seen == {"teacher": [3], "student": [3], "head": [3]}


@pytest.mark.parametrize("student", ["shared", "test_efficientnet"])
def test_the_students_read_what_they_say(tiny_settings, student):
    model = tiny_model(tiny_settings.replace(student=student))
    x = model.normalize(images())
    with torch.no_grad():
        taps = model.teacher(x)
        made = model.student(taps if student == "shared" else x)
        torch.testing.assert_close(model.segment(images()), model.head(compare(taps, made)))


@pytest.mark.parametrize("size", [(97, 161), (33, 64), (65, 64), (100, 160), (16, 64), (0, 64)])
def test_sides_that_are_no_multiples_of_32_are_refused(size, tiny_settings):
    model = tiny_model(tiny_settings)
    told = f"height and width are multiples of 32, got {size[0]} and {size[1]}. Resize or pad"
    for function in (model, model.segment):
        with pytest.raises(DataError, match=told):
            function(images(1, *size))


@pytest.mark.slow
def test_a_model_can_still_be_exported_and_compiled_for_any_multiples(tiny_settings):
    model = tiny_model(tiny_settings)
    sides = {axis: 32 * torch.export.Dim(name, max=64) for axis, name in ((2, "h"), (3, "w"))}
    with torch.no_grad():
        program = torch.export.export(model, (images(2, 64, 96),), dynamic_shapes=(sides,)).module()
        compiled = torch.compile(model, backend="eager", dynamic=True)
        for size in ((64, 96), (96, 160)):
            expected = model(images(2, *size))
            torch.testing.assert_close(program(images(2, *size)), expected)
            torch.testing.assert_close(compiled(images(2, *size)), expected)
        with pytest.raises(DataError, match="multiples of 32, got 97 and 161"):
            compiled(images(2, 97, 161))


def test_segmenting_builds_no_graph_through_the_frozen_networks(tiny_settings):
    model = tiny_model(tiny_settings).train()
    model.segment(images()).sum().backward()
    assert all(p.grad is None for p in model.student.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


def test_the_settings_choose_the_networks(tiny_settings):
    wide = build_model(tiny_settings.replace(head_width=16, head="aspp").model)
    assert wide.head.classify.in_channels == 16
    assert len(wide.head.branches) == 3
    other = build_model(tiny_settings.replace(teacher="resnet18", student="test_resnet").model)
    assert other.teacher.channels == [64, 128, 256]
    assert [p.out_channels for p in other.student.projections] == [256, 128, 64]
