"""Who may ask: a bearer token before everything but the page and the probes."""

from __future__ import annotations

import hmac

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from destseg.errors import SettingsError
from destseg.serving.problems import Problem, answer_problem
from destseg.serving.telemetry import Telemetry

OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class Guard:
    """An ASGI layer that refuses requests without the token.

    Args:
        app: what is behind it.
        token: what ``Authorization: Bearer`` must give; spaces around it do not count.
        telemetry: is told of those who are refused.

    Raises:
        SettingsError: if the token is empty.
    """

    def __init__(self, app: ASGIApp, token: str, telemetry: Telemetry) -> None:
        self._app = app
        self._expected = expected_token(token)
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or _is_open(scope["path"]) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        problem = Problem(
            401,
            "expected the header Authorization: Bearer TOKEN with the server's token, got none or "
            "another",
            {"WWW-Authenticate": "Bearer"},
        )
        self._telemetry.error(problem.status)
        await answer_problem(Request(scope), problem)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        # In constant time: how long it takes must not tell how much of the token was right.
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._expected)


def expected_token(token: str) -> bytes:
    """Return what callers must show.

    Raises:
        SettingsError: if it is empty, which anybody could.
    """
    expected = token.strip().encode()  # files and shells end it with a new line
    if not expected:
        raise SettingsError(
            "the bearer token (DESTSEG_TOKEN): expected one, got an empty one; leave it out if "
            "everybody may ask"
        )
    return expected


def _is_open(path: str) -> bool:
    return path == "/" or path.startswith("/page/") or path in OPEN
