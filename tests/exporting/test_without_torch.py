"""A bundle that was exported runs where there is no torch, and writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from destseg.inference.backends import Runtime
from destseg.inference.exports import load_export

PROGRAM = """
import json, sys
for name in ("torch", "torchvision", "timm", "accelerate", "onnx", "nncf"):
    sys.modules[name] = None
import destseg
predictor = destseg.load(sys.argv[1], backend=sys.argv[2], threads=1, cache=sys.argv[4] or None)
result = predictor.predict(sys.argv[3])
print(json.dumps([predictor.backend_name, result.score, result.threshold]))
"""


def predict(bundle, backend: str, image: Path, cwd: Path, cache: str = "") -> list:
    words = [sys.executable, "-c", PROGRAM, str(bundle.folder), backend, str(image), cache]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_exported_bundle_needs_no_torch(name, quantisable_bundle, parts, tmp_path):
    import destseg

    image = sorted(parts.iterdir())[0]
    here = destseg.load(quantisable_bundle.folder, backend="torch", device="cpu")
    backend, score, threshold = predict(quantisable_bundle, name, image, tmp_path)
    assert backend == name
    assert score == pytest.approx(here.predict(image).score, abs=1e-5)
    assert threshold == here.calibration.threshold
    assert list(tmp_path.iterdir()) == []


def test_openvino_keeps_what_it_compiles_only_where_it_is_told(quantisable_bundle, parts, tmp_path):
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    image = sorted(parts.iterdir())[0]
    first = predict(quantisable_bundle, "openvino", image, work, str(cache))
    assert any(cache.rglob("*"))
    assert predict(quantisable_bundle, "openvino", image, work, str(cache)) == first
    assert list(work.iterdir()) == []


def test_threads_are_those_asked_for(quantisable_bundle):
    from destseg.inference.backends.onnx_ import OnnxBackend
    from destseg.inference.backends.openvino_ import OpenvinoBackend

    onnx = OnnxBackend(load_export(quantisable_bundle, "onnx").model, Runtime(threads=1))
    assert onnx._session.get_session_options().intra_op_num_threads == 1
    openvino = OpenvinoBackend(load_export(quantisable_bundle, "openvino"), Runtime(threads=1))
    assert openvino._model.get_property("INFERENCE_NUM_THREADS") == 1
    assert "float32" in str(openvino._model.get_property("INFERENCE_PRECISION_HINT"))
