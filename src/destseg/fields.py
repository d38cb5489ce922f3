"""Every setting of a run, in groups: its default, its documentation and its range.

The defaults are the preset ``fast``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from destseg.validation import (
    ANY,
    BELOW_1,
    CROP_SIZE,
    CROSS_FIT,
    DILATIONS,
    FRACTION,
    FRACTION_ABOVE_0,
    GROUP_BY,
    IMAGE_SIZE,
    OPACITY,
    PATH,
    POSITIVE,
    ROOM,
    Rule,
    at_least,
    between,
    rising,
)

BUILTIN = "builtin"
"""``textures`` where they are those that come with an installed package."""

EACH_IMAGE = "image"
"""``group_by`` where every image counts by itself."""

BY_FOLDER = "folder"
"""``group_by`` where the images of a folder count together."""

ALIKE = "alike"
"""``group_by`` where images that look nearly the same count together; their groups have no names
that another look at other images would give them."""

SHARED = "shared"
"""The student without an encoder of its own."""

ImageSize: TypeAlias = int | tuple[int, int] | Literal["auto"]
"""A side, (height, width), or ``auto``: the shape of the images."""

Room: TypeAlias = float | Literal["auto"]
"""How far a threshold rises towards synthetic anomalies, or ``auto``: half of the way, but not
above ``EVEN``."""

EVEN = 0.5
"""Map value at which the heads hold a defect as likely as none."""

STRIDE = 32
"""What the sides of images are multiples of: the coarsest stride of the networks."""

SIDE = 256
"""Side in pixels of the square that ``auto`` has the area of (the paper's image size)."""

_CROPPED = 1.5  # times the crop's area from which on images are cropped

# What may differ between a run and its resumption without changing the weights.
HARMLESS = {
    "cache_gib",
    "checkpoint_every",
    "cross_fit",
    "log_every",
    "confidence",
    "room",
    "max_false_alarm_rate",
    "max_pixels",
    "skip_unreadable",
    "teacher_weights",
    "tile_overlap",
    "tensorboard",
}
# The same of a finished model, whose calibration and known defects are bound to these too.
HARMLESS_WHEN_FINISHED = HARMLESS - {
    "confidence",
    "room",
    "cross_fit",
    "max_false_alarm_rate",
    "tile_overlap",
}


def setting(default: Any, text: str, rule: Rule = ANY) -> Any:
    """Return a field with its documentation, which the flags and the docs show, and its range."""
    return field(default=default, metadata={"help": text, "rule": rule})


@dataclass(frozen=True)
class DataSettings:
    """The images: how they are read, turned and held in memory."""

    image_size: ImageSize = setting(
        "auto",
        "Size in pixels to which every image is resized: HEIGHTxWIDTH, one number for a square, "
        "or auto: the good images' own shape with the area of 256x256, a square if their shapes "
        "differ. With tile, one number: the side of a tile.",
        IMAGE_SIZE,
    )
    fit: Literal["stretch", "pad"] = setting(
        "stretch",
        "How images of other shapes become that size: stretch, or pad: they keep their shape, "
        "and what is added to it is neither damaged nor scored.",
    )
    crop_size: int = setting(
        256,
        "Where images of image-size have half as many pixels again as a square of this side, "
        "training sees random crops with the area of that square, and inspection the whole image. "
        "0 always trains on whole images.",
        CROP_SIZE,
    )
    tile: bool = setting(
        False,
        "Cut images into tiles of image-size instead of shrinking them, so that small defects "
        "keep their pixels; training sees random crops.",
    )
    tile_overlap: float = setting(
        0.25,
        "Fraction of a tile's side by which neighbouring tiles overlap.",
        between(0, 0.75),
    )
    roi: str | None = setting(
        None,
        "Region of interest: an image file whose marked pixels (not 0) are inspected, or a .json "
        "file with polygons in fractions of width and height. It is stretched to every image.",
        PATH,
    )
    max_pixels: int = setting(
        100_000_000,
        "Refuse an image with more pixels than this before it is decoded (decompression bombs).",
        at_least(1),
    )
    bit_depth: int = setting(
        16,
        "Bits that the values of 16-bit images use: 12 for a camera of 12 bits whose values, 0 to "
        "4095, lie in 16-bit files. Images of 8 bits stay as they are.",
        between(8, 16),
    )
    filter_noise: bool = setting(
        True,
        "Filter a camera's noise out of an image before it is inspected, as far as it is more than "
        "any good image had in training. Off is right where a fine grain all over a part is a "
        "defect.",
    )
    skip_unreadable: bool = setting(
        False, "Train without the images that cannot be read instead of stopping."
    )
    rotation: float = setting(
        0.0,
        "Rotate good images at random by up to this many degrees either way, for parts that do "
        "not always lie straight. The new corners are grey (114); where shift is above 0, "
        "in half of the images the border's pixels go on instead.",
        between(0, 180),
    )
    quarter_turns: bool = setting(
        False,
        "Also rotate good images by 90, 180 or 270 degrees, for parts that lie any way round; "
        "where training does not see squares, by 180 alone.",
    )
    cache_gib: float = setting(
        4.0,
        "Memory in GiB for decoded images; those beyond it are read again at each use.",
        at_least(0),
    )
    calibration_fraction: float = setting(
        0.1,
        "Fraction of the good images kept from training for the calibration set, which fits the "
        "threshold, though never more than half of all.",
        FRACTION,
    )
    calibration_minimum: int = setting(
        10,
        "Fewest good images in the calibration set, though never more than half of all.",
        at_least(1),
    )
    group_by: str = setting(
        EACH_IMAGE,
        "What good images have in common with each other and not with tomorrow's. A group is kept "
        "from training whole and counts once, however many images it has, and the rate is then "
        "guaranteed for a new image of a new group. image: none have anything; folder: those of a "
        "folder; name:REGEX: those whose file names have the same in the pattern's brackets; "
        "column:NAME: those with the same in a column of the list (.csv); day: those taken on a "
        "day (EXIF); alike: those that look nearly the same, as of one part.",
        GROUP_BY,
    )

    @property
    def size(self) -> tuple[int, int]:
        """What the networks see, (height, width) in pixels; ``auto`` without images is square."""
        if isinstance(self.image_size, tuple):
            return self.image_size
        side = SIDE if self.image_size == "auto" else self.image_size
        return side, side

    @property
    def crop(self) -> tuple[int, int] | None:
        """(height, width) of the random crops that training sees; ``None`` if it sees the whole."""
        if self.tile:
            return self.size
        height, width = self.size
        area = self.crop_size**2
        if area == 0 or height * width < _CROPPED * area:
            return None
        short = min(height, width, self.crop_size)
        long = area // short // STRIDE * STRIDE
        return (short, min(width, long)) if height <= width else (min(height, long), short)


@dataclass(frozen=True)
class VariationSettings:
    """Changes that are no defect: good images meet them in training, so that they raise no alarm.

    Training adds what the good images do not vary by among themselves.  Noise costs accuracy where
    there is none (benchmarks/NOTES.md), so it is off unless asked for.
    """

    light: float = setting(
        0.25,
        "How far the light of your line may change, as the natural logarithm of a factor: 0.25 is "
        "22 % darker to 28 % brighter, and its gamma alike. 0 if brightness alone shows a defect.",
        between(0, 1),
    )
    white_balance: float = setting(
        0.05,
        "The same for each colour alone: 0.05 for lamps that turn warmer or colder. 0 if colour "
        "alone shows a defect.",
        between(0, 1),
    )
    ramp: float = setting(
        0.2,
        "How much more light there may be at one border than at the other, as a fraction. 0 if a "
        "shade across the whole part shows a defect.",
        between(0, 1),
    )
    noise: float = setting(
        0.0,
        "Largest noise of the camera that training adds, as its standard deviation in grey levels "
        "(of 255) at image-size; with filter-noise training sees what the filter leaves of it. "
        "Defects are then outlined less well: try without it first.",
        between(0, 50),
    )
    defocus: float = setting(
        1.0,
        "Largest blur of a camera out of focus, as the sigma of a Gaussian in pixels of "
        "image-size. 0 if a blurred surface is a defect.",
        between(0, 20),
    )
    jpeg_quality: int = setting(
        60,
        "Lowest quality at which images may be stored as JPEG. 100 if none ever is.",
        between(1, 100),
    )
    shift: float = setting(
        0.02,
        "How far a part may lie from its place, and how much larger or smaller it may appear, as "
        "a fraction of the image. 0 if a part a little out of place is a defect.",
        between(0, 0.5),
    )


UNCHANGED = VariationSettings(
    light=0.0, white_balance=0.0, ramp=0.0, noise=0.0, defocus=0.0, jpeg_quality=100, shift=0.0
)
"""Good images as they are, as in the paper."""


@dataclass(frozen=True)
class ModelSettings:
    """The networks: frozen teacher, denoising student, segmentation head."""

    teacher: str = setting(
        "tf_efficientnet_lite0",
        "Pretrained backbone: any timm name that offers features at strides 4, 8 and 16.",
    )
    teacher_weights: str | None = setting(
        None,
        "File with the teacher's pretrained weights (.safetensors, .pth, .pt or .bin); without it "
        "an installed weight package is used, then the model hub.",
        PATH,
    )
    student: str = setting(
        SHARED,
        "The student's encoder: shared (the student reads the teacher's features of the image, so "
        "one encoder serves both) or, as in the paper, its own with random weights: any timm name "
        "that offers features at strides 4, 8, 16 and 32.",
    )
    student_width: int = setting(
        128, "student=shared: channels of the student's bottleneck.", at_least(8)
    )
    head: Literal["light", "aspp"] = setting(
        "light",
        "Segmentation head: light (separable blocks at strides 4 to 32) or aspp (the paper's: two "
        "residual blocks and atrous spatial pyramid pooling).",
    )
    head_width: int = setting(96, "Channels inside the head.", at_least(8))
    head_dilations: tuple[int, ...] = setting(
        (6, 12, 18), "head=aspp: dilations of the parallel 3x3 convolutions.", DILATIONS
    )
    surface_width: int = setting(
        64,
        "Channels of the surface head, which finds broad regions whose surface looks different; 0 "
        "leaves it out, as in the paper.",
        at_least(0),
    )
    consensus: float = setting(
        0.25,
        "With a surface head: how much of the map is the lower of the two heads' answers, the rest "
        "is the higher, so that what both mark stands above what one marks. 0: the higher alone.",
        FRACTION,
    )


@dataclass(frozen=True)
class SynthesisSettings:
    """The synthetic anomalies that good images are given (section 3.1)."""

    textures: str = setting(
        BUILTIN,
        "Textures to lay over good images: a folder of images (searched to any depth, for "
        "example DTD), or builtin: the photographs that come with scikit-image.",
        PATH,
    )
    perlin_units: Literal["cells", "pixels"] = setting(
        "cells",
        "How masks are drawn from Perlin noise: cells (the paper's: 2^k cells a side, fixed "
        "threshold, rotated) or pixels (cells of perlin-scale pixels, threshold set so that "
        "they cover anomaly-area of the image).",
    )
    perlin_octaves: tuple[int, int] = setting(
        (0, 5),
        "perlin-units=cells: smallest and largest k of the 2^k cells per side, drawn per axis.",
        rising(0, 10),
    )
    perlin_threshold: float = setting(
        0.5, "perlin-units=cells: noise, at most 1, above this is an anomaly.", BELOW_1
    )
    perlin_scale: tuple[float, float] = setting(
        (50.0, 150.0),
        "perlin-units=pixels: smallest and largest cell side in pixels.",
        rising(1, 1e6),
    )
    anomaly_area: tuple[float, float] = setting(
        (0.15, 0.30),
        "perlin-units=pixels: smallest and largest fraction of the image that is covered.",
        rising(0, 1, above=True),
    )
    opacity: tuple[float, float] = setting(
        (0.2, 1.0),
        "Smallest and largest weight of the texture where it covers the image (1 - beta).",
        OPACITY,
    )
    anomaly_probability: float = setting(
        1.0, "Probability that a training image is given an anomaly.", FRACTION_ABOVE_0
    )
    line_probability: float = setting(
        0.25,
        "Probability that an anomaly is made of thin lines, darker or brighter than the part, "
        "instead of a texture, for cracks, scratches and hairs.",
        FRACTION,
    )
    cutpaste_probability: float = setting(
        0.3,
        "Phase 2, with a surface head, for which it is: probability that an anomaly is a broad "
        "region of another good image (CutPaste-style) instead of a texture.",
        FRACTION,
    )
    defect_fraction: float = setting(
        0.3,
        "Phase 2, with --defects: fraction of each batch that are known defects, images of them or "
        "cut out and laid onto good images; the rest are synthetic anomalies, so that what was "
        "never seen is still found.",
        FRACTION,
    )


@dataclass(frozen=True)
class TrainingSettings:
    """The phases and their optimiser (section 4.1)."""

    batch_size: int = setting(8, "Images per step.", at_least(2))
    denoise_steps: int = setting(400, "Steps of phase 1, in which the student learns.", at_least(1))
    segment_steps: int = setting(1400, "Steps of phase 2, in which the heads learn.", at_least(1))
    cross_fit: int = setting(
        0,
        "With --defects: let the heads learn so many times more, each time without a part of the "
        "types that have fewer than 4 images with a mask, to measure how many like them would be "
        "missed; 0 leaves that unknown.",
        CROSS_FIT,
    )
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "Optimiser of all phases.")
    lr_student: float = setting(4e-3, "Learning rate of the student in phase 1.", POSITIVE)
    lr_head_blocks: float = setting(
        2e-3, "Learning rate of the head's first blocks in phase 2.", POSITIVE
    )
    lr_head: float = setting(2e-3, "Learning rate of the rest of the heads in phase 2.", POSITIVE)
    momentum: float = setting(0.9, "Momentum of optimizer=sgd.", FRACTION)
    weight_decay: float = setting(1e-4, "Weight decay of the optimiser.", at_least(0))
    schedule: Literal["cosine", "constant"] = setting(
        "cosine",
        "Learning rate over a phase: a half cosine down to eta-min, or constant.",
    )
    warmup_steps: int = setting(
        20, "Steps at the start over which the learning rate rises linearly.", at_least(0)
    )
    eta_min: float = setting(
        0.0,
        "schedule=cosine: where the learning rate ends, as a fraction of where it begins.",
        FRACTION,
    )
    denoise_loss: Literal["cosine", "mse"] = setting(
        "cosine",
        "Distance of student and teacher features: 1 - cosine, or mean squared error.",
    )
    denoise_loss_scale: float = setting(
        1.0,
        "Factor on the mean loss of phase 1. The public recipe sums over its batch of 32: the "
        "preset paper has 32 here, which gives the same steps at any batch size.",
        POSITIVE,
    )
    segment_loss: Literal["focal_l1", "bce"] = setting(
        "focal_l1", "Loss of the head: focal plus L1, or binary cross entropy."
    )
    focal_gamma: float = setting(4.0, "segment-loss=focal_l1: exponent gamma.", at_least(0))
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "Arithmetic of the networks in training; fp16 scales the loss and needs a GPU."
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    device: str = setting("auto", "Where to train: cpu, cuda, mps, or auto: a GPU if there is one.")
    seed: int = setting(0, "Seed of all random numbers.", at_least(0))
    checkpoint_every: int = setting(100, "Steps between saved states.", at_least(1))
    log_every: int = setting(10, "Steps between lines of the log.", at_least(1))
    tensorboard: bool = setting(False, "Also write TensorBoard event files into the output folder.")


@dataclass(frozen=True)
class DecisionSettings:
    """The score and the threshold."""

    score_fraction: float = setting(
        100 / 65536,
        "The image score is the mean of the highest pixels of the map: this fraction of them.",
        FRACTION_ABOVE_0,
    )
    max_false_alarm_rate: float = setting(
        0.01,
        "Largest fraction of good parts that may be called defective; sets the threshold from the "
        "calibration images.",
        FRACTION_ABOVE_0,
    )
    confidence: float = setting(
        0.0,
        "Let that rate hold with this confidence over the choice of calibration images (0.95 takes "
        "59 of them for 5 %, 299 for 1 %); 0: in the mean over all choices.",
        BELOW_1,
    )
    room: Room = setting(
        "auto",
        "How far the threshold rises from the calibration images towards synthetic anomalies, "
        "where these score higher (19 of 20 of them): good parts of another day have that room, "
        "faint or small defects score in it. 0 not at all, 0.5 half of the way; auto: half of "
        "the way, but not above a score of 0.5.",
        ROOM,
    )
