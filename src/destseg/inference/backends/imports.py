"""Runtimes, and what quantises for them, imported so that nothing is written home or sent.

They tell their makers, unasked, of each import, model and conversion, and leave an id in the
user's home.  ONNX Runtime (1.32 on Linux) looks for a variable when it is imported.  OpenVINO and
NNCF have no switch, but use a package for it that they do without where it is missing, and so they
do here.  It then holds for the whole process; what was imported before is as it was.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from destseg.as_found import logging_as_found, variables

_TELEMETRY = "openvino_telemetry"


def onnxruntime() -> Any:
    """Return the package ``onnxruntime``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    return _silent("onnxruntime")


def openvino() -> Any:
    """Return the package ``openvino``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    return _silent("openvino")


def nncf() -> Any:
    """Return the package ``nncf``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    with logging_as_found():
        return _silent("nncf")


def _silent(package: str) -> Any:
    with variables(ORT_DISABLE_TELEMETRY="1"), _without(_TELEMETRY):
        return importlib.import_module(package)


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Let imports of a package fail as if it were not installed."""
    known = package in sys.modules
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if known:
            sys.modules[package] = before  # type: ignore[assignment]
        else:
            del sys.modules[package]
