"""Teacher, student and head composed into the module that is trained and exported."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from destseg.config import SHARED, ModelSettings
from destseg.errors import DataError
from destseg.fields import SIDE, STRIDE
from destseg.model.backbone import Backbone
from destseg.model.head import Head, SurfaceHead, build_head
from destseg.model.layers import upsample
from destseg.model.student import SharedStudent, Student

TEACHER_STRIDES = (4, 8, 16)

SURFACE_WEIGHT = 0.9
"""What the surface head may say at most, so that it is never above a sure find of the main head."""


class DeSTSeg(nn.Module):
    """From pixels to an anomaly map, all arithmetic inside (paper, figure 2).

    Args:
        teacher: features at strides 4, 8 and 16; frozen, always in eval mode.
        student: features of the same shapes.
        head: logits from the compared features.
        surface: a second head, for broad regions of another surface; ``None`` as in the paper.
        consensus: how much of the map is the lower of the two heads' answers, in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        teacher: Backbone,
        student: Student | SharedStudent,
        head: Head,
        surface: SurfaceHead | None = None,
        consensus: float = 0.0,
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student
        self.head = head
        self.surface = surface
        self.consensus = consensus
        # In pixel values, so that one subtraction and one division normalise an image.
        self.register_buffer("mean", 255 * torch.tensor(teacher.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(teacher.std).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> DeSTSeg:
        """Set the training mode of student and head; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the anomaly map of images.

        Args:
            images: RGB [n, 3, h, w], uint8 or float in [0, 255]; h, w multiples of 32.

        Returns:
            float [n, 1, h, w] in [0, 1], higher is more anomalous.

        Raises:
            DataError: if h or w is no multiple of 32.
        """
        teacher, student = self._frozen_features(images)
        compared = compare(teacher, student)
        finest = _probabilities(self.head(compared))
        if self.surface is not None:
            broad = _probabilities(self.surface(describe(teacher, compared)))
            finest = _joined(finest, upsample(SURFACE_WEIGHT * broad, 2), self.consensus)
        return upsample(finest, TEACHER_STRIDES[0])

    def segment(self, images: Tensor) -> Tensor:
        """Return the head's logits [n, 1, h/4, w/4] for images as in ``forward``."""
        return cast(Tensor, self.head(compare(*self._frozen_features(images))))

    def _frozen_features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        _require_whole_strides(images)
        # Only heads are trained on this path: no graph for what is frozen.
        with torch.no_grad():
            return self.features(self.normalize(images))

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the teacher's and the student's taps of normalised images, finest first."""
        teacher = self.teacher(x)
        return teacher, self.student(teacher if self.student.reads_taps else x)

    def normalize(self, images: Tensor) -> Tensor:
        """Return float images with the teacher's mean and standard deviation taken out."""
        return (images.to(self.mean.dtype) - self.mean) / self.std


def _require_whole_strides(images: Tensor) -> None:
    """Refuse sides from which the networks would make a map of another size, or fail inside."""
    height, width = images.shape[2:]
    if height % STRIDE or width % STRIDE or not height or not width:
        raise DataError(
            f"expected images whose height and width are multiples of {STRIDE}, got {height} and "
            f"{width}. Resize or pad them."
        )


def _probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid of a head's logits [n, 1, h, w] in float32."""
    # Out of the channels' axis and back: ONNX Runtime would work on blocks of 16 channels, of
    # which one is there, up to the image's size (measured: 3 % of the whole).
    return torch.sigmoid(logits.float()[:, 0].unsqueeze(1))


def _joined(one: Tensor, other: Tensor, consensus: float) -> Tensor:
    """Return the higher of two answers, less a part of how far the lower one is below it."""
    higher = torch.maximum(one, other)
    return higher - consensus * (one - other).abs() if consensus else higher


def _at_unit_length(x: Tensor) -> Tensor:
    """Return features [n, c, h, w] divided by their length over the channels.

    As ``F.normalize``, which first spreads the lengths over the channels: in an exported graph that
    is an operation, and OpenVINO really does it (measured: 12 % of the whole).
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.clamp_min(1e-12)


def compare(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """Return how teacher and student agree, channel by channel (paper, section 3.3).

    Args:
        teacher: taps [n, c_i, h_i, w_i], finest first.
        student: the same shapes.

    Returns:
        The same shapes: products of the features, each normalised to unit length over its
        channels.  Over the channels of a tap they sum to the cosine similarity.
    """
    return [
        _at_unit_length(t.float()) * _at_unit_length(s.float())
        for t, s in zip(teacher, student, strict=True)
    ]


def describe(teacher: list[Tensor], compared: list[Tensor]) -> list[Tensor]:
    """Return what the surface head is given: the teacher's own features beside the agreement.

    Args:
        teacher: taps [n, c_i, h_i, w_i], finest first.
        compared: the same shapes, as ``compare`` gives them.

    Returns:
        [n, 2 c_i, h_i, w_i] of all strides but the finest; the teacher's at unit length.
    """
    # Here and not in the head, so that INT8 leaves these norms in fp32 with those of ``compare``.
    return [
        torch.cat([_at_unit_length(t.float()), c], dim=1)
        for t, c in zip(teacher[1:], compared[1:], strict=True)
    ]


def build_model(
    settings: ModelSettings,
    teacher: Backbone | None = None,
    *,
    image_size: tuple[int, int] = (SIDE, SIDE),
) -> DeSTSeg:
    """Return DeSTSeg as the settings say, student and head with random weights.

    Args:
        settings: the networks' names and widths.
        teacher: a teacher with its pretrained weights; ``None`` makes one with random weights,
            for a bundle's weights to be loaded into.
        image_size: (height, width) of the images in pixels, for networks that are built for one.
    """
    teacher = teacher or Backbone(settings.teacher, TEACHER_STRIDES, image_size=image_size)
    student = (
        SharedStudent(teacher.channels, settings.student_width)
        if settings.student == SHARED
        else Student(settings.student, teacher.channels, image_size)
    )
    head = build_head(settings.head, teacher.channels, settings.head_width, settings.head_dilations)
    # Last, so that the others' weights are drawn as they are without it.
    width = settings.surface_width
    surface = SurfaceHead(teacher.channels, width) if width else None
    return DeSTSeg(teacher, student, head, surface, settings.consensus)
