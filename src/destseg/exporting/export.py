"""A bundle's model as files for ONNX Runtime and OpenVINO, checked against the original."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import destseg
from destseg.data.faults import is_ours
from destseg.errors import BundleError, needs_extra
from destseg.inference.backends import Runtime, imports, open_backend
from destseg.inference.backends.torch_ import TorchBackend, load_model
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import TOLERANCE
from destseg.inference.exports import Export, load_export, require_place, save_export


def export(bundle: Bundle, to: str, on_step: Callable[[str], object] = lambda _: None) -> Export:
    """Write a bundle's model as ONNX or OpenVINO into the bundle, and check what it gives.

    Args:
        bundle: the trained model.
        to: ``onnx`` or ``openvino``.
        on_step: called with what is being done, as it begins.

    Returns:
        The exported form; its facts hold the largest difference of a map value that was seen.

    Raises:
        MissingExtraError: if the extras ``export`` or that of the runtime are not installed.
        BundleError: if the network cannot be exported, or its maps differ from PyTorch's by more
            than ``TOLERANCE``; nothing is left in the bundle then.
        DataError: if the bundle cannot be written to; known before the work.
    """
    require_place(bundle)
    with needs_extra("export", f"exporting to {to}"):
        from destseg.exporting.graph import OPSET, to_onnx
    model = load_model(bundle)
    versions = _versions("torch", "onnx", "onnxscript")
    graph = _made_before(bundle, versions) if to == "openvino" else None
    if graph is None:
        on_step("making the ONNX graph")
        graph = to_onnx(model, metadata_of(bundle)).SerializeToString()
    if to == "onnx":
        files = {"model.onnx": graph}
        versions |= _versions("onnxruntime")
    else:
        on_step("converting it to OpenVINO")
        with needs_extra("openvino", "exporting to openvino"):
            files = _to_openvino(graph, metadata_of(bundle))
        versions |= _versions("openvino")
    facts: dict[str, Any] = {"precision": "fp32", "opset": OPSET, "versions": versions}
    on_step("comparing its maps with PyTorch's")
    facts["largest_difference"] = difference(bundle, TorchBackend(model, "cpu"), to, files)
    if not facts["largest_difference"] <= TOLERANCE:  # NaN is no number that it admits
        raise BundleError(
            f"{bundle.folder}: expected maps of {to} within {TOLERANCE:g} of PyTorch's, got a "
            f"difference of {facts['largest_difference']:.2g}; nothing was written. Please report "
            "it with the network's name and the versions (destseg doctor)."
        )
    return save_export(bundle, to, files, facts)


def metadata_of(bundle: Bundle) -> dict[str, str]:
    """Return what the exported file says of itself, beside the arithmetic, as text.

    The threshold is the one at the time of the export; the bundle's calibration, which can be
    made anew without exporting again, is the one that decides.
    """
    settings, calibration = bundle.settings, bundle.calibration
    values: dict[str, Any] = {
        "format": 1,
        "preset": settings.preset,
        "image_size": settings.data.image_size,
        "fit": settings.data.fit,
        "tile": settings.data.tile,
        "tile_overlap": settings.data.tile_overlap if settings.data.tile else 0.0,
        "roi_sha256": bundle.roi_sha256,
        "input": "uint8 RGB [batch, height, width, 3]; height and width multiples of 32",
        "output": "float32 [batch, height, width] in [0, 1], higher is more anomalous",
        "score": "mean of the highest score_fraction of a map's values",
        "score_fraction": settings.decision.score_fraction,
        "weights_sha256": bundle.weights_sha256,
    }
    if calibration is not None:
        values |= {
            "threshold_at_export": calibration.threshold,
            "pixel_threshold_at_export": calibration.pixel_threshold,
            "guaranteed_false_alarm_rate": calibration.guaranteed_false_alarm_rate,
        }
    return {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}


def difference(bundle: Bundle, original: TorchBackend, name: str, files: dict[str, bytes]) -> float:
    """Return the largest difference of map values on noise of two sizes; 0 to 1.

    Raises:
        BundleError: if the exported files cannot run, at these sizes or at all.
    """
    runtime = Runtime(backend=name, device="cpu")
    generator = np.random.default_rng(0)
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = replace(bundle, folder=Path(folder))
        save_export(scratch, name, files, {})
        other = open_backend(scratch, runtime)
        # The second is of another batch, height and width than the first, and a small one.
        for size in ((1, *bundle.settings.data.size), (3, 96, 160)):
            images = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            expected = original(images)
            try:
                differences.append(np.abs(expected - other(images)).max())
            except Exception as error:  # ONNX Runtime's errors have no common class
                if is_ours(error):
                    raise
                raise BundleError(
                    f"{bundle.folder}: this network cannot be exported to {name}: with images of "
                    f"{size} (batch, height, width) it fails: {error}"
                ) from error
    return float(np.max(differences))  # NaN where one is, which max may pass over


def _to_openvino(content: bytes, values: dict[str, str]) -> dict[str, bytes]:
    from destseg.inference.backends.openvino_ import core

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.onnx")
        source.write_bytes(content)
        # Not by its convert_model, which tells Google Analytics of it.
        return openvino_files(core().read_model(source), values)


def openvino_files(model: Any, values: dict[str, str]) -> dict[str, bytes]:
    """Return the .xml and .bin of an OpenVINO model, with values as its runtime information."""
    openvino = imports.openvino()
    for name, value in values.items():
        model.set_rt_info(value, ["destseg", name])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "model.xml")
        openvino.save_model(model, target, compress_to_fp16=False)
        return {
            "model.xml": target.read_bytes(),
            "model.bin": target.with_suffix(".bin").read_bytes(),
        }


def _made_before(bundle: Bundle, versions: dict[str, str]) -> bytes | None:
    """Return the graph of the bundle's ONNX form, if it would be made the same again."""
    try:
        form = load_export(bundle, "onnx")
    except BundleError:
        return None
    made_with = form.facts.get("versions") or {}
    ours = form.facts.get("destseg") == destseg.__version__
    if not (ours and versions.items() <= made_with.items()):
        return None
    return form.read()[form.model.name]


def _versions(*names: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
