"""Which backend is chosen and what it refuses; their maps are compared in tests/export."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from destseg.config import Settings
from destseg.errors import BundleError, MissingExtraError, SettingsError
from destseg.inference import backends, exports
from destseg.inference.backends import Runtime, choose, open_backend
from destseg.inference.bundle import load_bundle, save_bundle
from destseg.inference.exports import load_export, save_export


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
        (set(), "auto", "openvino"),  # likewise, and smaller to install
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
    with pytest.raises(MissingExtraError, match=rf"pip install .*{package}>=") as caught:
        open_backend(bundle, Runtime(name))
    assert caught.value.extra == extra


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_file_that_is_no_model_is_a_bundle_error(name, bundle):
    pytest.importorskip(backends.PACKAGES[name])
    with pytest.raises(BundleError, match="cannot run it"):
        open_backend(bundle, Runtime(name))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_each_file_is_hashed_once_on_the_way_to_a_running_model(name, bundle, monkeypatch):
    pytest.importorskip(backends.PACKAGES[name])
    model, require, hashed = load_export(bundle, name).model, exports._require_hash, []
    monkeypatch.setattr(
        exports, "_require_hash", lambda path, *rest: hashed.append(path) or require(path, *rest)
    )
    with pytest.raises(BundleError, match="cannot run it"):
        open_backend(exports.bundle_for(bundle, name), Runtime(name))
    assert hashed == [model]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_unknown_device_is_refused_with_those_that_are_there(name, bundle):
    pytest.importorskip(backends.PACKAGES[name])
    with pytest.raises(SettingsError, match="--device: expected one of auto, cpu"):
        open_backend(bundle, Runtime(name, "gpu.7"))


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_devices_are_listed(name):
    pytest.importorskip(backends.PACKAGES[name])
    assert any(device.lower().startswith("cpu") for device in backends.devices(name))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_model_that_runs_does_not_see_what_becomes_of_its_files(
    name, quantisable_bundle, tmp_path
):
    pytest.importorskip(backends.PACKAGES[name])
    shutil.copytree(quantisable_bundle.folder, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    cache = tmp_path / "cache" if name == "openvino" else None
    runtime = Runtime(name, "cpu", 1, cache)
    compiled = open_backend(bundle, runtime)
    kept = [] if cache is None else [open_backend(bundle, runtime)]  # what was compiled is there
    expected = compiled(images)
    files = [bundle.folder / "exports" / name / each for each in load_export(bundle, name).files]
    files += [] if cache is None else [each for each in cache.rglob("*") if each.is_file()]
    assert len(files) == (1 if cache is None else 3)
    for path in files:
        path.chmod(0o600)
        with path.open("r+b") as file:  # in place, as cp and rsync --inplace write
            file.write(bytes(path.stat().st_size))
    for backend in (compiled, *kept):
        np.testing.assert_array_equal(backend(images), expected)
    for path in files:
        os.truncate(path, 0)
    for backend in (compiled, *kept):
        np.testing.assert_array_equal(backend(images), expected)


# OpenVINO gives the thread that loads it a stack for signals, and takes it away when the last of
# its objects goes, on whatever thread that is.
SIGNALLED = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
import openvino
from destseg.inference.backends import Runtime
from destseg.data.files import sha256_of
from destseg.inference.backends.openvino_ import OpenvinoBackend
from destseg.inference.exports import Export

images = openvino.opset13.parameter([-1, -1, -1, 3], np.uint8, name="images")
floats = openvino.opset13.convert(images, np.float32)
maps = openvino.opset13.reduce_mean(floats, openvino.opset13.constant(3), False)
openvino.save_model(openvino.Model([maps], [images]), sys.argv[1])
files = [Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".bin")]
export = Export("openvino", files[0].parent, {each.name: sha256_of(each) for each in files}, "")
kept = [OpenvinoBackend(export, Runtime("openvino", "cpu"))]
assert kept[0](np.full((1, 4, 4, 3), 9, np.uint8)).mean() == 9
thread = threading.Thread(target=kept.clear)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_is_survived_after_a_backend_went_on_another_thread(tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tmp_path / "model.xml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks at threads as Linux shows them")
def test_openvino_pins_no_thread_to_a_core(quantisable_bundle):
    """Two processes of one thread each would share the first core and leave the others idle."""
    everywhere = os.sched_getaffinity(0)
    if len(everywhere) < 2:
        pytest.skip("there is one core")
    tasks = Path("/proc/self/task")
    others = {thread.name for thread in tasks.iterdir()}  # what tests before this one left behind
    backend = open_backend(quantisable_bundle, Runtime("openvino", threads=1))
    images = np.zeros((4, 256, 256, 3), np.uint8)
    running = threading.Thread(target=lambda: [backend(images) for _ in range(10)])
    running.start()
    seen = {}
    while running.is_alive():
        for name in {thread.name for thread in tasks.iterdir()} - others:
            with contextlib.suppress(ProcessLookupError):
                seen[name] = os.sched_getaffinity(int(name))
    assert seen
    assert {name: cores for name, cores in seen.items() if cores != everywhere} == {}
