"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from destseg.inference.predictor import Predictor
from destseg.inference.result import Result

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
_SCORES = tuple(step / 20 for step in range(1, 20))
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Telemetry:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._seconds = Histogram(
            "destseg_request_seconds",
            "Time from a request's arrival to its answer.",
            ["model", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "destseg_batch_images",
            "Images that went through the networks together.",
            ["model"],
            buckets=_BATCHES,
            registry=registry,
        )
        self._scores = Histogram(
            "destseg_score", "Image scores.", ["model"], buckets=_SCORES, registry=registry
        )
        self._decisions = Counter(
            "destseg_decisions", "Images by decision.", ["model", "decision"], registry=registry
        )
        self._errors = Counter(
            "destseg_errors", "Requests that were refused.", ["status"], registry=registry
        )
        self._reloads = Counter(
            "destseg_reloads", "Reloads by outcome.", ["model", "outcome"], registry=registry
        )
        self._depth = Gauge(
            "destseg_queue_depth", "Images that wait.", ["model"], registry=registry
        )
        self._threshold = Gauge(
            "destseg_threshold", "Scores above it are defective.", ["model"], registry=registry
        )
        self._info = Gauge(
            "destseg_model_info",
            "1 for each model that is served.",
            ["model", "backend", "weights_sha256"],
            registry=registry,
        )

    def request(self, model: str, status: int, seconds: float) -> None:
        """Count a request for a result, answered with one or not."""
        self._seconds.labels(model, str(status)).observe(seconds)

    def error(self, status: int) -> None:
        """Count a request of any kind that was refused."""
        self._errors.labels(str(status)).inc()

    def result(self, model: str, result: Result) -> None:
        """Count an image's score and decision."""
        self._scores.labels(model).observe(result.score)
        self._decisions.labels(model, "defective" if result.is_defective else "good").inc()

    def batch(self, model: str) -> Callable[[int], None]:
        """Return what counts the batches of a model."""
        return self._batches.labels(model).observe

    def loaded(self, model: str, predictor: Predictor, depth: Callable[[], int]) -> None:
        """Show a model that is served from now on."""
        self._depth.labels(model).set_function(depth)
        self._threshold.labels(model).set(predictor.calibration.threshold)
        self._info.labels(*_info(model, predictor)).set(1)

    def unloaded(self, model: str, predictor: Predictor) -> None:
        """Show a model no longer."""
        self._info.remove(*_info(model, predictor))

    def reload(self, model: str, outcome: str) -> None:
        """Count a reload: ``done`` or ``failed``."""
        self._reloads.labels(model, outcome).inc()

    def page(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)


def _info(model: str, predictor: Predictor) -> tuple[str, str, str]:
    return model, predictor.backend_name, predictor.weights_sha256
