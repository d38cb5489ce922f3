"""The known defects of a model: what it says of each, and of how many it would miss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
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
        found_left_out: whether a model that learned without it found it, at that model's own
            threshold (cross-fitting); ``None`` where none was asked.
    """

    path: str
    defect_type: str
    sha256: str
    learned: bool
    score: float
    found_before: bool | None = None
    found_left_out: bool | None = None

    def missed(self, calibration: Calibration) -> bool | None:
        """Return whether one like it would be missed; ``None`` if it was learned: not known."""
        if not self.learned:
            return not calibration.is_defective(self.score)
        return None if self.found_left_out is None else not self.found_left_out


@dataclass(frozen=True)
class KnownDefects:
    """What a model says of the known defects; its threshold may change, the scores do not.

    Attributes:
        weights_sha256: of the weights that gave the scores.
        defects: the images.
    """

    weights_sha256: str
    defects: tuple[KnownDefect, ...]

    def left_out(self, found: Mapping[str, bool]) -> KnownDefects:
        """Return it with whether models that learned without a defect found it, by SHA-256."""
        defects = [replace(each, found_left_out=found.get(each.sha256)) for each in self.defects]
        return replace(self, defects=tuple(defects))

    def missed(self, calibration: Calibration) -> dict[str, Rate]:
        """Return how many of each type are missed at the threshold, of those not learned.

        Of those that are learned it counts whether models that learned without them found them,
        where there are such models.  A type of which nothing can be said is not there.
        """
        missed: dict[str, list[bool]] = {}
        for each in sorted(self.defects, key=lambda defect: defect.defect_type):
            if (one := each.missed(calibration)) is not None:
                missed.setdefault(each.defect_type, []).append(one)
        return {name: Rate(sum(of_type), len(of_type)) for name, of_type in missed.items()}

    def lines(self, calibration: Calibration) -> list[str]:
        """Return how many would be missed, in words: in all, and a line a type."""
        missed = self.missed(calibration)
        total = Rate(sum(r.count for r in missed.values()), sum(r.total for r in missed.values()))
        learned = sum(each.learned for each in self.defects)
        if not total.total:
            # What the model has learned that it goes on from can be left out no more.
            goes_on = any(each.found_before is not None for each in self.defects)
            anew = "train anew, without --from, with" if goes_on else "train with"
            new = "new " if goes_on else ""
            return [
                f"all known defects ({learned}) were learned, so how many like them would be "
                f"missed is not known: give at least 4 {new}images with masks of a type, and a "
                f"part is not learned but measured, or {anew} --cross-fit 2"
            ]
        all_learned = sorted({each.defect_type for each in self.defects} - set(missed))
        lines = [f"of known defects that were not learned, missed: {_worded(total)}"]
        fitted = {each.defect_type for each in self.defects if each.found_left_out is not None}
        kept = {each.defect_type for each in self.defects if not each.learned}
        for name, rate in missed.items():
            part = ", in part" if name in kept else ","
            without = "by models that learned without them, at the threshold of the training"
            how = f"{part} {without}" if name in fitted else ""
            lines.append(f"  {name}: {_worded(rate)}{how}")
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
        if content["format"] != FORMAT:
            raise BundleError(
                f"{path}: expected format {FORMAT}, got {content['format']}. Use the version of "
                "destseg that wrote it, or remove the file."
            )
        known = KnownDefects(
            content["weights_sha256"], tuple(map(_known_defect, content["defects"]))
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


def _known_defect(content: Mapping[str, Any]) -> KnownDefect:
    names = {each.name for each in fields(KnownDefect)}  # a later version may write more
    return KnownDefect(**{name: value for name, value in content.items() if name in names})


def _worded(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.count} of {rate.total} (95 % interval {low:.0%} to {high:.0%})"
