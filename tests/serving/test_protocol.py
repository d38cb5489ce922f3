"""The Open Inference Protocol, spoken by NVIDIA's own client to a real port."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import tritonclient.http as triton
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from destseg.errors import BatchError
from destseg.serving.app import create_app
from destseg.serving.problems import Problem
from destseg.serving.protocol import _read
from destseg.serving.requests import Limits
from serving.fakes import image, listening, make_predictor


@pytest.fixture(scope="module")
def client():
    app = create_app({"part": make_predictor}, limits=Limits(queue=16))
    with listening(app) as port, triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def noise(*shape):
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def tensor(name, values, datatype, *, binary=True):
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("part")
    assert client.is_model_ready("part", "1")
    assert not client.is_model_ready("nix")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("part")
    assert [each["name"] for each in metadata["inputs"]] == ["image", "image_bytes"]
    assert metadata == client.get_model_metadata("part", "1")
    with pytest.raises(triton.InferenceServerException, match="version"):
        client.get_model_metadata("part", "2")


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_in_arrays_out(client, binary):
    pixels = noise(3, 50, 70, 3)
    names = ["score", "p_value", "is_defective", "anomaly_map"]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    answer = client.infer(
        "part", [tensor("image", pixels, "UINT8", binary=binary)], outputs=wanted, request_id="9"
    )
    results = make_predictor().predict(list(pixels))
    for name in names:
        expected = [getattr(each, name) for each in results]
        np.testing.assert_array_equal(answer.as_numpy(name), expected)
    assert answer.get_response()["id"] == "9"


def test_files_in_the_default_outputs_out(client):
    files = np.array([image(51), image(204, side=30, kind="JPEG")], dtype=object)
    answer = client.infer("part", [tensor("image_bytes", files, "BYTES")])
    results = make_predictor().predict(list(files))
    np.testing.assert_array_equal(answer.as_numpy("score"), [each.score for each in results])
    np.testing.assert_array_equal(answer.as_numpy("is_defective"), [False, True])
    assert answer.as_numpy("anomaly_map") is None


def test_one_image_needs_no_batch_axis(client):
    pixels = noise(40, 40, 3)
    answer = client.infer("part", [tensor("image", pixels, "UINT8")])
    assert answer.as_numpy("score") == [make_predictor().predict(pixels).score]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor("nix", noise(4, 4, 3), "UINT8")], "expected one input of"),
        ([tensor("image", noise(4, 4, 3), "UINT8")] * 2, "expected one input of"),
        ([tensor("image", noise(4, 4), "UINT8")], r"got uint8 \[4, 4\]"),
        ([tensor("image", np.zeros((4, 4, 3), np.float32), "FP32")], "got float32"),
        ([tensor("image", np.array([b"x"], object), "BYTES")], "image as UINT8"),
        ([tensor("image_bytes", noise(1, 4, 4, 3), "UINT8")], "image_bytes as BYTES"),
        ([tensor("image", noise(0, 4, 4, 3), "UINT8")], "at least one image"),
        ([tensor("image", noise(0, 4, 4, 3), "UINT8", binary=False)], "at least one image"),
        ([tensor("image", noise(17, 4, 4, 3), "UINT8")], "at most 16 images, got 17"),
        ([tensor("image_bytes", np.array([image(1), b"x"], object), "BYTES")], "image 1: "),
    ],
)
def test_what_cannot_be_answered_says_why(client, inputs, message):
    if len(inputs) == 2:
        inputs = [inputs[0], tensor("image_bytes", np.array([b"x"], object), "BYTES")]
    with pytest.raises(triton.InferenceServerException, match=message):
        client.infer("part", inputs)


@given(st.lists(st.integers(0, 5), max_size=5), st.binary(max_size=300))
def test_any_shape_and_any_bytes_are_images_or_a_problem(shape, raw):
    size = math.prod(shape)
    for name, datatype in (("image", "UINT8"), ("image_bytes", "BYTES")):
        values = raw[:size].ljust(size, b".") if name == "image" else raw
        one = {"name": name, "datatype": datatype, "shape": shape}
        one["parameters"] = {"binary_data_size": len(values)}
        text = json.dumps({"inputs": [one]}).encode()
        with contextlib.suppress(Problem):
            _, images = _read(text + values, str(len(text)))
            with contextlib.suppress(BatchError):
                assert len(make_predictor().predict(images)) == len(images)


def test_unknown_models_and_outputs_are_refused(client):
    one = [tensor("image", noise(4, 4, 3), "UINT8")]
    with pytest.raises(triton.InferenceServerException, match="served models"):
        client.infer("nix", one)
    with pytest.raises(triton.InferenceServerException, match="expected outputs of"):
        client.infer("part", one, outputs=[triton.InferRequestedOutput("nix")])


def test_maps_of_several_sizes_are_not_one_tensor():
    app = create_app({"part": lambda: make_predictor(tile=True)})
    files = [image(1, side=64), image(1, side=96)]
    inputs = [tensor("image_bytes", np.array(files, object), "BYTES")]
    with (
        TestClient(app),
        listening(app) as port,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        assert len(client.infer("part", inputs).as_numpy("score")) == 2
        wanted = [triton.InferRequestedOutput("anomaly_map")]
        with pytest.raises(triton.InferenceServerException, match="images of one size"):
            client.infer("part", inputs, outputs=wanted)


def test_an_image_is_the_same_as_file_and_as_pixels(client):
    content = image(90, side=77)
    with Image.open(io.BytesIO(content)) as opened:
        pixels = np.asarray(opened)
    by_file = client.infer("part", [tensor("image_bytes", np.array([content], object), "BYTES")])
    by_pixels = client.infer("part", [tensor("image", pixels, "UINT8")])
    assert by_file.as_numpy("score") == by_pixels.as_numpy("score")
