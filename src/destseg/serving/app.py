"""The HTTP server: routes, errors and life of the application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any, cast

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import destseg
from destseg.inference.predictor import Predictor
from destseg.serving import inspection, protocol
from destseg.serving.guard import Guard, expected_token
from destseg.serving.models import Models
from destseg.serving.problems import Problem, answer_problem, not_ready
from destseg.serving.requests import Limits, Service
from destseg.serving.schemas import problem_body
from destseg.serving.telemetry import Telemetry

# Nothing from elsewhere, nothing inline: the page needs no internet and runs nobody else's code.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; media-src blob:; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Permissions-Policy": "camera=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


# By our own table: that of the machine may call scripts plain text, which browsers refuse to run.
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def create_app(
    openers: Mapping[str, Callable[[], Predictor]],
    *,
    limits: Limits | None = None,
    token: str | None = None,
) -> FastAPI:
    """Return the application that serves models; ``app.state.service`` has them.

    Thread safety: requests may come from any number of threads, and in processes that are forked
    after it.  A model's images go through it in one thread, in batches.

    Args:
        openers: for each name what gives its predictor, at the start and at each reload; the first
            is the default.
        limits: how much is taken.
        token: what callers must show as ``Authorization: Bearer``; ``None`` lets everybody in.

    Raises:
        SettingsError: if the token is empty or blank.
        DestsegError: if a model cannot be loaded.
    """
    if token is not None:
        expected_token(token)  # not at the first request, when the layer is made
    limits, telemetry = limits or Limits(), Telemetry()
    service = Service(Models(openers, limits.queue, telemetry), limits, telemetry)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.models.close)

    app = FastAPI(
        title="destseg",
        version=destseg.__version__,
        summary="Finds surface defects in images of parts.",
        lifespan=life,
        docs_url=None,  # both load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(inspection.routes(service))
    app.include_router(protocol.routes(service))
    _add_operations(app, service)
    _add_page(app)
    _add_errors(app, telemetry)
    if token is not None:
        app.add_middleware(Guard, token=token, telemetry=telemetry)
    return app


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"], summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    closing: dict[int | str, dict[str, Any]] = {503: problem_body("The server is closing.")}

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz", tags=["operation"], summary="Whether images are inspected", responses=closing
    )
    async def readyz() -> dict[str, str]:
        # Models are loaded before the port is open, and a reload leaves the old one until the new
        # one has answered.
        if not service.models.are_ready():
            raise not_ready()
        return {"status": "ready"}

    shown: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses=shown,
    )
    async def metrics() -> Response:
        return Response(service.telemetry.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_page(app: FastAPI) -> None:
    parts = _page_files()

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str = "page.html") -> Response:
        if name not in parts:
            raise HTTPException(404, f"expected a part of the page, got {name!r}")
        content, kind = parts[name]
        return Response(content, headers=_PAGE_HEADERS, media_type=kind)


def _page_files() -> dict[str, tuple[bytes, str]]:
    folders = files("destseg.serving") / "page", files("destseg.pages")
    return {
        each.name: (each.read_bytes(), _KINDS[suffix])
        for folder in folders
        for each in folder.iterdir()
        if (suffix := PurePath(each.name).suffix) in _KINDS
    }


def _add_errors(app: FastAPI, telemetry: Telemetry) -> None:
    def answer(request: Request, problem: Problem) -> Response:
        telemetry.error(problem.status)
        return answer_problem(request, problem)

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Exception) -> Response:
        return answer(request, cast(Problem, error))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: Exception) -> Response:
        found = cast(HTTPException, error)
        return answer(request, Problem(found.status_code, found.detail, found.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        first = cast(RequestValidationError, error).errors()[0]
        return answer(request, Problem(422, f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        del error  # the server's log has it; a stranger need not see it
        return answer(request, Problem(500, "expected an answer, got a fault of ours"))
