"""Applications that serve the fake model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from destseg.serving.app import create_app
from serving.fakes import make_predictor


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Returns a client of an application that serves ``part``; both end with the test."""
    with contextlib.ExitStack() as ends:

        def start(openers: Any = None, **options: Any) -> TestClient:
            app = create_app(openers or {"part": make_predictor}, **options)
            return ends.enter_context(TestClient(app))

        yield start


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()
