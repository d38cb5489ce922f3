"""The known defects of a model: what it says of each, and of how many it would miss."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from destseg.data.files import write_atomically
from destseg.errors import BundleError
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.model_folder import DEFECTS
from destseg.rate import Rate

FORMAT = 1


@dataclass(frozen=True)
class KnownDefect:
    """An image of a known defect.

    Attributes:
        path: relative to the folder of defects.
        defect_type: name of its type.
        sha256: of the file.
        learned: whether the model learned from it.
        score: the model's image score in [0, 1].
        found_before: whether the ancestor found it; ``None`` without an ancestor.
    """

    path: str
    defect_type: str
    sha256: str
    learned: bool
    score: float
    found_before: bool | None = None


@dataclass(frozen=True)
class KnownDefects:
    """What a model says of the known defects; its threshold may change, the scores do not.

    Attributes:
        weights_sha256: of the weights that gave the scores.
        defects: the images.
    """

    weights_sha256: str
    defects: tuple[KnownDefect, ...]

    def missed(self, calibration: Calibration) -> dict[str, Rate]:
        """Return how many of each type are missed at the threshold, of those not learned.

        A type of which all are learned is not there: of what was learned nothing can be said.
        """
        return {
            name: Rate(
                sum(not calibration.is_defective(each.score) for each in of_type), len(of_type)
            )
            for name in sorted({each.defect_type for each in self.defects})
            if (of_type := [e for e in self.defects if e.defect_type == name and not e.learned])
        }

    def lines(self, calibration: Calibration) -> list[str]:
        """Return how many would be missed, in words: in all, and a line a type."""
        missed = self.missed(calibration)
        total = Rate(sum(r.count for r in missed.values()), sum(r.total for r in missed.values()))
        learned = sum(each.learned for each in self.defects)
        if not total.total:
            return [
                f"all {learned} known defects were learned, so how many like them would be missed "
                "is not known: give at least 4 images with masks of a type, and a part is not "
                "learned but measured"
            ]
        all_learned = sorted({each.defect_type for each in self.defects} - set(missed))
        lines = [f"of known defects that were not learned, missed: {_worded(total)}"]
        lines += [f"  {name}: {_worded(rate)}" for name, rate in missed.items()]
        return lines + [f"  {name}: all learned, so not known" for name in all_learned]

    def to_dict(self, calibration: Calibration) -> dict[str, Any]:
        """Return plain values for JSON, and for people how many are missed at the threshold."""
        missed = {name: rate.to_json() for name, rate in self.missed(calibration).items()}
        derived = {"threshold": calibration.threshold, "missed": missed}
        return {"format": FORMAT, **derived, **asdict(self)}


def save_known_defects(bundle: Bundle, known: KnownDefects, calibration: Calibration) -> None:
    """Write the known defects of a bundle."""
    content = json.dumps(known.to_dict(calibration), indent=1) + "\n"
    write_atomically(bundle.folder / DEFECTS, content)


def load_known_defects(bundle: Bundle) -> KnownDefects | None:
    """Read the known defects of a bundle; ``None`` where it knows none.

    Raises:
        BundleError: if the file is damaged, or of other weights.
    """
    path = bundle.folder / DEFECTS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        known = KnownDefects(
            content["weights_sha256"], tuple(KnownDefect(**each) for each in content["defects"])
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(
            f"{path}: expected known defects of destseg, got {error!r}. Copy the bundle again."
        ) from error
    if known.weights_sha256 != bundle.weights_sha256:
        raise BundleError(
            f"{path}: expected scores of this model, got those of another. Remove it."
        )
    return known


def _worded(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.count} of {rate.total} (95 % interval {low:.0%} to {high:.0%})"
