"""The routes below ``/v2``: the Open Inference Protocol, for clients that speak it already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

import destseg
from destseg.data.lists import counted
from destseg.inference.predictor import ImageLike
from destseg.inference.result import Failure, Result
from destseg.serving.problems import Problem, not_ready
from destseg.serving.requests import Service, Visit
from destseg.serving.schemas import InferAnswer, InferBody, ProtocolProblem
from destseg.serving.tensors import (
    HEADER_LENGTH,
    InferRequest,
    TensorError,
    read_request,
    write_response,
)

VERSION = "1"
INPUTS = [
    {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
    {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
]
OUTPUTS = [
    {"name": "score", "datatype": "FP64", "shape": [-1]},
    {"name": "p_value", "datatype": "FP64", "shape": [-1]},
    {"name": "is_defective", "datatype": "BOOL", "shape": [-1]},
    {"name": "anomaly_map", "datatype": "FP32", "shape": [-1, -1, -1]},
]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProtocolProblem, "description": what}
    for status, what in {
        400: "Not a request of this protocol.",
        401: "The bearer token is missing or wrong.",
        404: "No such model or version.",
        413: "More bytes than the server takes.",
        415: "The body is compressed.",
        422: "Not an image, one with too many pixels, or more images than the queue holds.",
        503: "The queue is full, or the server is closing; see Retry-After.",
        504: "The deadline passed.",
    }.items()
}
_DEFAULT_OUTPUTS = ("score", "p_value", "is_defective")
_COLUMNS: Mapping[str, Callable[[list[Result]], NDArray[np.generic]]] = {
    "score": lambda results: np.array([each.score for each in results], np.float64),
    "p_value": lambda results: np.array([each.p_value for each in results], np.float64),
    "is_defective": lambda results: np.array([each.is_defective for each in results], np.bool_),
    "anomaly_map": lambda results: _maps(results),
}


def routes(service: Service) -> APIRouter:
    """Return the routes of a service."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])

    @router.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether all models answer")
    async def all_ready() -> dict[str, bool]:
        if not service.models.are_ready():
            raise not_ready()
        return {"ready": True}

    @router.get("", summary="What the server is")
    async def server() -> dict[str, Any]:
        return {
            "name": "destseg",
            "version": destseg.__version__,
            "extensions": ["binary_tensor_data"],
        }

    @router.get("/models/{model}", summary="A model's inputs and outputs")
    @router.get("/models/{model}/versions/{version}", include_in_schema=False)
    async def metadata(model: str, version: str = VERSION) -> dict[str, Any]:
        served = _served(model, version)
        return {
            "name": served.name,
            "versions": [VERSION],
            "platform": f"destseg_{served.predictor.backend_name}",
            "inputs": INPUTS,
            "outputs": OUTPUTS,
        }

    @router.get("/models/{model}/ready", summary="Whether a model is served")
    @router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def ready(model: str, version: str = VERSION) -> dict[str, Any]:
        return {"name": _served(model, version).name, "ready": True}

    @router.post(
        "/models/{model}/infer",
        summary="Inspect images",
        response_model=InferAnswer,
        responses=_PROBLEMS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": InferBody.model_json_schema()}},
            }
        },
    )
    @router.post("/models/{model}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, model: str, version: str = VERSION) -> Response:
        """Inspect images given as `image` (pixels) or `image_bytes` (files; base64 in JSON)."""
        visit = Visit(service, request, _served(model, version))
        with visit.counted():
            # Room for one while the body is read, and for all that are in it afterwards.
            with visit.room():
                asked, images = await anyio.to_thread.run_sync(
                    _read, await visit.body(), request.headers.get(HEADER_LENGTH)
                )
            return await _answer(service, visit, asked, images)

    def _served(model: str, version: str) -> Any:
        if version != VERSION:
            raise Problem(404, f"expected version {VERSION}, got {version!r}")
        return service.model(model)

    return router


def _read(body: bytes, header_length: str | None) -> tuple[InferRequest, list[ImageLike]]:
    try:
        asked = read_request(body, header_length)
        return asked, _images(asked)
    except TensorError as error:
        raise Problem(400, str(error)) from None


def _images(asked: InferRequest) -> list[ImageLike]:
    names = [each["name"] for each in INPUTS]
    if len(asked.inputs) != 1 or (name := next(iter(asked.inputs))) not in names:
        raise TensorError(f"expected one input of {names}, got {list(asked.inputs)}")
    unknown = set(asked.outputs or ()) - set(_COLUMNS)
    if unknown:
        raise TensorError(f"expected outputs of {list(_COLUMNS)}, got {sorted(unknown)}")
    values = asked.inputs[name]
    if isinstance(values, list) != (name == "image_bytes"):
        raise TensorError(f"expected image as UINT8 and image_bytes as BYTES, got another {name}")
    if not isinstance(values, list):
        if values.dtype != np.uint8 or values.ndim not in (3, 4) or values.shape[-1] != 3:
            raise TensorError(
                "image: expected UINT8 [n, h, w, 3] or [h, w, 3], got "
                f"{values.dtype} {list(values.shape)}"
            )
        values = [*(values if values.ndim == 4 else values[None])]
    if not values:
        raise TensorError(f"{name}: expected at least one image, got none")
    return list(values)


async def _answer(
    service: Service, visit: Visit, asked: InferRequest, images: list[ImageLike]
) -> Response:
    if len(images) > service.limits.queue:
        raise Problem(
            422, f"expected at most {counted(service.limits.queue, 'image')}, got {len(images)}"
        )
    with visit.room(len(images)):
        answers = await visit.inspect(images)
    results = []
    for number, answer in enumerate(answers):
        if isinstance(answer.said, Failure):
            raise Problem(422, f"image {number}: {answer.said.error.reason}")
        results.append(answer.said)
    for result in results:
        service.telemetry.result(visit.model.name, result)
    outputs = {name: _COLUMNS[name](results) for name in asked.outputs or _DEFAULT_OUTPUTS}
    body, length = await anyio.to_thread.run_sync(write_response, asked, visit.model.name, outputs)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(
        body, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream"
    )


def _maps(results: list[Result]) -> NDArray[np.float32]:
    if len({each.anomaly_map.shape for each in results}) > 1:
        raise Problem(
            422, "anomaly_map: expected images of one size, got several; send them one by one"
        )
    return np.stack([each.anomaly_map for each in results])
