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
    from destseg.api import batch as batch
    from destseg.api import calibrate as calibrate
    from destseg.api import compare as compare
    from destseg.api import create_app as create_app
    from destseg.api import drift as drift
    from destseg.api import evaluate as evaluate
    from destseg.api import export as export
    from destseg.api import preview as preview
    from destseg.api import qualify as qualify
    from destseg.api import quantize as quantize
    from destseg.api import report as report
    from destseg.api import train as train
    from destseg.api import train_many as train_many
    from destseg.api import watch as watch
    from destseg.batch_inspection.values import BatchCounts as BatchCounts
    from destseg.batch_inspection.values import BatchJob as BatchJob
    from destseg.batch_inspection.values import BatchPlan as BatchPlan
    from destseg.categories.job import JobOutcome as JobOutcome
    from destseg.categories.plan import Category as Category
    from destseg.categories.plan import TrainingJob as TrainingJob
    from destseg.categories.summary import CategorySummary as CategorySummary
    from destseg.config import Settings as Settings
    from destseg.data.samples import Sample as Sample
    from destseg.errors import BatchError as BatchError
    from destseg.errors import BundleError as BundleError
    from destseg.errors import DataError as DataError
    from destseg.errors import DestsegError as DestsegError
    from destseg.errors import ImageError as ImageError
    from destseg.errors import MissingExtraError as MissingExtraError
    from destseg.errors import NotWrittenError as NotWrittenError
    from destseg.errors import SettingsError as SettingsError
    from destseg.errors import TrainingError as TrainingError
    from destseg.errors import TrainingInterrupted as TrainingInterrupted
    from destseg.errors import WeightsError as WeightsError
    from destseg.evaluation.evaluate import DefectTypeEvaluation as DefectTypeEvaluation
    from destseg.evaluation.evaluate import Evaluation as Evaluation
    from destseg.evaluation.metrics import Curve as Curve
    from destseg.evaluation.metrics import ImageMetrics as ImageMetrics
    from destseg.evaluation.outcomes import Coverage as Coverage
    from destseg.evaluation.outcomes import ImageRecord as ImageRecord
    from destseg.evaluation.pixels import PixelMetrics as PixelMetrics
    from destseg.fields import DataSettings as DataSettings
    from destseg.fields import DecisionSettings as DecisionSettings
    from destseg.fields import ModelSettings as ModelSettings
    from destseg.fields import SynthesisSettings as SynthesisSettings
    from destseg.fields import TrainingSettings as TrainingSettings
    from destseg.inference.bundle import Bundle as Bundle
    from destseg.inference.calibration import Calibration as Calibration
    from destseg.inference.calibration import GroupScores as GroupScores
    from destseg.inference.exports import Export as Export
    from destseg.inference.parity import Comparison as Comparison
    from destseg.inference.parity import Parity as Parity
    from destseg.inference.predictor import Measurement as Measurement
    from destseg.inference.predictor import Predictor as Predictor
    from destseg.inference.predictor import load as load
    from destseg.inference.recalibration import Recalibration as Recalibration
    from destseg.inference.result import Failure as Failure
    from destseg.inference.result import Region as Region
    from destseg.inference.result import Result as Result
    from destseg.inference.sources import ImageLike as ImageLike
    from destseg.inference.sources import Images as Images
    from destseg.keywords import RuntimeKeywords as RuntimeKeywords
    from destseg.keywords import SettingsKeywords as SettingsKeywords
    from destseg.monitoring.check import DriftCheck as DriftCheck
    from destseg.monitoring.drift import Drift as Drift
    from destseg.monitoring.drift import DriftStep as DriftStep
    from destseg.monitoring.recorded import ImageScore as ImageScore
    from destseg.qualification.blind_spots import BlindSpots as BlindSpots
    from destseg.qualification.curves import DetectionCurve as DetectionCurve
    from destseg.qualification.detection import FamilyDetection as FamilyDetection
    from destseg.qualification.detection import Reference as Reference
    from destseg.qualification.gauge import Gauge as Gauge
    from destseg.qualification.qualification import Qualification as Qualification
    from destseg.qualification.repeatability import Spread as Spread
    from destseg.qualification.tolerance import Strength as Strength
    from destseg.qualification.tolerance import Tolerance as Tolerance
    from destseg.rate import Rate as Rate

__version__ = "0.1.0"

# A library says nothing by itself; the command line adds a handler.
logging.getLogger("destseg").addHandler(logging.NullHandler())

# Names are imported when they are first used, so that ``import destseg`` is quick and works
# without any extra.
_HOMES = {
    "destseg.api": (
        "batch",
        "calibrate",
        "compare",
        "create_app",
        "drift",
        "evaluate",
        "export",
        "preview",
        "qualify",
        "quantize",
        "report",
        "train",
        "train_many",
        "watch",
    ),
    "destseg.batch_inspection.values": ("BatchCounts", "BatchJob", "BatchPlan"),
    "destseg.categories.job": ("JobOutcome",),
    "destseg.categories.plan": ("Category", "TrainingJob"),
    "destseg.categories.summary": ("CategorySummary",),
    "destseg.config": ("Settings",),
    "destseg.data.samples": ("Sample",),
    "destseg.errors": (
        "BatchError",
        "BundleError",
        "DataError",
        "DestsegError",
        "ImageError",
        "MissingExtraError",
        "NotWrittenError",
        "SettingsError",
        "TrainingError",
        "TrainingInterrupted",
        "WeightsError",
    ),
    "destseg.evaluation.evaluate": ("DefectTypeEvaluation", "Evaluation"),
    "destseg.evaluation.metrics": ("Curve", "ImageMetrics"),
    "destseg.evaluation.outcomes": ("Coverage", "ImageRecord"),
    "destseg.evaluation.pixels": ("PixelMetrics",),
    "destseg.fields": (
        "SynthesisSettings",
        "DataSettings",
        "DecisionSettings",
        "ModelSettings",
        "TrainingSettings",
    ),
    "destseg.inference.bundle": ("Bundle",),
    "destseg.inference.calibration": ("Calibration", "GroupScores"),
    "destseg.inference.exports": ("Export",),
    "destseg.inference.parity": ("Comparison", "Parity"),
    "destseg.inference.predictor": ("Measurement", "Predictor", "load"),
    "destseg.inference.recalibration": ("Recalibration",),
    "destseg.inference.result": ("Failure", "Region", "Result"),
    "destseg.inference.sources": ("ImageLike", "Images"),
    "destseg.keywords": ("RuntimeKeywords", "SettingsKeywords"),
    "destseg.monitoring.check": ("DriftCheck",),
    "destseg.monitoring.drift": ("Drift", "DriftStep"),
    "destseg.monitoring.recorded": ("ImageScore",),
    "destseg.qualification.blind_spots": ("BlindSpots",),
    "destseg.qualification.curves": ("DetectionCurve",),
    "destseg.qualification.detection": ("FamilyDetection", "Reference"),
    "destseg.qualification.gauge": ("Gauge",),
    "destseg.qualification.qualification": ("Qualification",),
    "destseg.qualification.repeatability": ("Spread",),
    "destseg.qualification.tolerance": ("Strength", "Tolerance"),
    "destseg.rate": ("Rate",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'destseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
