"""The models that are served: by name, replaced without a pause."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from destseg.data.paths import AnyPath, expanded, shown
from destseg.errors import DestsegError, SettingsError
from destseg.inference.calibration import TOLERANCE
from destseg.inference.predictor import Predictor, load
from destseg.serving.batching import Batcher
from destseg.serving.telemetry import Telemetry

LOG = logging.getLogger(__name__)


class Model:
    """One served model and the queue before it.

    Args:
        name: what callers ask for.
        open_predictor: gives the predictor, at the start and at each reload.
        capacity: images that may be accepted and not yet answered.
        telemetry: is told of batches and reloads.

    Raises:
        DestsegError: if there is no predictor at the start.
    """

    def __init__(
        self,
        name: str,
        open_predictor: Callable[[], Predictor],
        *,
        capacity: int,
        telemetry: Telemetry,
    ) -> None:
        self.name = name
        self._open_predictor = open_predictor
        self._telemetry = telemetry
        self.batcher = Batcher(self._open(), capacity=capacity, on_batch=telemetry.batch(name))
        self.loaded_at = datetime.now(UTC)
        telemetry.loaded(name, self.predictor, lambda: self.batcher.depth)

    @property
    def predictor(self) -> Predictor:
        """What answers now."""
        return self.batcher.predictor

    def _open(self) -> Predictor:
        """Return a predictor that has inspected an image: it works, and is warm."""
        predictor = self._open_predictor()
        predictor.predict(np.full((64, 64, 3), 114, np.uint8))
        return predictor

    def reload(self) -> str | None:
        """Load the model anew and put it in the old one's place between two batches.

        Returns:
            Why the old one was kept, or ``None``.
        """
        try:
            predictor = self._open()
        except Exception as error:  # runtimes raise their own for files that they cannot use
            self._telemetry.reload(self.name, "failed")
            LOG.warning(
                "%s: not reloaded, the model of before goes on: %s",
                self.name,
                error,
                exc_info=None if isinstance(error, DestsegError) else error,
            )
            return str(error)
        self._telemetry.unloaded(self.name, self.predictor)
        self.batcher.predictor = predictor
        self.loaded_at = datetime.now(UTC)
        self._telemetry.loaded(self.name, predictor, lambda: self.batcher.depth)
        self._telemetry.reload(self.name, "done")
        LOG.warning("%s: reloaded, weights %.12s", self.name, predictor.weights_sha256)
        return None

    def describe(self) -> dict[str, Any]:
        """Return plain values for JSON: what runs, and what its threshold rests on."""
        predictor = self.predictor
        bundle, calibration = predictor.bundle, predictor.calibration
        return {
            "name": self.name,
            "backend": predictor.backend_name,
            "image_size": bundle.settings.data.image_size,
            "tile": bundle.settings.data.tile,
            "max_pixels": bundle.settings.data.max_pixels,
            "weights_sha256": predictor.weights_sha256,
            "loaded_at": self.loaded_at.isoformat(timespec="seconds"),
            "threshold": calibration.threshold,
            "pixel_threshold": calibration.pixel_threshold,
            "max_false_alarm_rate": calibration.max_false_alarm_rate,
            "guaranteed_false_alarm_rate": calibration.guaranteed_false_alarm_rate,
            "guarantee_note": calibration.guarantee_note(),
            "calibration": {
                "count": len(calibration.scores),
                "scores": list(calibration.scores),
                "tolerance": TOLERANCE,
                "groups": len(calibration.by_group()) or None,
                "votes": None if calibration.groups is None else list(calibration.votes),
            },
        }


class Models:
    """All served models by name; the first is the default.

    Args:
        openers: for each name what gives its predictor; at least one.
        capacity: of each model's queue.
        telemetry: is told of batches and reloads.
    """

    def __init__(
        self, openers: Mapping[str, Callable[[], Predictor]], capacity: int, telemetry: Telemetry
    ) -> None:
        if not openers:
            raise SettingsError("expected at least one model to serve, got none")
        self._reloading = threading.Lock()
        self._models: dict[str, Model] = {}
        try:
            for name, opener in openers.items():
                self._models[name] = Model(name, opener, capacity=capacity, telemetry=telemetry)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str | None) -> Model | None:
        """Return a model by its name, the default for ``None``, and ``None`` if there is none."""
        return next(iter(self)) if name is None else self._models.get(name)

    def names(self) -> list[str]:
        """Return the names, the default's first."""
        return list(self._models)

    def are_ready(self) -> bool:
        """Return whether every model takes images."""
        return all(model.batcher.is_open for model in self)

    def reload(self) -> None:
        """Load every model anew; one that cannot be loaded goes on as it is."""
        with self._reloading:  # two at a time could leave the older one in place
            for model in self:
                model.reload()

    def close(self) -> None:
        """Take nothing more and finish what was accepted."""
        for model in self:
            model.batcher.close()


def openers(bundles: Iterable[AnyPath], **options: Any) -> dict[str, Callable[[], Predictor]]:
    """Return for each bundle what loads it, by the name that it is served under.

    Args:
        bundles: folders, or ``NAME=FOLDER``; a folder alone is served under its own name.
        options: of ``destseg.load``.

    Raises:
        SettingsError: if two have one name.
    """
    found: dict[str, Callable[[], Predictor]] = {}
    for given in bundles:
        bundle = os.fspath(given)
        name, equals, folder = bundle.partition("=")
        if not equals or "/" in name:
            # Not resolved: a link to the version in use keeps its own name.
            name, folder = Path(bundle).absolute().name, bundle
        name = shown(name)
        if not name or not folder:
            raise SettingsError(f"expected a folder or NAME=FOLDER, got {bundle!r}")
        if name in found:
            raise SettingsError(
                f"expected models of different names, got {name!r} twice; name one of them: "
                f"{name}-2={folder}"
            )
        found[name] = _opener(folder, options)
    return found


def _opener(folder: str, options: Mapping[str, Any]) -> Callable[[], Predictor]:
    return lambda: load(expanded(folder), **options)
