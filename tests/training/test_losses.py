import cv2
import numpy as np
import pytest
import torch

from destseg.training.losses import denoise_loss, masks_at_stride, segment_loss


def taps(seed, n=3):
    random = np.random.default_rng(seed)
    return [random.normal(size=(n, c, s, s + 2)) for c, s in [(5, 8), (7, 4), (4, 2)]]


def tensors(arrays):
    return [torch.from_numpy(a).float() for a in arrays]


def test_cosine_loss_is_the_papers_equation():
    t, s = taps(0), taps(1)
    expected = 0.0
    for a, b in zip(t, s, strict=True):
        n, _, h, w = a.shape
        for k in range(n):
            for i in range(h):
                for j in range(w):
                    x, y = a[k, :, i, j], b[k, :, i, j]
                    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
                    expected += (1 - cosine) / (n * h * w)
    assert denoise_loss(tensors(t), tensors(s), "cosine").item() == pytest.approx(
        expected, rel=1e-5
    )


def test_mse_loss_is_the_mean_square_of_each_tap():
    t, s = taps(0), taps(1)
    expected = sum(((a - b) ** 2).mean() for a, b in zip(t, s, strict=True))
    assert denoise_loss(tensors(t), tensors(s), "mse").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_equal_features_cost_nothing_and_a_batch_twice_costs_the_same(kind):
    t, s = tensors(taps(0)), tensors(taps(1))
    assert denoise_loss(t, t, kind).item() == pytest.approx(0, abs=1e-6)
    twice = denoise_loss([torch.cat([a, a]) for a in t], [torch.cat([b, b]) for b in s], kind)
    torch.testing.assert_close(twice, denoise_loss(t, s, kind))


def logits_and_masks():
    random = np.random.default_rng(2)
    return random.normal(0, 3, (2, 1, 6, 5)), (random.random((2, 1, 6, 5)) < 0.3).astype(float)


def literal(logits, masks, kind, gamma):
    p = 1 / (1 + np.exp(-logits))
    p_true = np.where(masks == 1, p, 1 - p)
    if kind == "bce":
        return -np.log(p_true).mean()
    focal = -((1 - p_true) ** gamma) * np.log(p_true)
    return focal.mean() + np.abs(p - masks).mean()


@pytest.mark.parametrize(
    ("kind", "gamma"), [("focal_l1", 4.0), ("focal_l1", 2.0), ("focal_l1", 0.0), ("bce", 4.0)]
)
def test_segment_loss_is_its_literal_form(kind, gamma):
    logits, masks = logits_and_masks()
    ours = segment_loss(*tensors([logits, masks]), kind, gamma)
    assert ours.item() == pytest.approx(literal(logits, masks, kind, gamma), rel=1e-5)


@pytest.mark.parametrize("kind", ["focal_l1", "bce"])
def test_segment_loss_has_the_literal_ones_gradient(kind):
    logits, masks = logits_and_masks()
    z = torch.from_numpy(logits).float().requires_grad_()
    segment_loss(z, torch.from_numpy(masks).float(), kind, 4.0).backward()
    for index in [(0, 0, 0, 0), (1, 0, 3, 2), (0, 0, 5, 4)]:
        up, down = logits.copy(), logits.copy()
        up[index] += 1e-4
        down[index] -= 1e-4
        slope = (literal(up, masks, kind, 4.0) - literal(down, masks, kind, 4.0)) / 2e-4
        assert z.grad[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("kind", ["focal_l1", "bce"])
def test_extreme_logits_have_finite_losses_and_gradients(kind):
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0, 0.0]).view(1, 1, 1, 5).requires_grad_()
    masks = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 5)
    loss = segment_loss(logits, masks, kind, 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("stride", [4, 8])
def test_masks_are_bilinear_and_then_at_least_half(stride):
    # Without antialiasing a bilinear pixel is the mean of the four around its centre.
    masks = np.random.default_rng(3).random((2, 1, 48, 64)).round()
    a = stride // 2
    four = sum(masks[:, :, i::stride, j::stride] for i in (a - 1, a) for j in (a - 1, a)) / 4
    assert set(np.unique(four)) == {0, 0.25, 0.5, 0.75, 1}
    small = masks_at_stride(torch.from_numpy(masks).float(), stride)
    np.testing.assert_array_equal(small.numpy(), (four >= 0.5).astype(np.float32))


def test_masks_at_stride_agree_with_opencv():
    mask = np.zeros((64, 96), np.float32)
    cv2.circle(mask, (40, 30), 17, 1.0, -1)
    expected = cv2.resize(mask, (24, 16), interpolation=cv2.INTER_LINEAR) >= 0.5
    small = masks_at_stride(torch.from_numpy(mask)[None, None], 4)[0, 0].numpy()
    np.testing.assert_array_equal(small, expected)
