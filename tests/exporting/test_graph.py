"""The exported files against PyTorch, and what is written in them."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from destseg.errors import BundleError, DataError
from destseg.exporting import export as module
from destseg.exporting.export import export, metadata_of
from destseg.exporting.graph import OPSET, to_onnx
from destseg.inference.backends import Runtime, open_backend
from destseg.inference.backends.torch_ import load_model
from destseg.inference.bundle import Bundle
from destseg.inference.exports import find_exports, load_export

SIZES = [(1, 64, 64), (3, 64, 64), (2, 96, 160), (1, 128, 32)]


@pytest.fixture(scope="module")
def proto(quantisable_bundle: Bundle):
    return onnx.load(load_export(quantisable_bundle, "onnx").model)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_maps_are_those_of_pytorch_at_any_batch_height_and_width(name, size, quantisable_bundle):
    images = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = open_backend(quantisable_bundle, Runtime("torch", "cpu"))(images)
    maps = open_backend(quantisable_bundle, Runtime(name, "cpu"))(images)
    assert maps.dtype == np.float32
    assert maps.shape == size
    assert expected.std() > 0.01  # else anything would agree
    np.testing.assert_allclose(maps, expected, atol=1e-5)


WRONG_SIZES = [(1, 97, 161), (2, 33, 64), (1, 65, 64), (1, 64, 33), (1, 100, 160), (1, 31, 31)]


@pytest.mark.parametrize("threads", [None, 1])  # of one OpenVINO's infer tells no errors
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_sides_that_are_no_multiples_of_32_are_refused_by_name(name, threads, quantisable_bundle):
    backend = open_backend(quantisable_bundle, Runtime(name, "cpu", threads))
    for size in WRONG_SIZES:
        with pytest.raises(Exception, match="height_and_width_must_be_multiples_of_32"):
            backend(np.zeros((*size, 3), np.uint8))
        # And nothing of it stays, nor of what was right before it.
        assert backend(np.zeros((1, 64, 32, 3), np.uint8)).shape == (1, 64, 32)


def test_pytorchs_backend_refuses_them_with_an_error_of_ours(quantisable_bundle):
    backend = open_backend(quantisable_bundle, Runtime("torch", "cpu"))
    for size in WRONG_SIZES:
        with pytest.raises(DataError, match=f"multiples of 32, got {size[1]} and {size[2]}"):
            backend(np.zeros((*size, 3), np.uint8))


def test_the_file_is_valid_onnx_with_named_free_axes(proto):
    onnx.checker.check_model(proto, full_check=True)
    assert [opset.version for opset in proto.opset_import if not opset.domain] == [OPSET]
    (given,), (made,) = proto.graph.input, proto.graph.output
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert made.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    axes = [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]
    assert axes == ["batch", "height", "width", 3]
    axes = [axis.dim_param for axis in made.type.tensor_type.shape.dim]
    assert axes == ["batch", "height", "width"]


def test_batch_norms_are_folded(proto):
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_nodes_are_named_for_their_modules_and_say_nothing_of_this_machine(proto):
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    parts = {name.split(".")[1] for name in convolutions}
    assert parts == {"teacher", "student", "head", "surface"}
    assert b"/src/" not in proto.SerializeToString()
    assert b"site-packages" not in proto.SerializeToString()


def test_onnx_says_what_it_is(proto, quantisable_bundle):
    notes = {note.key: note.value for note in proto.metadata_props}
    calibration = quantisable_bundle.calibration
    assert notes["destseg.preset"] == "fast"
    assert json.loads(notes["destseg.image_size"]) == 64
    assert json.loads(notes["destseg.tile"]) is False
    assert json.loads(notes["destseg.threshold_at_export"]) == calibration.threshold
    assert notes["destseg.weights_sha256"] == quantisable_bundle.weights_sha256
    assert json.loads(notes["destseg.score_fraction"]) == pytest.approx(100 / 65536)


def test_openvino_says_the_same(quantisable_bundle):
    import openvino

    model = openvino.Core().read_model(load_export(quantisable_bundle, "openvino").model)
    for name, value in metadata_of(quantisable_bundle).items():
        assert str(model.get_rt_info(["destseg", name]).value) == value


def test_an_export_that_differs_is_refused_and_nothing_is_left(
    quantisable_bundle, tmp_path, monkeypatch
):
    import torch

    shutil.copytree(quantisable_bundle.folder, tmp_path / "b", ignore=lambda *_: ["exports"])
    bundle = replace(quantisable_bundle, folder=tmp_path / "b")
    made = load_export(quantisable_bundle, "onnx").model.read_bytes()

    class Made:
        def SerializeToString(self):  # noqa: N802 - as protobuf calls it
            return made

    def other(_bundle):
        model = load_model(bundle)
        with torch.no_grad():
            model.head.classify.bias += 0.01
        return model

    monkeypatch.setattr("destseg.exporting.graph.to_onnx", lambda *_: Made())
    assert export(bundle, "onnx").facts["largest_difference"] < 1e-5
    monkeypatch.setattr("destseg.exporting.export.load_model", other)
    shutil.rmtree(bundle.folder / "exports")
    with pytest.raises(BundleError, match=r"within 0.0001 of PyTorch's, got a difference of 0.00"):
        export(bundle, "onnx")
    assert find_exports(bundle) == []


def test_a_network_that_cannot_be_traced_is_a_bundle_error(quantisable_bundle):
    model = load_model(quantisable_bundle)
    plain = model.head.forward
    model.head.forward = lambda x: plain(x) if float(x[0].sum()) > 0 else -plain(x)
    with pytest.raises(BundleError, match="cannot be exported to ONNX"):
        to_onnx(model, {})


class Changed(torch.nn.Module):
    """Makes maps by one convolution, which is traced in no time, and a change of them."""

    def __init__(self, change):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 3, padding=1)
        torch.nn.init.constant_(self.layer.weight, 0.05)
        self.change = change

    def forward(self, images):
        return self.change(self.layer(images / 255), images.shape[2]).sigmoid()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, h: logits[:, :, :h], None),
        # One less than a size: a constant of the traced graph that nobody can tell from others.
        (lambda logits, h: logits / (h - 1) * 20, "PyTorch's, got a difference"),
        (lambda logits, h: torch.cat([logits[:, :, : h - 1], logits[:, :, :1]], 2), "it fails"),
    ],
)
def test_a_size_that_is_not_free_is_refused_by_the_comparison(
    change, message, quantisable_bundle, tmp_path, monkeypatch
):
    shutil.copytree(quantisable_bundle.folder, tmp_path / "b", ignore=lambda *_: ["exports"])
    bundle = replace(quantisable_bundle, folder=tmp_path / "b")
    monkeypatch.setattr("destseg.exporting.export.load_model", lambda _: Changed(change))
    if message is None:
        assert export(bundle, "onnx").facts["largest_difference"] < 1e-5
        return
    with pytest.raises(BundleError, match=message):
        export(bundle, "onnx")
    assert find_exports(bundle) == []


def test_openvino_takes_the_graph_that_was_made_for_onnx(quantisable_bundle, tmp_path, monkeypatch):
    shutil.copytree(quantisable_bundle.folder, tmp_path / "b")
    bundle = replace(quantisable_bundle, folder=tmp_path / "b")
    made = load_export(bundle, "onnx")
    traced = []

    def to_onnx(model, metadata):
        traced.append(metadata)
        return onnx.load(made.model)

    monkeypatch.setattr("destseg.exporting.graph.to_onnx", to_onnx)
    again = export(bundle, "openvino")
    weights = load_export(quantisable_bundle, "openvino").files["model.bin"]
    assert again.files["model.bin"] == weights
    assert not traced
    # Another version could make another graph.
    record = json.loads((made.folder / "export.json").read_text())
    record["versions"]["torch"] = "2.0.0"
    (made.folder / "export.json").write_text(json.dumps(record))
    export(bundle, "openvino")
    assert len(traced) == 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_the_presets_own_networks_can_be_exported(preset, tmp_path):
    from destseg.config import Settings
    from destseg.inference.bundle import save_bundle, save_calibration
    from destseg.inference.calibration import Calibration
    from destseg.model.destseg import build_model

    settings = Settings.from_preset(preset, image_size=64)
    torch.manual_seed(0)
    weights = {k: v.numpy() for k, v in build_model(settings.model).state_dict().items()}
    saved = save_bundle(tmp_path, settings, weights, {})
    calibration_images = Calibration.fit([0.5], [0.5], ["a"], settings, saved.weights_sha256)
    before = time.process_time()
    made = export(save_calibration(saved, calibration_images), "onnx")
    # 7 to 11 s; with PyTorch's own free sizes 37 of fast (benchmarks/NOTES.md).
    assert time.process_time() - before < 25
    assert made.facts["largest_difference"] < 1e-5
    kinds = [node.op_type for node in onnx.load(made.model).graph.node]
    assert "BatchNormalization" not in kinds
    # Sizes are worked out for what needs one: the mean that is spread over an image again.
    assert kinds.count("Shape") == kinds.count("Expand") == 1


@pytest.mark.parametrize("broken", [0, 1])
def test_a_graph_that_gives_no_numbers_is_not_written(broken, quantisable_bundle, monkeypatch):
    maps = iter([np.full(3, np.nan if number == broken else 0.5) for number in range(2)])
    monkeypatch.setattr(module, "load_model", lambda _: None)
    monkeypatch.setattr(module, "TorchBackend", lambda *_: lambda _: np.full(3, 0.5))
    monkeypatch.setattr(module, "_made_before", lambda *_: b"")
    monkeypatch.setattr(module, "_to_openvino", lambda *_: {})
    monkeypatch.setattr(module, "open_backend", lambda *_: lambda _: next(maps))
    kept = []
    monkeypatch.setattr(module, "save_export", lambda bundle, *_: kept.append(bundle.folder))
    with pytest.raises(BundleError, match="got a difference of nan; nothing was written"):
        module.export(quantisable_bundle, "openvino")
    assert quantisable_bundle.folder not in kept
