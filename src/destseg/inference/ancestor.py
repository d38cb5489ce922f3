"""A finished model that another goes on from: with which settings, and what it has seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from destseg.config import Settings, changed_settings, settings_fields
from destseg.data.lists import some
from destseg.data.names import may_be_one
from destseg.errors import BundleError, TrainingError
from destseg.fields import ALIKE, BY_FOLDER
from destseg.inference.bundle import Bundle, load_bundle
from destseg.inference.known_defects import KnownDefects, load_known_defects
from destseg.model_folder import CALIBRATION, KEPT

STEPS = 600
"""Steps of phase 2, at most: some 2.5 minutes of the preset ``fast`` on two cores."""

_RATE = 0.5  # of the learning rate: the heads know most already

KEPT_SHARE = 0.5
"""How much of the ancestor's weights the heads of the new model keep, as Wortsman et al. (2022,
"Robust fine-tuning of zero-shot models") average them: what was never seen stays found."""

_OWN = {"image_size", "fit", "tile", "bit_depth", "roi"}
TRAINED_ON = "trained_on"
"""Fact of a bundle: names of the images that it was trained on."""


class Seen(NamedTuple):
    """A good image: its name in the data, and the SHA-256 of its file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Ancestor:
    """A finished model to go on from.

    Images are known by their content, as names can be those of others, and by their names where a
    model of before says no more.

    Attributes:
        bundle: the model.
        calibrated: names and SHA-256 of the images that have ever set its threshold.
        trained_on: those of the images that it, or one that it went on from, was trained on;
            ``None`` where it does not say.
        known: its known defects; ``None`` without any.
    """

    bundle: Bundle
    calibrated: frozenset[str]
    trained_on: frozenset[str] | None
    known: KnownDefects | None

    @classmethod
    def open(cls, folder: Path) -> Ancestor:
        """Open a model's folder.

        Raises:
            BundleError: if it is none, or is damaged.
        """
        bundle = load_bundle(folder)
        keys: set[str] = set()
        for path in (folder / CALIBRATION, *folder.glob(KEPT)):
            try:
                content = json.loads(path.read_bytes())
                paths = content["paths"]
                hashes = content.get("image_sha256") or [""] * len(paths)
                keys.update(known or path for known, path in zip(hashes, paths, strict=True))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise BundleError(f"{path}: expected a calibration, got {error!r}.") from error
        said = bundle.training.get(TRAINED_ON)
        return cls(
            bundle,
            frozenset(keys),
            bundle.learned_sha256 or (None if said is None else frozenset(said)),
            load_known_defects(bundle),
        )

    @property
    def settings(self) -> Settings:
        """Those to go on with: its own, with fewer steps and a lower rate, not cross-fitted.

        Its threshold keeps what it has been asked for since, or the old model and the new one would
        be compared at other rates.
        """
        training = self.bundle.settings.training
        return self.bundle.settings_now.replace(
            segment_steps=min(STEPS, training.segment_steps),
            cross_fit=0,
            lr_head=_RATE * training.lr_head,
            lr_head_blocks=_RATE * training.lr_head_blocks,
        )

    def require_fits(self, settings: Settings) -> None:
        """Refuse settings of other networks, or of other images, than the model's.

        Raises:
            TrainingError: naming them.
        """
        own = _OWN | {item.name for group, item in settings_fields() if group == "model"}
        free = set(settings.flat()) - (own - {"teacher_weights"})
        if differing := changed_settings(self.bundle.settings, settings, free):
            raise TrainingError(
                "these settings cannot change when a model goes on from another:\n"
                + "\n".join(differing)
                + "\nLeave them out, or train anew without --from."
            )

    def facts(self) -> dict[str, Any]:
        """Return how a bundle names its ancestor."""
        return {
            "folder": self.bundle.folder.resolve().name,
            "weights_sha256": self.bundle.weights_sha256,
        }

    def learned(self) -> frozenset[str]:
        """Return the SHA-256 of the known defects that it learned from."""
        return self._known(learned=True)

    def ever_learned(self) -> frozenset[str]:
        """Return the same of it and of all that it goes back to."""
        return self.learned() | self.bundle.learned_sha256

    def measured(self) -> frozenset[str]:
        """Return the SHA-256 of the known defects that it did not learn from."""
        return self._known(learned=False)

    def _known(self, *, learned: bool) -> frozenset[str]:
        defects = () if self.known is None else self.known.defects
        return frozenset(each.sha256 for each in defects if each.learned == learned)


def split_like(images: Sequence[Seen], ancestor: Ancestor) -> tuple[list[str], list[str]]:
    """Return the names of (calibration images, new ones) of good images.

    What the ancestor was trained on is neither: it would set the threshold too low.
    """
    calibration: list[str] = []
    new: list[str] = []
    for image in images:
        known, calibrated = ancestor.trained_on, not ancestor.calibrated.isdisjoint(image)
        trained_on = known is not None and not known.isdisjoint(image)
        # Of a model that does not say what it was trained on, that is whatever did not calibrate.
        if calibrated and not trained_on:
            calibration.append(image.name)
        elif known is not None and not trained_on:
            new.append(image.name)
    return calibration, new


def by_groups(
    groups: Mapping[str, str],
    calibration: Sequence[str],
    new: Sequence[str],
    ancestor: Ancestor,
    group_by: str,
) -> tuple[list[str], list[str]]:
    """Return what ``split_like`` does where images have groups: a new one goes where its group is.

    A group that the ancestor was trained on is trained on again, one that calibrated calibrates,
    and only images of groups that it does not know are new.  A folder may be known by its last
    names, as seen from another place.

    Args:
        groups: that of each good image, by the image's name.
        calibration: as ``split_like`` gives them.
        new: the same.
        ancestor: the model that has seen the others.
        group_by: what groups are.

    Raises:
        TrainingError: if a group was trained on and calibrated with, as where groups were something
            else or nothing then: its calibration images would tell nothing of a new group.
    """
    known = {*calibration, *new}
    learned = {group for name, group in groups.items() if name not in known}
    learned |= ancestor.bundle.learned_groups(group_by)
    before, calibrated_then = ancestor.bundle.calibration, frozenset[str]()
    if before is not None and before.group_by == group_by != ALIKE:
        calibrated_then = frozenset(before.groups or ())
    calibrated = {groups[name] for name in calibration} | calibrated_then
    unknown = {*groups.values()} - learned - calibrated
    learned |= ancestor.bundle.learned_among(unknown, group_by)
    if group_by == BY_FOLDER:
        calibrated |= {
            group for group in unknown if any(may_be_one(group, each) for each in calibrated_then)
        }
    if both := sorted(learned & calibrated):
        raise TrainingError(
            f"--group-by {group_by}: expected groups of which {ancestor.bundle.folder} was either "
            f"trained on all images or on none, got {len(both)} of which it was trained on some "
            f"and calibrated with others: {some(both)}. Group as then, by "
            f"{ancestor.bundle.settings.data.group_by}, or by what tells them apart; or train anew "
            "without --from."
        )
    return (
        [name for name, group in groups.items() if group in calibrated],
        [name for name in new if groups[name] not in learned | calibrated],
    )
