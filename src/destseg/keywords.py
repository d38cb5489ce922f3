"""Keywords that several functions take: every setting by its name, and what runs a model.

Type checkers see them by ``Unpack``; ``help()`` and completion by the signature that ``shows``
gives a function, with all of them and their defaults.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, TypeVar

from destseg.config import ImageSize, Room, Settings


class SettingsKeywords(TypedDict, total=False):
    """Every setting of every group by its name; ``destseg.Settings`` says what they mean."""

    image_size: ImageSize
    fit: Literal["stretch", "pad"]
    crop_size: int
    tile: bool
    tile_overlap: float
    roi: str | os.PathLike[str] | None
    max_pixels: int
    bit_depth: int
    filter_noise: bool
    skip_unreadable: bool
    rotation: float
    quarter_turns: bool
    cache_gib: float
    calibration_fraction: float
    calibration_minimum: int
    group_by: str
    light: float
    white_balance: float
    ramp: float
    noise: float
    defocus: float
    jpeg_quality: int
    shift: float
    teacher: str
    teacher_weights: str | os.PathLike[str] | None
    student: str
    student_width: int
    head: Literal["light", "aspp"]
    head_width: int
    head_dilations: tuple[int, ...]
    surface_width: int
    consensus: float
    textures: str | os.PathLike[str]
    perlin_units: Literal["cells", "pixels"]
    perlin_octaves: tuple[int, int]
    perlin_threshold: float
    perlin_scale: tuple[float, float]
    anomaly_area: tuple[float, float]
    opacity: tuple[float, float]
    anomaly_probability: float
    line_probability: float
    cutpaste_probability: float
    defect_fraction: float
    batch_size: int
    denoise_steps: int
    segment_steps: int
    cross_fit: int
    optimizer: Literal["adamw", "sgd"]
    lr_student: float
    lr_head_blocks: float
    lr_head: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "constant"]
    warmup_steps: int
    eta_min: float
    denoise_loss: Literal["cosine", "mse"]
    denoise_loss_scale: float
    segment_loss: Literal["focal_l1", "bce"]
    focal_gamma: float
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    device: str
    seed: int
    checkpoint_every: int
    log_every: int
    tensorboard: bool
    score_fraction: float
    max_false_alarm_rate: float
    confidence: float
    room: Room


class RuntimeKeywords(TypedDict, total=False):
    """What runs a model that is given by its folder; ``destseg.load`` says what they mean."""

    backend: str
    device: str
    threads: int | None
    cache: str | os.PathLike[str] | None
    batch_size: int


RUNTIME: Mapping[str, object] = {
    "backend": "auto",
    "device": "auto",
    "threads": None,
    "cache": None,
    "batch_size": 8,
}
"""Defaults of ``RuntimeKeywords``."""

Function = TypeVar("Function", bound=Callable[..., Any])


def shows(keywords: type) -> Callable[[Function], Function]:
    """Return a decorator: the signature tells ``**keywords`` one by one, with their defaults.

    Args:
        keywords: ``SettingsKeywords`` or ``RuntimeKeywords``.
    """
    defaults = Settings().flat() if keywords is SettingsKeywords else RUNTIME

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        names = {parameter.name for parameter in own}
        shown = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults[name],
                annotation=annotation.__forward_arg__,
            )
            for name, annotation in keywords.__annotations__.items()
            if name not in names
        ]
        function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
        return function

    return decorate
