"""The losses of the phases (paper, equations 2 to 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def denoise_loss(teacher: list[Tensor], student: list[Tensor], kind: str) -> Tensor:
    """Return how far the student's features are from the teacher's (section 3.2).

    Args:
        teacher: the teacher's taps of the clean images, [n, c_i, h_i, w_i] each.
        student: the student's of the anomalous ones, same shapes.
        kind: ``cosine``: 1 - cosine similarity over channels, or ``mse``.

    Returns:
        Scalar: sum over taps of the mean over images and positions, so that neither the batch
        size nor the image size changes it.
    """
    distances = []
    for t, s in zip(teacher, student, strict=True):
        if kind == "mse":
            distances.append(F.mse_loss(s.float(), t.float()))
        else:
            distances.append((1 - F.cosine_similarity(s.float(), t.float(), dim=1)).mean())
    return torch.stack(distances).sum()


def segment_loss(
    logits: Tensor, masks: Tensor, kind: str, gamma: float, ignored: Tensor | None = None
) -> Tensor:
    """Return how far the head's map is from the mask of anomalies (section 3.3).

    Args:
        logits: the head's [n, 1, h, w].
        masks: 1 where anomalous, else 0, same shape.
        kind: ``focal_l1``: focal loss (Lin et al., 2017, without class weights) plus L1 (equations
            5 and 6), or ``bce``.
        gamma: the focal loss's exponent.
        ignored: bool, same shape; positions with the loss 0; ``None``: none.

    Returns:
        Scalar: mean over images and positions, the ignored ones too, so that the mean of several
        processes' losses is the loss of their whole batch.
    """
    logits = logits.float()
    loss = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    if kind != "bce":
        # exp(-cross entropy) is the probability given to the true class, without another sigmoid.
        focal = (1 - torch.exp(-loss)).clamp_min(0) ** gamma * loss
        loss = focal + (torch.sigmoid(logits) - masks).abs()
    return loss.mean() if ignored is None else (loss * ~ignored).mean()


def masks_at_stride(masks: Tensor, stride: int) -> Tensor:
    """Return masks [n, 1, h, w] in {0, 1} at [n, 1, h/stride, w/stride]: bilinear, then >= 0.5."""
    small = F.interpolate(masks, scale_factor=1 / stride, mode="bilinear", align_corners=False)
    return (small >= 0.5).float()
