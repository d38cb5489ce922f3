"""Tensors of the Open Inference Protocol v2, as JSON and as its binary extension has them.

With the extension the JSON comes first, as long as a header says, and after it the raw values of
the tensors that have a ``binary_data_size``, in order and little-endian.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "FP32": np.float32, "FP64": np.float64}


class TensorError(ValueError):
    """A request that does not keep to the protocol; the message is for its sender."""


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: given back with the answer.
        inputs: by name; ``BYTES`` as a list of bytes.
        outputs: names of those asked for; ``None`` for the default ones.
        binary: for which outputs values are wanted in the binary form, by name; under ``""``
            the rule for all others.
    """

    id: str | None
    inputs: Mapping[str, NDArray[np.generic] | list[bytes]]
    outputs: tuple[str, ...] | None
    binary: Mapping[str, bool]


def read_request(body: bytes, header_length: str | None) -> InferRequest:
    """Return what a request's body asks for.

    Args:
        body: JSON, followed by the binary values if there are any.
        header_length: bytes of the JSON, as the header says; ``None`` where all is JSON.

    Raises:
        TensorError: if it does not keep to the protocol.
    """
    # Python turns no more than some thousand digits into a number.
    if header_length is not None and not (header_length.isdecimal() and len(header_length) < 20):
        raise TensorError(f"{HEADER_LENGTH}: expected a number of bytes, got {header_length!r:.80}")
    end = len(body) if header_length is None else int(header_length)
    if end > len(body):
        raise TensorError(f"{HEADER_LENGTH}: expected at most the body's {len(body)}, got {end}")
    try:
        said = json.loads(body[:end])
    except (ValueError, RecursionError) as error:
        raise TensorError(f"expected JSON, got something else: {error}") from None
    listed = _objects(said, "inputs") if isinstance(said, dict) else []
    if not listed:
        raise TensorError("expected an object with a list of inputs, got none")
    inputs: dict[str, NDArray[np.generic] | list[bytes]] = {}
    rest = memoryview(body)[end:]
    for tensor in listed:
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            raw = None
        elif type(size) is int and 0 <= size <= len(rest):
            raw, rest = rest[:size], rest[size:]
        else:
            raise TensorError(
                f"binary_data_size: expected at most {len(rest)} bytes, got {size!r:.80}"
            )
        name = str(tensor.get("name"))
        if name in inputs:
            raise TensorError(f"inputs: expected each once, got {name!r:.80} twice")
        inputs[name] = _values(tensor, raw)
    if len(rest):
        raise TensorError(f"expected no bytes behind the last tensor, got {len(rest)}")
    wanted = _objects(said, "outputs")
    return InferRequest(
        id=str(said["id"]) if said.get("id") else None,
        inputs=inputs,
        outputs=tuple(str(each.get("name")) for each in wanted) or None,
        binary=_binary(said, wanted),
    )


def write_response(
    asked: InferRequest, model: str, outputs: Mapping[str, NDArray[np.generic]]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON where binary values follow.

    Args:
        asked: the request.
        model: the model's name.
        outputs: arrays of the types in ``DATATYPES``, by name.
    """
    names = {np.dtype(kind).char: name for name, kind in DATATYPES.items()}
    tensors, raw = [], []
    for name, values in outputs.items():
        tensor: dict[str, Any] = {
            "name": name,
            "shape": list(values.shape),
            "datatype": names[values.dtype.char],
        }
        if asked.binary.get(name, asked.binary[""]):
            raw.append(np.ascontiguousarray(values).tobytes())
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = values.reshape(-1).tolist()
        tensors.append(tensor)
    said: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": tensors}
    if asked.id is not None:
        said["id"] = asked.id
    text = json.dumps(said).encode()
    return b"".join([text, *raw]), len(text) if raw else None


def _objects(said: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    listed = said.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise TensorError(f"{key}: expected a list of objects, got {listed!r:.80}")
    return listed


def _parameters(said: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = said.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise TensorError(f"parameters: expected an object, got {parameters!r:.80}")
    return parameters


def _binary(said: Mapping[str, Any], wanted: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    asked = {str(each.get("name")): _switch(each, "binary_data") for each in wanted}
    return {"": _switch(said, "binary_data_output"), **asked}


def _switch(said: Mapping[str, Any], name: str) -> bool:
    value = _parameters(said).get(name)
    if value is not None and not isinstance(value, bool):
        raise TensorError(f"{name}: expected true or false, got {value!r:.80}")
    return bool(value)


def _values(tensor: Mapping[str, Any], raw: memoryview | None) -> NDArray[np.generic] | list[bytes]:
    name, kind, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise TensorError(f"{name!r:.80}: expected a shape of whole numbers, got {shape!r:.80}")
    if raw is None and tensor.get("data") is None:
        raise TensorError(
            f"{name!r:.80}: expected its values as data, or binary_data_size in its parameters and "
            "the values behind the JSON, got neither"
        )
    try:
        if kind == "BYTES":
            found = _texts(tensor.get("data")) if raw is None else _strings(raw)
            if len(found) != math.prod(shape):
                raise ValueError(f"{len(found)} of them")
            return found
        dtype = np.dtype(DATATYPES[str(kind)])
        if raw is None:
            return _numbers(tensor.get("data"), dtype).reshape(shape)
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    except KeyError:
        expected = ", ".join(["BYTES", *DATATYPES])
        raise TensorError(
            f"{name!r:.80}: expected a datatype of {expected}, got {kind!r:.80}"
        ) from None
    except (ValueError, ArithmeticError, TypeError, struct.error, binascii.Error) as error:
        raise TensorError(
            f"{name!r:.80}: expected {kind} values of shape {shape!r:.80}, got {error}"
        ) from None


def _numbers(data: Any, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    values = np.asarray(data)
    if not values.size:  # without numbers it has no type either: its shape says what is wrong
        return values.astype(dtype)
    if dtype.kind == "u" and (values.dtype.kind not in "iu" or values.min() < 0):
        raise ValueError("others than whole numbers from 0 to 255")
    if dtype == np.uint8 and values.max() > np.iinfo(np.uint8).max:
        raise ValueError("numbers above 255")
    with np.errstate(over="raise"):
        return values.astype(dtype)


def _texts(data: Any) -> list[bytes]:
    # JSON has no bytes, so an image's file comes as base64.
    flat = np.asarray(data, dtype=object).reshape(-1).tolist()
    return [base64.b64decode(text, validate=True) for text in flat]


def _strings(raw: memoryview) -> list[bytes]:
    """Split the binary form of BYTES: before each string its length in 4 bytes."""
    found, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if place + length > len(raw):
            raise ValueError(f"a string of {length} bytes where {len(raw) - place} are left")
        found.append(bytes(raw[place : place + length]))
        place += length
    return found
