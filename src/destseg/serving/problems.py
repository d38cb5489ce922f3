"""What goes wrong with a request, as HTTP says it (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - HTTP's word for it
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        detail: what was expected, what came and what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def too_large(max_bytes: int) -> Problem:
    """Return the answer to a body above the limit, of which the rest is not read."""
    return Problem(
        413,
        f"expected a body of at most {max_bytes} bytes, got more; send a smaller image or start "
        "the server with a larger --max-bytes",
    )


def compressed(encoding: str) -> Problem:
    """Return the answer to a body in a ``Content-Encoding``."""
    return Problem(
        415,
        f"expected a body that is not compressed, got Content-Encoding: {encoding:.80}; send it "
        "without",
    )


def no_room() -> Problem:
    """Return the answer where the queue is full or the server is closing."""
    return Problem(
        503,
        "expected room in the queue, got none: more images come than are inspected; try again",
        {"Retry-After": "1"},
    )


def too_late(seconds: float) -> Problem:
    """Return the answer where a request's time is over."""
    return Problem(
        504, f"expected a result within {seconds:g} s, got none; send fewer images at a time"
    )


def hung_up() -> Problem:
    """Return what is counted where nobody is left to be answered."""
    return Problem(400, "expected a caller who waits for the answer, got a closed connection")


def not_ready() -> Problem:
    """Return the answer of the probes while the server is closing."""
    return Problem(503, "expected a server that takes images, got one that is closing")


def broken(error: Exception) -> Problem:
    """Return the answer where the model itself failed."""
    return Problem(500, f"expected a result, got an error of the model: {error}")


def answer_problem(request: Request, problem: Problem) -> JSONResponse:
    """Return a problem as the answer; inference protocol v2 has a form of its own."""
    headers = {"Cache-Control": "no-store", **problem.headers}
    if request.url.path.startswith("/v2"):
        return JSONResponse({"error": problem.detail}, problem.status, headers)
    title = HTTPStatus(problem.status).phrase
    content = {"title": title, "status": problem.status, "detail": problem.detail}
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)
