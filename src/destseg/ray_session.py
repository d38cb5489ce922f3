"""A session of Ray: one that runs, or one of our own for as long as the work lasts."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from destseg.as_found import sigterm, variables
from destseg.errors import DestsegError, SettingsError, needs_extra

logger = logging.getLogger(__name__)

_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True)
class Needs:
    """What a worker has of a machine for itself; 0.5 lets two have one.

    Attributes:
        cpus, gpus: how many.
    """

    cpus: float = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@contextlib.contextmanager
def session(
    address: str | None,
    needs: Needs,
    *,
    flags: str,
    what_for: str,
    object_store_memory: int | None = None,
    **environment: str,
) -> Iterator[Any]:
    """Give Ray, connected to a cluster or begun on this machine; end only what was begun here.

    Of one that was begun here the variables RAY_AUTH_TOKEN and, set by Ray, RAY_AUTH_MODE stay.

    Args:
        address: of a cluster; ``None`` begins one on this machine, for as long as the work lasts.
            Where this process has a session already, that is used.
        needs: of each worker.
        flags: that say what a worker needs, for messages.
        what_for: who needs Ray, for the message without it.
        object_store_memory: bytes for what workers exchange on this machine; ``None`` for Ray's
            choice.
        environment: further variables that Ray begins with.

    Raises:
        MissingExtraError: without the extra ``ray``.
        SettingsError: if there is no cluster, or this machine cannot hold a worker.
        DestsegError: if Ray does not start on this machine.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    with variables(**quiet, **environment):
        with needs_extra("ray", what_for):
            import ray
        if ray.is_initialized():
            _require_room(ray, needs, flags, may_grow=True)
            yield ray
            return
        with _ended_by_signals(ray):
            if address is None:
                _begin(ray, object_store_memory)
            else:
                _connect(ray, address)
        try:
            _require_room(ray, needs, flags, may_grow=address is not None)
            yield ray
        finally:
            ray.shutdown()


def room(ray: Any, needs: Needs) -> int:
    """Return how many workers the machines hold now, at least 1."""
    return max(1, sum(_fit(needs, has) for has in _machines(ray)))


@contextlib.contextmanager
def _ended_by_signals(ray: Any) -> Iterator[None]:
    """End a Ray that is interrupted while it begins; put back the handler that Ray replaces.

    Without that this process ends with an exit code of Ray's, and may not say anything.
    """
    try:
        with sigterm():
            yield
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except SystemExit:
        # Of Ray's handler of SIGTERM, which is there from its first moment on.
        ray.shutdown()
        signal.raise_signal(signal.SIGTERM)
        raise


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address, **_QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"--address: expected a Ray cluster at {address}, got {error}"
        ) from error


def _begin(ray: Any, object_store_memory: int | None) -> None:
    _give_token()
    try:
        ray.init(
            "local", include_dashboard=False, object_store_memory=object_store_memory, **_QUIET
        )
    except Exception as error:  # Ray has no class for it; it waits 30 seconds for its own parts
        ray.shutdown()
        raise DestsegError(
            f"expected Ray to start on this machine, got: {error} Is it busy or out of memory? "
            "Nothing was begun; give the same command again."
        ) from error


def _give_token() -> None:
    """Put the token for a Ray of our own into the environment, where there is none.

    Ray would write one into the user's home.  The variable stays: Ray reads it once in a process,
    so that a later session of the caller's has to find the same.
    """
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not given and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _machines(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fit(needs: Needs, has: Mapping[str, float]) -> int:
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus}
    return min(int(has.get(name, 0) / each) for name, each in wanted.items() if each)


def _require_room(ray: Any, needs: Needs, flags: str, *, may_grow: bool) -> None:
    """Refuse what would wait for ever; a cluster may get larger machines."""
    machines = _machines(ray)
    if any(_fit(needs, has) for has in machines):
        return
    most = Needs(*(max(has.get(name, 0) for has in [{}, *machines]) for name in ("CPU", "GPU")))
    text = f"{flags}: expected a machine with {needs} for each worker, got at most {most}"
    if not may_grow:
        raise SettingsError(text)
    logger.warning("%s; waiting until the cluster has one", text)
