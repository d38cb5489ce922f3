"""Static INT8: convolutions with 8-bit weights and activations, ranges from images.

Dynamic quantisation, which needs no images, exists for matrix products only and would leave a
network of convolutions as it is; so ranges are measured on good images, half of them with
synthetic anomalies: a defect drives the compared features to where good parts never have them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from destseg.as_found import logging_as_found, without_remarks
from destseg.config import DataSettings, Settings, SynthesisSettings
from destseg.data.decoded import GoodImages
from destseg.data.images import padded, padded_mask
from destseg.data.roi import Roi, inspected_at
from destseg.errors import DataError, needs_extra
from destseg.exporting.export import metadata_of, openvino_files
from destseg.exporting.graph import INPUT
from destseg.fields import BUILTIN
from destseg.inference.backends import imports
from destseg.inference.bundle import Bundle
from destseg.inference.exports import Export
from destseg.synthesis.anomalies import add_anomalies
from destseg.synthesis.augment import View, show, show_mask
from destseg.synthesis.textures import as_grey_as, load_textures

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_DRAWN_ANEW = 16  # times, where an anomaly lies beside what is inspected


@dataclass(frozen=True)
class Scope:
    """How much of the network is quantised.

    Attributes:
        name: for the command line.
        text: in words.
        kept: patterns of the nodes' names that stay in fp32.
        sums: whether the residual sums between convolutions are quantised too.
    """

    name: str
    text: str
    kept: tuple[str, ...]
    sums: bool


ALWAYS = (
    "model/.*",  # the norms and products of features: few operations, wide ranges
    # The first stage at the image's size and the last convolution: the rounding of a pixel and
    # of a logit.  A tenth of the operations and most of the loss (benchmarks/NOTES.md).
    r"model\.(teacher|student\.encoder)\.features\.(conv_stem|conv1|blocks\.0\.).*",
    r"model\.(head|surface)\.classify.*",
)
SCOPES = (
    Scope("all", "all but the first stage and the last convolution", ALWAYS, True),
    Scope("convolutions", "the same with residual sums in fp32", ALWAYS, False),
    Scope(
        "head",
        "decoder and head, encoders in fp32",
        (*ALWAYS, r"model\.teacher\..*", r"model\.student\.encoder\..*"),
        True,
    ),
)
"""Tried in this order until one is accurate enough: ever slower, ever closer to fp32."""


def quantized(
    bundle: Bundle, export: Export, images: Pixels, scope: Scope, *, vnni: bool
) -> dict[str, bytes]:
    """Return the files of an exported form with INT8 arithmetic.

    For OpenVINO a bar is drawn on the standard output; NNCF has no switch for it.

    Args:
        bundle: that the export belongs to.
        export: in fp32, ``onnx`` or ``openvino``.
        images: uint8 RGB [n, h, w, 3] to measure the ranges of activations on.
        scope: how much is quantised.
        vnni: use all 8 bits of the weights, which only processors with VNNI add up without
            overflow; else 7 of them, right everywhere.

    Raises:
        MissingExtraError: if the quantiser is not installed.
    """
    with needs_extra("export", f"quantising for {export.name}"):
        if export.name == "openvino":
            return _with_nncf(bundle, export, images, scope, vnni)
        return _with_onnxruntime(export, images, scope, vnni)


def good_and_anomalous(
    paths: Sequence[Path], settings: Settings, roi: Roi | None, *, seed: int
) -> tuple[list[Pixels], list[Mask], list[Mask]]:
    """Return good images, every second one with a synthetic anomaly, and where that is.

    With tiles these are tiles, each with its own part of the region of interest.  Whole images
    would be closer to inspection, but one can have hundreds of tiles, and INT8 would have to
    compute them all for each scope; and most of them would be good, whatever is drawn.

    Args:
        paths: good images, at least 2.
        settings: of the bundle.
        roi: what is inspected; ``None`` is all.  Anomalies lie in it.
        seed: of the anomalies.

    Returns:
        Each uint8 [h, w, 3], as large as the networks see it but not padded; where it is
        anomalous, bool [h, w], nowhere in the first, third, ...; and what of it is inspected,
        bool [h, w].

    Raises:
        DataError: if an image cannot be read, or with ``skip_unreadable`` fewer than 2 can.
    """
    images = GoodImages(paths, settings.data)
    if len(images) < 2:
        raise DataError(
            "expected at least 2 good images that can be read, one to stay good and one to be "
            f"given an anomaly, got {len(images)} of {len(paths)}; add good images."
        )
    draw = np.random.default_rng(seed)
    # The last one is kept: good images are usually of one size.
    region_at = functools.lru_cache(maxsize=1)(functools.partial(inspected_at, roi))
    views = [_view(images[index], region_at, settings.data, draw) for index in range(len(images))]
    sizes = [(there.shape[0], there.shape[1]) for _, there in views]
    clean = np.stack([padded(image, settings.data.size) for image, _ in views])
    where = np.stack([padded_mask(there, settings.data.size) for _, there in views])
    # Not the textures of the training, which need not be on this machine.
    textures = load_textures(BUILTIN, settings.data.size, max_pixels=settings.data.max_pixels)
    generator = torch.Generator().manual_seed(seed)
    channels_first = torch.from_numpy(clean).permute(0, 3, 1, 2)
    anomalous, drawn = _anomalous(
        channels_first,
        as_grey_as(textures, clean),
        settings.synthesis,
        generator,
        torch.from_numpy(where[:, None]),
    )
    pixels = anomalous.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    masks = drawn[:, 0].numpy() > 0.5
    pixels[::2], masks[::2] = clean[::2], False
    return (
        [image[:height, :width] for image, (height, width) in zip(pixels, sizes, strict=True)],
        [mask[:height, :width] for mask, (height, width) in zip(masks, sizes, strict=True)],
        [there for _, there in views],
    )


def _anomalous(
    clean: Tensor,
    textures: Tensor,
    synthesis: SynthesisSettings,
    generator: torch.Generator,
    where: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what ``add_anomalies`` does, every second image with an anomaly if it can be.

    In a small region of interest few have one at first, and nothing could be compared.
    """
    always = replace(synthesis, anomaly_probability=1.0)
    anomalous, masks = add_anomalies(clean, textures, always, generator, where)
    for _ in range(_DRAWN_ANEW):
        missing = ~masks.flatten(1).any(dim=1)
        missing[::2] = False
        if not missing.any():
            break
        anomalous[missing], masks[missing] = add_anomalies(
            clean[missing], textures, always, generator, where[missing]
        )
    return anomalous, masks


def _view(
    image: Pixels,
    region_at: Callable[[tuple[int, int]], Mask],
    data: DataSettings,
    draw: np.random.Generator,
) -> tuple[Pixels, Mask]:
    """Return an image, or with tiles one of it, and what is inspected there."""
    inspected = region_at((image.shape[0], image.shape[1]))
    if not data.tile:
        return image, inspected
    view = _tile(inspected, data.size, draw)
    # Copies: a window would keep all of a large image in memory.
    return show(image, view).copy(), show_mask(inspected, view).copy()


def _tile(inspected: Mask, size: tuple[int, int], draw: np.random.Generator) -> View:
    """Return a tile with a pixel to inspect in its middle, as far as the image's borders allow.

    A tile from the region's box, as in training, can lie between its parts and show none.
    """
    in_rows = np.count_nonzero(inspected, axis=1)
    row = int(draw.choice(len(in_rows), p=in_rows / in_rows.sum()))
    column = int(draw.choice(np.flatnonzero(inspected[row])))
    y, x = (
        min(max(0, middle - side // 2), whole - side)
        for middle, side, whole in zip((row, column), size, inspected.shape, strict=True)
    )
    return View(y, x, *size)


def _with_nncf(
    bundle: Bundle, export: Export, images: Pixels, scope: Scope, vnni: bool
) -> dict[str, bytes]:
    from destseg.inference.backends.openvino_ import read_graph

    nncf = imports.nncf()
    advanced = nncf.AdvancedQuantizationParameters(
        # Without VNNI sums of two products overflow 16 bits; half the weights' range cannot.
        overflow_fix=nncf.OverflowFix.DISABLE if vnni else nncf.OverflowFix.ENABLE
    )
    # Not by its own set_log_level, which also changes handlers that others have put there.
    with without_remarks("nncf"):
        quantized_model = nncf.quantize(
            read_graph(export),
            nncf.Dataset([image[None] for image in images]),
            # Symmetric activations: with offsets the linear bottlenecks of Lite0 lost more.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(
                patterns=list(scope.kept), types=[] if scope.sums else ["Add"], validate=False
            ),
            advanced_parameters=advanced,
        )
    return openvino_files(quantized_model, metadata_of(bundle))


def _with_onnxruntime(export: Export, images: Pixels, scope: Scope, vnni: bool) -> dict[str, bytes]:
    imports.onnxruntime()
    with logging_as_found():  # one of its modules would let everybody's remarks through
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

    # With its clipping a convolution gives 0 to 6; without, the range is set by what is cut off.
    kinds = ["Conv", "Clip", "Relu", "AveragePool", "Resize"]
    with tempfile.TemporaryDirectory() as folder, _without_remarks():
        prepared, target = Path(folder, "prepared.onnx"), Path(folder, "model.onnx")
        quant_pre_process(str(export.model), str(prepared), skip_symbolic_shape=True)
        nodes = [node.name for node in onnx.load(prepared).graph.node]
        quantization.quantize_static(
            str(prepared),
            str(target),
            _Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*kinds, "Add"] if scope.sums else kinds,
            nodes_to_exclude=[
                name for name in nodes if any(re.fullmatch(kept, name) for kept in scope.kept)
            ],
            per_channel=True,
            reduce_range=not vnni,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            # The mean of the images' ranges, not the widest: one odd image is not the scale.
            extra_options={"CalibMovingAverage": True},
        )
        return {"model.onnx": target.read_bytes()}


class _Reader:
    """Gives ONNX Runtime's quantiser one image at a time, as it wants to be given them."""

    def __init__(self, images: Pixels) -> None:
        self._left: Iterator[Pixels] = iter(images)

    def get_next(self) -> dict[str, Pixels] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep what ONNX Runtime's quantiser logs, as nobody in particular, from the terminal."""

    def is_of_another(record: logging.LogRecord) -> bool:
        return Path(record.pathname).parent.name != "quantization"

    root = logging.getLogger()
    with logging_as_found():  # whoever logs so first is given a handler
        root.addFilter(is_of_another)
        try:
            yield
        finally:
            root.removeFilter(is_of_another)
