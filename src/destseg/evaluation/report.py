"""What the report holds: metrics, curves, and every image as small copies."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.data.drawing import colour_map, levels_of
from destseg.data.images import resize
from destseg.data.samples import Sample
from destseg.errors import DataError
from destseg.evaluation.metrics import Curve
from destseg.inference.result import Region, Result
from destseg.model_folder import read_log
from destseg.phases import PHASES

THUMBNAIL = 192
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Entry:
    """One image of the gallery.

    Attributes:
        name: folder and file name, as shown.
        defect_type: ``good`` or the type of the defect.
        is_defective: what is true of the part, not what was decided.
        score, p_value, regions, height, width: as in ``Result``.
        image: JPEG, longest side at most 192.
        heatmap: JPEG of the coloured anomaly map on the fixed scale 0 to 1, of the same size.
        mask: grey PNG of the true defect, of the same size; ``None`` where there is none.
    """

    name: str
    defect_type: str
    is_defective: bool
    score: float
    p_value: float
    regions: tuple[Region, ...]
    height: int
    width: int
    image: bytes
    heatmap: bytes
    mask: bytes | None


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        title: its heading.
        facts: lines of the summary: data, model, its training, how much was measured.
        metrics: in [0, 1] by name, such as ``image AUROC``; ``None`` is not defined.
        reasons: why a metric is not defined, by its name.
        defect_types: rows of a table; floats are fractions, whole numbers are counts.
        curves: ``image ROC``, ``image PR``, ``pixel ROC``, ``pixel PR``, ``pixel PRO``.
        threshold: of the image score, as calibrated.
        guaranteed_false_alarm_rate: fraction of good parts that the threshold flags at most.
        calibration_scores: image scores of the good images that the threshold was fitted on.
        training: (step, loss) of each phase, by its number in words.
        settings: nested plain values.
        entries: the images.
        calibration_groups: number of groups of the calibration images; ``None`` where each counts
            by itself.
    """

    title: str
    facts: Mapping[str, str]
    metrics: Mapping[str, float | None]
    reasons: Mapping[str, str]
    defect_types: Sequence[Mapping[str, object]]
    curves: Mapping[str, Curve]
    threshold: float
    guaranteed_false_alarm_rate: float
    calibration_scores: Sequence[float]
    training: Mapping[str, Sequence[tuple[int, float]]]
    settings: Mapping[str, object]
    entries: Sequence[Entry]
    calibration_groups: int | None = None


def make_entry(
    sample: Sample, result: Result, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None
) -> Entry:
    """Return a gallery's entry, with small copies of the images only.

    Args:
        sample: what is true of the image.
        result: what was said of it.
        image: uint8 [H, W, 3], RGB.
        mask: true defect, bool [h, w] of any size, or ``None``.

    Raises:
        DataError: if it is not known whether the part is good.
    """
    if sample.defect_type is None:
        raise DataError(
            f"{sample.path}: expected an image known to be good or defective, got one without "
            "a label"
        )
    scale = min(1.0, THUMBNAIL / max(result.height, result.width))
    size = (max(1, round(result.height * scale)), max(1, round(result.width * scale)))
    # Values are made small, not colours: between two colours of the scale lies a wrong one.
    heatmap = colour_map(resize(levels_of(result.anomaly_map), size).astype(np.float32) / 255)
    drawn = None if mask is None else resize(mask.astype(np.uint8) * np.uint8(255), size)
    return Entry(
        name="/".join(sample.path.absolute().parts[-2:]),
        defect_type=sample.defect_type,
        is_defective=bool(sample.is_defective),
        score=result.score,
        p_value=result.p_value,
        regions=result.regions,
        height=result.height,
        width=result.width,
        image=_encoded(resize(image, size), "JPEG"),
        heatmap=_encoded(heatmap, "JPEG"),
        mask=None if drawn is None else _encoded(drawn, "PNG"),
    )


def training_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, loss) by phase ("phase 1") from a training's ``log.jsonl``, steps rising.

    Steps that a resumed run repeated count once, the later time; lines that are cut off or are no
    steps are passed over.  Without a log there are no curves.
    """
    phases: dict[str, dict[int, float]] = {}
    for record in read_log(folder):
        try:
            if "fold" in record:  # of a model that was only asked, and thrown away
                continue
            if record["event"] == "step" and math.isfinite(record["loss"]):
                phase = phases.setdefault(f"phase {PHASES[record['phase']].number}", {})
                phase[int(record["step"])] = float(record["loss"])
        except (ValueError, TypeError, KeyError):
            continue
    return {phase: sorted(steps.items()) for phase, steps in phases.items()}


def _encoded(image: NDArray[np.uint8], file_format: str) -> bytes:
    encoded = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if file_format == "JPEG" else {}
    Image.fromarray(image).save(encoded, file_format, optimize=True, **options)
    return encoded.getvalue()
