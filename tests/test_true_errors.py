"""An error is told as what it is: an explanation is given only for what it explains."""

import errno
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from destseg.data.images import as_image, read_image
from destseg.errors import BundleError, ImageError, MissingExtraError, SettingsError, needs_extra
from destseg.model.backbone import Backbone
from destseg.model.teacher import pretrained_teacher, read_state_dict


def missing(*_args, **_named):
    return torch.no_such_function


# --- extras


def test_a_missing_package_of_an_extra_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"'ray'.*'ray\[data\]>="), needs_extra("ray", "x"):
        raise ModuleNotFoundError("No module named 'ray'", name="ray")


@pytest.mark.parametrize(
    "name", ["destseg.batch_inspection.gone", "sympy", "ray._private.gone", None]
)
def test_another_missing_module_is_no_missing_extra(name):
    with pytest.raises(ModuleNotFoundError) as caught, needs_extra("ray", "x"):
        raise ModuleNotFoundError("gone", name=name)
    assert caught.value.name == name


# --- networks


def test_a_missing_function_of_pytorch_is_not_a_wrong_name(monkeypatch):
    monkeypatch.setattr(timm, "create_model", missing)
    with pytest.raises(AttributeError, match="no_such_function"):
        Backbone("tf_efficientnet_lite0", (4, 8, 16))


def test_a_missing_function_of_pytorch_is_not_a_hub_that_is_away(monkeypatch):
    def without_hub(*args, hub=False, **named):
        return missing() if hub else None

    monkeypatch.setattr("destseg.model.teacher.Backbone", without_hub)
    with pytest.raises(AttributeError, match="no_such_function"):
        pretrained_teacher("resnet18")


def test_a_missing_function_of_pytorch_is_not_a_damaged_file(monkeypatch, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"any")
    monkeypatch.delattr(torch, "load")
    with pytest.raises(AttributeError, match="load"):
        read_state_dict(tmp_path / "weights.pth")


def test_a_missing_function_of_pytorch_is_not_a_network_that_cannot_be_exported(monkeypatch):
    graph = pytest.importorskip("destseg.exporting.graph", reason="the extra export is missing")
    monkeypatch.setattr(graph, "folded", missing)
    with pytest.raises(AttributeError, match="no_such_function"):
        graph.to_onnx(torch.nn.Identity(), {})


def test_a_missing_class_of_onnx_runtime_is_not_a_damaged_model(monkeypatch, tmp_path):
    onnx_ = pytest.importorskip("destseg.inference.backends.onnx_", reason="extra onnx is missing")
    from destseg.inference.backends import Runtime

    (tmp_path / "model.onnx").write_bytes(b"words")
    with pytest.raises(BundleError, match="ONNX Runtime cannot run it"):
        onnx_.OnnxBackend(tmp_path / "model.onnx", Runtime("onnx"))
    monkeypatch.delattr(onnx_.onnxruntime, "InferenceSession")
    with pytest.raises(AttributeError, match="InferenceSession"):
        onnx_.OnnxBackend(tmp_path / "model.onnx", Runtime("onnx"))


# --- images


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["crop", "getexif"])
def test_a_missing_method_of_pillow_is_not_a_damaged_image(monkeypatch, image, name):
    opened = Image.open(image)
    monkeypatch.delattr(Image.Image, name)
    if name == "getexif":
        monkeypatch.delattr(PngImageFile, name)
    for read in (lambda: read_image(image), lambda: as_image(opened)):
        with pytest.raises(AttributeError, match=name):
            read()


def raising(error):
    def load(self, *_):
        raise error

    return load


def test_what_a_decoder_raises_is_a_damaged_image_whatever_it_is(monkeypatch, image):
    # A decoder is another package; its functions run in a module of its own.
    source = "def load(self):\n    return None.no_such_attribute\n"
    module: dict = {"__name__": "PIL.fake"}
    exec(source, module)
    monkeypatch.setattr(PngImageFile, "load", module["load"])
    with pytest.raises(ImageError, match=r"got a damaged one \('NoneType' object has no attrib"):
        read_image(image)


def test_no_memory_and_no_file_handle_are_said_and_end_one_image_alone(monkeypatch, image):
    with monkeypatch.context() as patched:
        patched.setattr(PngImageFile, "load", raising(MemoryError()))
        with pytest.raises(ImageError, match="expected memory for its pixels, got none"):
            read_image(image)
    full = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(Path, "open", raising(full))
    with pytest.raises(ImageError, match=r"cannot be read.*Too many open files") as caught:
        read_image(image)
    assert "damaged" not in str(caught.value)


def test_a_wrong_name_still_is_one():
    with pytest.raises(SettingsError, match="expected the name of a timm network"):
        Backbone("no_such_network", (4, 8, 16))
