"""Tensors on the wire, against what tritonclient writes and reads."""

import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.http import InferInput, InferRequestedOutput, InferResult
from tritonclient.http._utils import _get_inference_request

from destseg.serving.tensors import TensorError, read_request, write_response

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
FILES = np.array([b"one \x00 file", b"", b"\xff" * 300], dtype=object)


def written(inputs, outputs=None, request_id=""):
    """A request as tritonclient writes it."""
    body, length = _get_inference_request(
        inputs=inputs,
        request_id=request_id,
        outputs=outputs,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        custom_parameters=None,
    )
    body = body.encode() if isinstance(body, str) else body
    return body, None if length is None else str(length)


def tensor(name, values, datatype, *, binary=True):
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_read_as_tritonclient_writes_them(binary):
    asked = read_request(*written([tensor("image", PIXELS, "UINT8", binary=binary)]))
    np.testing.assert_array_equal(asked.inputs["image"], PIXELS)
    assert asked.inputs["image"].dtype == np.uint8
    assert asked.outputs is None


def test_files_are_read_as_tritonclient_writes_them():
    asked = read_request(*written([tensor("image_bytes", FILES, "BYTES")], request_id="7"))
    assert asked.inputs["image_bytes"] == FILES.tolist()
    assert asked.id == "7"


def test_several_tensors_share_the_binary_part_in_order():
    asked = read_request(
        *written([tensor("a", PIXELS, "UINT8"), tensor("b", np.float32([[1.5]]), "FP32")])
    )
    np.testing.assert_array_equal(asked.inputs["a"], PIXELS)
    np.testing.assert_array_equal(asked.inputs["b"], [[1.5]])


def test_files_in_json_are_base64():
    body = {
        "inputs": [
            {
                "name": "image_bytes",
                "shape": [3],
                "datatype": "BYTES",
                "data": [base64.b64encode(each).decode() for each in FILES],
            }
        ]
    }
    assert read_request(json.dumps(body).encode(), None).inputs["image_bytes"] == FILES.tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_answers_are_read_by_tritonclient(binary):
    outputs = {
        "score": np.array([0.25, 1 / 3]),
        "is_defective": np.array([True, False]),
        "anomaly_map": np.float32([[[0.1, 0.2]], [[0.3, 0.4]]]),
    }
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in outputs]
    asked = read_request(*written([tensor("image", PIXELS, "UINT8")], wanted, "x"))
    assert asked.outputs == tuple(outputs)
    body, length = write_response(asked, "part", outputs)
    assert (length is not None) == binary
    answer = InferResult.from_response_body(body, header_length=length)
    for name, values in outputs.items():
        np.testing.assert_array_equal(answer.as_numpy(name), values)
        assert answer.as_numpy(name).dtype == values.dtype
    assert answer.get_response()["model_name"] == "part"
    assert answer.get_response()["id"] == "x"


ONE = {"name": "image", "shape": [1], "datatype": "UINT8", "data": [1]}
FILE = {"name": "image_bytes", "shape": [2], "datatype": "BYTES", "data": ["AA==", "AA=="]}


@pytest.mark.parametrize(
    ("body", "length", "reason"),
    [
        (b"{", None, "expected JSON"),
        (b"[]", None, "list of inputs"),
        (b"{}", None, "list of inputs"),
        ({"inputs": 5}, None, "inputs: expected a list"),
        ({"inputs": [5]}, None, "inputs: expected a list"),
        ({"inputs": [{**ONE, "shape": None}]}, None, "shape"),
        ({"inputs": [{**ONE, "shape": [-1]}]}, None, "shape"),
        ({"inputs": [{**ONE, "shape": [2]}]}, None, "of shape"),
        ({"inputs": [{**ONE, "datatype": "INT4"}]}, None, "expected a datatype"),
        ({"inputs": [{**ONE, "data": [256]}]}, None, "above 255"),
        ({"inputs": [{**ONE, "data": [-1]}]}, None, "from 0 to 255"),
        ({"inputs": [{**ONE, "data": [0.5]}]}, None, "from 0 to 255"),
        ({"inputs": [{**ONE, "data": None}]}, None, "values as data, or binary_data_size"),
        ({"inputs": [{**FILE, "data": None}]}, None, "values as data, or binary_data_size"),
        ({"inputs": [{**ONE, "data": [None]}]}, None, "from 0 to 255"),
        ({"inputs": [{**ONE, "data": []}]}, None, r"of shape \[1\], got .*size 0"),
        ({"inputs": [{**ONE, "datatype": "BYTES", "data": ["&"]}]}, None, "BYTES"),
        ({"inputs": [{**ONE, "datatype": "BYTES", "data": [7]}]}, None, "BYTES"),
        ({"inputs": [{**ONE, "parameters": 3}]}, None, "parameters"),
        ({"inputs": [{**ONE, "parameters": {"binary_data_size": 9}}]}, None, "at most 0 bytes"),
        ({"inputs": [{**ONE, "parameters": {"binary_data_size": "1"}}]}, None, "at most 0 bytes"),
        ({"inputs": [ONE, ONE]}, None, "got 'image' twice"),
        ({"inputs": [{**ONE, "shape": [True]}]}, None, "shape of whole numbers"),
        ({"inputs": [{**FILE, "data": ["AA=="]}]}, None, r"BYTES values of shape \[2\], got 1"),
        ({"inputs": [{**FILE, "shape": []}]}, None, "got 2"),
        ({"inputs": [{**FILE, "shape": [1, 3]}]}, None, "got 2"),
        (
            {"inputs": [ONE], "parameters": {"binary_data_output": "false"}},
            None,
            "binary_data_output: expected true or false, got 'false'",
        ),
        (
            {"inputs": [ONE], "outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
            None,
            "binary_data: expected true or false, got 1",
        ),
        (b"{}", "x", "number of bytes"),
        (b"{}", "9", "at most the body's 2"),
        (b"{}", "9" * 5000, "number of bytes, got '9{78}"),
    ],
)
def test_what_does_not_keep_to_the_protocol_is_told(body, length, reason):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(TensorError, match=reason):
        read_request(text, length)


def test_a_binary_part_that_does_not_fit_is_refused():
    body, length = written([tensor("image_bytes", FILES, "BYTES")])
    with pytest.raises(TensorError, match="behind the last tensor, got 3"):
        read_request(body + b"...", length)
    with pytest.raises(TensorError, match="binary_data_size"):
        read_request(body[:-1], length)
    lying = body.replace(b'"binary_data_size":322', b'"binary_data_size":319')
    assert lying != body
    with pytest.raises(TensorError, match="a string of 300 bytes where 297 are left"):
        read_request(lying[:-3], length)


LENGTHS = st.sampled_from([None, "0", "2", "20", "200", "\xb2", "-1"])
WORDS = st.sampled_from(
    ["image", "image_bytes", "UINT8", "BYTES", "FP32", "BOOL", "\ud800", "AA=="]
)
# No surrogates in keys of ours and all values of JSON, as deep and as odd as they come.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=12,
)
SHAPES = st.lists(st.integers(-1, 3) | st.just(10**30), max_size=4)
PARAMETERS = st.fixed_dictionaries(
    {}, optional={"binary_data_size": st.integers(-1, 9), "binary_data": st.booleans()}
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": WORDS | VALUES,
        "shape": SHAPES | VALUES,
        "datatype": WORDS | VALUES,
        "data": st.lists(st.integers(-1, 256), max_size=9) | st.lists(WORDS) | VALUES,
        "parameters": PARAMETERS | VALUES,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2) | VALUES},
    optional={"outputs": st.lists(TENSORS, max_size=2) | VALUES, "id": VALUES},
)


@given(st.binary(max_size=200), LENGTHS)
def test_no_bytes_raise_anything_else(body, length):
    with contextlib.suppress(TensorError):
        read_request(body, length)


@given(REQUESTS, st.binary(max_size=40))
@example({"inputs": [{"name": "\ud800", "shape": 0}]}, b"")
def test_no_json_raises_anything_else_and_every_reason_can_be_sent(said, raw):
    text = json.dumps(said).encode()
    try:
        asked = read_request(text + raw, str(len(text)))
    except TensorError as error:
        str(error).encode()
    else:
        assert asked.inputs
