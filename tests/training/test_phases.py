import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from destseg.config import Settings, TrainingSettings
from destseg.model.destseg import build_model, compare, describe
from destseg.synthesis.batches import Batch
from destseg.training.phases import (
    DenoisePhase,
    SegmentPhase,
    build_optimizer,
    freeze_all_but,
    rate_factor,
)

PAPER = Settings.from_preset("paper").training


def model_of(tiny_settings, **changes):
    torch.manual_seed(0)
    return build_model(tiny_settings.replace(**changes).model)


def batch(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 256, (n, 3, 64, 64), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(n, 1, 64, 64)
    masks[:, :, 10:40, 20:50] = 1
    noise = 255 * torch.rand(n, 3, 64, 64, generator=generator)
    # What the last image shows is for the surface head alone.
    broad = torch.arange(n) == n - 1
    return Batch(clean, torch.lerp(clean.float(), noise, masks), masks, broad)


def loss_of(phase, *given):
    return phase(*phase.prepare(Batch(*given)))


# ---- learning rates


def factors(steps, **changes):
    settings = TrainingSettings(**changes)
    return [rate_factor(step, steps, settings) for step in range(steps)]


@pytest.mark.parametrize("eta_min", [0.0, 0.1])
def test_cosine_annealing_is_torchs(eta_min):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=eta_min)
    expected = []
    for _ in range(30):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert factors(30, warmup_steps=0, eta_min=eta_min) == pytest.approx(expected)
    assert rate_factor(30, 30, TrainingSettings(warmup_steps=0, eta_min=eta_min)) == pytest.approx(
        eta_min
    )


def test_the_rate_rises_linearly_and_then_stays():
    rates = factors(8, schedule="constant", warmup_steps=4)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_warming_up_multiplies_the_cosine():
    plain = factors(40, warmup_steps=0)
    warm = factors(40, warmup_steps=5)
    assert warm[5:] == plain[5:]
    assert warm[:5] == pytest.approx([plain[k] * (k + 1) / 5 for k in range(5)])


def test_the_papers_rate_is_constant():
    assert [rate_factor(step, 1000, PAPER) for step in range(1000)] == [1] * 1000


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_warm_up_longer_than_the_phase_ends_with_it(steps):
    rates = factors(steps, schedule="constant", warmup_steps=20)
    assert rates == pytest.approx([(k + 1) / steps for k in range(steps)])


# ---- optimisers


def test_the_papers_optimisers(tiny_settings):
    paper = {"head": "aspp", "student": "test_efficientnet", "surface_width": 0}
    model = model_of(tiny_settings, **paper)
    denoise, segment = DenoisePhase(model, PAPER), SegmentPhase(model, PAPER)
    assert (denoise.steps, segment.steps) == (1000, 4000)
    first, second = build_optimizer(denoise, PAPER), build_optimizer(segment, PAPER)
    for optimizer in (first, second):
        assert type(optimizer) is torch.optim.SGD
        for group in optimizer.param_groups:
            assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
            assert not group["nesterov"]
    assert [group["lr"] for group in first.param_groups] == [0.4]
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.01]

    def names(group):
        known = {id(p): name for name, p in model.named_parameters()}
        return {known[id(p)] for p in group["params"]}

    everything = {name for name, _ in model.named_parameters()}
    assert names(first.param_groups[0]) == {n for n in everything if n.startswith("student.")}
    head = {n for n in everything if n.startswith("head.")}
    blocks = {n for n in head if n.startswith("head.blocks.")}
    assert blocks
    assert [names(group) for group in second.param_groups] == [blocks, head - blocks]


def test_fasts_optimiser_is_adamw(tiny_settings):
    wanted = TrainingSettings(lr_head_blocks=0.003, lr_head=0.004, weight_decay=0.05)
    optimizer = build_optimizer(SegmentPhase(model_of(tiny_settings), wanted), wanted)
    assert type(optimizer) is torch.optim.AdamW
    assert [g["lr"] for g in optimizer.param_groups] == [0.003, 0.004]
    assert all(g["weight_decay"] == 0.05 for g in optimizer.param_groups)


# ---- the phases' losses


@pytest.mark.parametrize("student", ["shared", "test_efficientnet"])
def test_phase_1_compares_the_anomalous_with_the_clean(tiny_settings, student):
    model = model_of(tiny_settings, student=student)
    wanted = TrainingSettings(denoise_loss_scale=3.0)
    phase = DenoisePhase(model, wanted)
    freeze_all_but(phase)
    model.student.eval()  # the same statistics for both ways
    clean, anomalous, masks, broad = batch()
    mean = torch.tensor(model.teacher.mean).view(1, 3, 1, 1)
    std = torch.tensor(model.teacher.std).view(1, 3, 1, 1)
    teacher = model.teacher((clean / 255 - mean) / std)
    x = (anomalous / 255 - mean) / std
    student = model.student(model.teacher(x) if student == "shared" else x)
    expected = sum(
        (1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in zip(teacher, student, strict=True)
    )
    torch.testing.assert_close(loss_of(phase, clean, anomalous, masks, broad), 3 * expected)
    assert loss_of(phase, anomalous, anomalous, masks, broad) != loss_of(
        phase, clean, anomalous, masks, broad
    )


def loss_of_each(logits, masks):
    """Focal loss with gamma 4 plus L1 at each place, from the probabilities; and the mask there."""
    p = torch.sigmoid(logits)
    target = (F.interpolate(masks, size=logits.shape[2:], mode="bilinear") >= 0.5).float()
    p_true = torch.where(target == 1, p, 1 - p)
    return -((1 - p_true) ** 4) * p_true.log() + (p - target).abs(), target


@pytest.mark.parametrize("student", ["shared", "test_efficientnet"])
def test_phase_2_teaches_both_heads_from_the_anomalous_images(tiny_settings, student):
    model = model_of(tiny_settings, student=student)
    phase = SegmentPhase(model, TrainingSettings())
    freeze_all_but(phase)
    model.head.eval()
    model.surface.eval()
    clean, anomalous, masks, broad = batch()
    taps, made = model.features(model.normalize(anomalous))
    logits = model.surface(describe(taps, compare(taps, made)))
    assert logits.shape == (len(clean), 1, 8, 8)
    of_head, target = loss_of_each(model.segment(anomalous), masks)
    of_surface, _ = loss_of_each(logits, masks)
    # Of broad regions of other parts the main head learns nothing, but of what is around them.
    of_head[broad] *= 1 - target[broad]
    expected = of_head.mean() + of_surface.mean()
    torch.testing.assert_close(loss_of(phase, clean, anomalous, masks, broad), expected)
    other = loss_of(phase, clean * 0, anomalous, masks, broad)
    assert torch.equal(other, loss_of(phase, clean, anomalous, masks, broad))


def test_without_a_surface_head_phase_2_is_the_papers(tiny_settings):
    model = model_of(tiny_settings, surface_width=0)
    phase = SegmentPhase(model, TrainingSettings())
    freeze_all_but(phase)
    model.head.eval()
    clean, anomalous, masks, _ = batch()
    expected = loss_of_each(model.segment(anomalous), masks)[0].mean()
    none = torch.zeros(len(clean), dtype=torch.bool)
    torch.testing.assert_close(loss_of(phase, clean, anomalous, masks, none), expected)


def student_gradients(model):
    return {name: p.grad.clone() for name, p in model.student.named_parameters()}


def test_the_papers_phase_1_steps_are_the_public_recipes_at_any_batch_size(tiny_settings):
    """It sums the loss over its batch of 32; ours is 32 times the mean."""
    clean, anomalous, masks, broad = batch(32)
    model = model_of(tiny_settings, student="test_efficientnet")
    recipe = copy.deepcopy(model)
    phase = DenoisePhase(model, PAPER)
    freeze_all_but(phase)
    loss_of(phase, clean, anomalous, masks, broad).backward()
    ours = student_gradients(model)

    recipe.student.train()
    with torch.no_grad():
        teacher = recipe.teacher(recipe.normalize(clean))
    student = recipe.student(recipe.normalize(anomalous))
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        distance = 1 - (F.normalize(t, dim=1) * F.normalize(s, dim=1)).sum(1)  # [32, h, w]
        total = total + distance.sum() / (distance.shape[1] * distance.shape[2])
    total.backward()
    for name, gradient in student_gradients(recipe).items():
        size = gradient.abs().max().clamp_min(1e-4)
        assert (ours[name] - gradient).abs().max() <= 2e-3 * size, name

    # The same images twice: the published sum would double its steps.
    model.zero_grad()
    twice = (torch.cat([each, each]) for each in (clean, anomalous, masks, broad))
    loss_of(phase, *twice).backward()
    for name, gradient in student_gradients(model).items():
        size = gradient.abs().max().clamp_min(1e-4)
        assert (ours[name] - gradient).abs().max() <= 2e-3 * size, name


# ---- what learns and what is frozen


@pytest.mark.parametrize(
    ("kind", "learns"),
    [(DenoisePhase, "student."), (SegmentPhase, ("head.", "surface."))],
)
def test_a_phase_changes_its_own_networks_only(tiny_settings, kind, learns):
    model = model_of(tiny_settings)
    wanted = TrainingSettings()
    phase = kind(model, wanted)
    model.train().requires_grad_(True)  # whatever came before
    freeze_all_but(phase)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(phase, wanted)
    for step in range(2):
        loss_of(phase, *batch(seed=step)).backward()
        assert all(
            (p.grad is not None) == name.startswith(learns) for name, p in model.named_parameters()
        )
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith(learns) for name in changed)
    own = {n for n in before if n.startswith(learns)}
    # All of it, statistics too, but for weights whose gradient is 0 by symmetry.
    assert {n for n in own if "running" in n} <= changed
    assert len(changed) > 0.9 * len(own)
    assert not any(part.training for part in model.teacher.modules())


@pytest.mark.parametrize("kind", [DenoisePhase, SegmentPhase])
def test_checkpointing_changes_neither_gradients_nor_statistics(tiny_settings, kind):
    def learned(saving):
        model = model_of(tiny_settings, head="aspp", student="test_efficientnet")
        model.student.gradient_checkpointing = model.head.gradient_checkpointing = saving
        phase = kind(model, TrainingSettings())
        freeze_all_but(phase)
        for step in range(2):
            loss_of(phase, *batch(seed=step)).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return gradients | {f"buffer {n}": b for n, b in model.named_buffers()}

    plain, saving = learned(False), learned(True)
    assert plain.keys() == saving.keys()
    assert all(torch.equal(value, saving[name]) for name, value in plain.items())
