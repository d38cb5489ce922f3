"""Which backend is chosen and what it refuses; their maps are compared in tests/export."""

import sys

import pytest

from destseg.config import Settings
from destseg.errors import BundleError, MissingExtraError, SettingsError
from destseg.inference import backends
from destseg.inference.backends import Runtime, choose, open_backend
from destseg.inference.bundle import save_bundle
from destseg.inference.exports import save_export


@pytest.fixture
def bundle(tmp_path):
    saved = save_bundle(tmp_path / "model", Settings.from_preset(image_size=64), {}, {})
    for name, file in {"onnx": "model.onnx", "openvino": "model.xml", "onnx-int8": "m"}.items():
        save_export(saved, name, {file: b"not a model"}, {})
    return saved


@pytest.mark.parametrize(
    ("there", "device", "expected"),
    [
        ({"openvino", "onnx", "torch"}, "auto", "openvino"),
        ({"onnx", "torch"}, "cpu", "onnx"),
        ({"torch"}, "auto", "torch"),
        ({"openvino", "onnx"}, "cuda", "torch"),  # which is then asked for and missed by name
    ],
)
def test_the_best_that_is_installed_is_chosen_never_int8(
    there, device, expected, bundle, monkeypatch
):
    monkeypatch.setattr(backends, "installed", lambda name: name in there)
    assert choose(bundle, Runtime(device=device)) == Runtime(expected, device)


def test_what_was_not_exported_is_not_chosen(tmp_path):
    plain = save_bundle(tmp_path, Settings.from_preset(image_size=64), {}, {})
    assert choose(plain, Runtime()).backend == "torch"


def test_what_was_asked_for_is_taken(bundle):
    assert choose(bundle, Runtime("onnx-int8", threads=3)) == Runtime("onnx-int8", threads=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backend": "tensorrt"}, "--backend: expected one of auto, torch"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_wrong_runtimes_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        Runtime(**wrong)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("torch", "torch", "train"), ("onnx", "onnxruntime", "onnx"), ("openvino",) * 3],
)
def test_a_missing_package_names_its_extra(name, package, extra, bundle, monkeypatch):
    for module in list(sys.modules):
        if module.startswith(f"destseg.inference.backends.{name}_"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"destseg\[{extra}\]") as caught:
        open_backend(bundle, Runtime(name))
    assert caught.value.extra == extra


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_file_that_is_no_model_is_a_bundle_error(name, bundle):
    pytest.importorskip(backends.PACKAGES[name])
    with pytest.raises(BundleError, match="cannot run it"):
        open_backend(bundle, Runtime(name))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_unknown_device_is_refused_with_those_that_are_there(name, bundle):
    pytest.importorskip(backends.PACKAGES[name])
    with pytest.raises(SettingsError, match="--device: expected one of auto, cpu"):
        open_backend(bundle, Runtime(name, "gpu.7"))


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_devices_are_listed(name):
    pytest.importorskip(backends.PACKAGES[name])
    assert any(device.lower().startswith("cpu") for device in backends.devices(name))
