"""A Ray cluster to work on: one that runs, or one of our own for as long as the work lasts."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from destseg.as_found import give_ray_a_token, variables
from destseg.errors import SettingsError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What an actor has of a machine for itself; parts of one are possible.

    Attributes:
        cpus, gpus: how many.
    """

    cpus: float = 1
    gpus: float = 0


@contextlib.contextmanager
def session(address: str | None, share: Share) -> Iterator[None]:
    """Connect to Ray or begin one of our own, and end only what was begun here.

    Of one of our own the variables RAY_AUTH_TOKEN and, set by Ray, RAY_AUTH_MODE stay.
    """
    if ray.is_initialized():
        _require_room(share, may_grow=True)
        yield
        return
    # Ray warns on the terminal of how its own Ray Data begins actors.
    with variables(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal"):
        if address is None:
            give_ray_a_token()
        try:
            ray.init(
                address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            expected = f"a Ray cluster at {address}" if address else "Ray to begin on this machine"
            raise SettingsError(f"--address: expected {expected}, got {error}") from error
        try:
            _require_room(share, may_grow=address is not None)
            yield
        finally:
            ray.shutdown()


def room(share: Share) -> int:
    """Return how many actors the machines hold now."""
    return max(1, sum(_fit(share, node["Resources"]) for node in _nodes()))


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _fit(share: Share, has: Mapping[str, float]) -> int:
    wanted = {"CPU": share.cpus, "GPU": share.gpus}
    return min(int(has.get(name, 0) / each) for name, each in wanted.items() if each)


def _require_room(share: Share, *, may_grow: bool) -> None:
    """Refuse what would wait for ever; a cluster may get larger machines."""
    if any(_fit(share, node["Resources"]) for node in _nodes()):
        return
    text = (
        f"--cpus-per-actor, --gpus-per-actor: expected a machine with {share.cpus:g} "
        f"CPUs and {share.gpus:g} GPUs, got none"
    )
    if not may_grow:
        raise SettingsError(text)
    logger.warning("%s yet; waiting until the cluster has one", text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's own bars and traces away."""
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    log = logging.getLogger("ray.data")
    level = log.level
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        log.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        log.setLevel(level)


class Tries:
    """Counts over all processes how often each piece was begun, in a process of its own."""

    def __init__(self) -> None:
        self._counter = ray.remote(_Counter).options(num_cpus=0, max_restarts=-1).remote()

    def __call__(self, piece: str) -> int:
        """Count a beginning and return how many there were."""
        return int(ray.get(self._counter.begin.options(max_task_retries=-1).remote(piece)))


class _Counter:
    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, piece: str) -> int:
        self._begun[piece] += 1
        return self._begun[piece]
