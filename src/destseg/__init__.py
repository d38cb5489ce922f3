"""Find surface defects in images of parts after learning from good parts only.

>>> import destseg
>>> predictor = destseg.train("data/bottle", output="runs/bottle")  # doctest: +SKIP
>>> destseg.load("runs/bottle").predict("part.png").is_defective  # doctest: +SKIP
True
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from destseg.config import Settings as Settings
    from destseg.errors import DestsegError as DestsegError
    from destseg.inference.calibration import Calibration as Calibration
    from destseg.inference.predictor import Predictor as Predictor
    from destseg.inference.predictor import load as load
    from destseg.inference.result import Failure as Failure
    from destseg.inference.result import Region as Region
    from destseg.inference.result import Result as Result

__version__ = "0.1.0"

# A library says nothing by itself; the command line adds a handler.
logging.getLogger("destseg").addHandler(logging.NullHandler())

# Names are imported when they are first used, so that ``import destseg`` is quick and works
# without torch.
_HOMES = {
    "Calibration": "destseg.inference.calibration",
    "DestsegError": "destseg.errors",
    "Failure": "destseg.inference.result",
    "Predictor": "destseg.inference.predictor",
    "Region": "destseg.inference.result",
    "Result": "destseg.inference.result",
    "Settings": "destseg.config",
    "load": "destseg.inference.predictor",
}

__all__ = ["__version__", "train", *sorted(_HOMES)]


def train(*args: Any, **kwargs: Any) -> Predictor:
    """Learn from good images; see ``destseg.training.train.train``, which this calls.

    Thread safety: it may be called in any thread; trainings in one process wait for one another.

    Raises:
        MissingExtraError: if the extra ``train`` is not installed.
    """
    from destseg.errors import needs_extra

    with needs_extra("train", "training"):
        from destseg.training.train import train as run
    return run(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'destseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
