"""The routes below ``/v1``: inspect an image, list the models."""

from __future__ import annotations

import base64
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from destseg.data.drawing import levels_of
from destseg.data.images import encode_image
from destseg.inference.result import Failure, Result
from destseg.serving.media import wants
from destseg.serving.problems import Problem
from destseg.serving.requests import Service, Visit
from destseg.serving.schemas import Inspection, ModelList, problem_body

_BODIES = {
    "requestBody": {
        "required": True,
        "description": "A JPEG, PNG, BMP, TIFF or WebP file.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: problem_body(what)
    for status, what in {
        400: "The caller hung up before the answer.",
        401: "The bearer token is missing or wrong.",
        404: "No such model.",
        413: "More bytes than the server takes.",
        415: "The body is compressed.",
        422: "Not an image, or one with too many pixels.",
        503: "The queue is full, or the server is closing; see Retry-After.",
        504: "The deadline passed.",
    }.items()
}


def routes(service: Service) -> APIRouter:
    """Return the routes of a service."""
    router = APIRouter(prefix="/v1", tags=["inspection"])

    @router.post(
        "/inspect",
        response_model=Inspection,
        responses={200: {"content": {"image/png": {}}}, **_PROBLEMS},
        openapi_extra=_BODIES,
        summary="Say how anomalous an image is, where, and whether it is defective",
    )
    async def inspect(
        request: Request,
        model: str | None = Query(None, description="Which model; default: the first."),
        heatmap: bool = Query(False, description="Also give the map, as a PNG in base64."),
    ) -> Response:
        """Inspect one image: raw bytes, or the file in the form's field `image`.

        With `Accept: image/png` the answer is the image with its heatmap and regions drawn.
        """
        visit = Visit(service, request, service.model(model))
        with visit.counted(), visit.room():
            return await _answer(service, visit, request, heatmap)

    @router.get("/models", response_model=ModelList, summary="List the models that are served")
    async def models() -> Response:
        default = service.models.get(None)
        listed = [{**each.describe(), "default": each is default} for each in service.models]
        limits = {"max_bytes": service.limits.max_bytes, "deadline": service.limits.deadline}
        return JSONResponse({"models": listed, "limits": limits})

    return router


async def _answer(service: Service, visit: Visit, request: Request, heatmap: bool) -> Response:
    name, content = await visit.upload()
    (answer,) = await visit.inspect([content])
    result = answer.said
    if isinstance(result, Failure):
        raise Problem(422, result.error.reason)
    service.telemetry.result(visit.model.name, result)
    accept = ", ".join(request.headers.getlist("Accept"))
    if wants(accept, "image/png", "application/json"):
        drawn = await anyio.to_thread.run_sync(_drawn, content, result)
        return Response(drawn, media_type="image/png")
    said = {
        "model": visit.model.name,
        "weights_sha256": answer.predictor.weights_sha256,
        **result.to_json(),
        "path": name,
        "pixel_threshold": result.pixel_threshold,
        "seconds": round(visit.elapsed, 6),
        "heatmap": None,
    }
    if heatmap:
        said["heatmap"] = await anyio.to_thread.run_sync(_encoded, result.anomaly_map)
    return JSONResponse(said)


def _encoded(anomaly_map: NDArray[np.float32]) -> str:
    return base64.b64encode(encode_image(levels_of(anomaly_map), "map.png")).decode()


def _drawn(content: bytes, result: Result) -> bytes:
    return encode_image(result.overlay(content), "drawn.png")
