"""How often each piece of a batch was begun, counted over all processes."""

from __future__ import annotations

from collections import Counter

import ray


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
