"""Frozen, validated, documented settings; presets; YAML in and out.

One set of dataclasses gives the Python names, the flags of the command line, the keys of the
YAML file and the table in the docs.  Field names are unique over all groups, so that a flag needs
no group in front of it: ``synthesis.opacity`` in YAML is ``--opacity`` on the command line.

Defaults of the fields are the preset ``fast``; the preset ``paper`` is the published recipe
(Zhang et al., CVPR 2023, section 4.1) in every figure.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from destseg.errors import SettingsError
from destseg.fields import (
    SHARED,
    SIDE,
    UNCHANGED,
    DataSettings,
    DecisionSettings,
    ImageSize,
    ModelSettings,
    Room,
    SynthesisSettings,
    TrainingSettings,
    VariationSettings,
    setting,
)
from destseg.phases import PHASES
from destseg.validation import one_of, plain, problem

__all__ = [
    "GROUPS",
    "PRESETS",
    "SHARED",
    "UNCHANGED",
    "DataSettings",
    "DecisionSettings",
    "ImageSize",
    "ModelSettings",
    "PresetName",
    "Room",
    "Settings",
    "SynthesisSettings",
    "TrainingSettings",
    "VariationSettings",
    "changed_settings",
    "field_types",
    "flag",
    "gone_on_with",
    "read_yaml",
    "recorded",
    "recorded_yaml",
    "settings_fields",
]

PresetName = Literal["fast", "paper"]


@dataclass(frozen=True)
class Settings:
    """All settings of a training run; raises ``SettingsError`` naming every wrong one at once.

    Thread safety: nothing changes a value, so any number of threads may use one.
    """

    preset: PresetName = setting(
        "fast", "Where the defaults come from: fast (machines without a GPU) or paper."
    )
    data: DataSettings = DataSettings()
    variation: VariationSettings = VariationSettings()
    model: ModelSettings = ModelSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    training: TrainingSettings = TrainingSettings()
    decision: DecisionSettings = DecisionSettings()

    def __post_init__(self) -> None:
        for group in GROUPS:
            object.__setattr__(self, group, _plain(getattr(self, group)))
        problems = [
            f"{flag(item.name)}: {wrong}"
            for group, item in settings_fields()
            if (wrong := self._problem(group, item))
        ]
        if self.preset not in PRESETS:
            problems.append(f"--preset: expected {one_of(PRESETS)}, got {self.preset!r}")
        if not problems and self.data.tile and self.data.size[0] != self.data.size[1]:
            problems.append(
                "--image-size: expected one number with --tile (the side of a tile), got "
                f"{self.data.image_size!r}"
            )
        if problems:
            raise SettingsError("\n".join(problems))

    def _problem(self, group: str, item: dataclasses.Field[Any]) -> str | None:
        values = getattr(self, group)
        return problem(
            getattr(values, item.name), field_types(values)[item.name], item.metadata["rule"]
        )

    @classmethod
    def from_preset(cls, preset: str = "fast", **changes: Any) -> Settings:
        """Return a preset with some fields changed.

        Args:
            preset: ``fast`` or ``paper``.
            **changes: new values by field name, of any group: ``image_size=128``.

        Raises:
            SettingsError: for an unknown preset or name, or a value that does not fit.
        """
        if preset not in tuple(PRESETS):  # YAML may give what cannot be looked up
            raise SettingsError(f"--preset: expected {one_of(PRESETS)}, got {preset!r}")
        return cls(preset=typing.cast(PresetName, preset)).replace(**{**PRESETS[preset], **changes})

    def replace(self, **changes: Any) -> Settings:
        """Return settings with some fields changed, named without their group."""
        owners = {item.name: group for group, item in settings_fields()}
        unknown = [_unknown_key(name, owners) for name in changes if name not in owners]
        if unknown:
            raise SettingsError("\n".join(unknown))
        grouped: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            grouped.setdefault(owners[name], {})[name] = value
        return dataclasses.replace(
            self,
            **{
                group: dataclasses.replace(getattr(self, group), **values)
                for group, values in grouped.items()
            },
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Return settings from nested plain values, on top of the preset that they name.

        Settings that there were once (``RETIRED``) are passed over.

        Raises:
            SettingsError: for unknown keys and for values that do not fit.
        """
        flat: dict[str, Any] = {}
        problems: list[str] = []
        members = {group: field_types(getattr(cls, group)) for group in GROUPS}
        for key, value in values.items():
            if key == "preset":
                continue
            if key not in members:
                problems.append(_unknown_key(key, ["preset", *GROUPS]))
            elif not isinstance(value, Mapping):
                problems.append(f"{key}: expected a group of settings, got {value!r}")
            else:
                kept = {name: each for name, each in value.items() if name not in RETIRED}
                problems += [
                    _unknown_key(f"{key}.{name}", [f"{key}.{known}" for known in members[key]])
                    for name in kept
                    if name not in members[key]
                ]
                flat.update(kept)
        if problems:
            raise SettingsError("\n".join(problems))
        return cls.from_preset(values.get("preset", "fast"), **flat)

    def steps_of_phases(self) -> dict[str, int]:
        """Return the steps of each phase that training has, in order."""
        return {phase.name: phase.steps(self.training) for phase in PHASES.values()}

    def flat(self) -> dict[str, Any]:
        """Return the value of every field of every group by the field's name."""
        return {
            item.name: getattr(getattr(self, group), item.name) for group, item in settings_fields()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as nested plain values for JSON and YAML."""
        return typing.cast(dict[str, Any], _lists(dataclasses.asdict(self)))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Settings:
        """Read settings from a YAML file; unknown keys are refused."""
        values = read_yaml(path)
        try:
            return cls.from_dict(values)
        except SettingsError as error:
            raise SettingsError(f"{path}:\n{error}") from None

    def to_yaml(self) -> str:
        """Return the settings as YAML text that ``from_yaml`` reads back to equal settings."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def read_yaml(path: str | Path) -> Mapping[str, Any]:
    """Read a YAML file of settings, in whatever groups.

    Raises:
        SettingsError: if the file cannot be read, or is something else.
    """
    try:
        values = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise SettingsError(f"{path}: expected a YAML file with settings, got {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: expected YAML, got {error}") from None
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path}: expected groups of settings, got {values!r}")
    return values


def recorded(values: Mapping[str, Any]) -> Settings:
    """Return the settings that a run wrote down, in a bundle, a saved state or ``settings.yaml``.

    A setting that there was not yet is as things were then (``BEFORE``), not as the preset has it
    today; what a user writes has ``Settings.from_dict`` instead.

    Raises:
        SettingsError: as ``Settings.from_dict``.
    """
    whole = {**values}
    for group, earlier in BEFORE.items():
        if isinstance(given := whole.get(group, {}), Mapping):
            whole[group] = {**earlier, **given}
    return Settings.from_dict(whole)


def recorded_yaml(path: str | Path) -> Settings:
    """Read the ``settings.yaml`` that a run wrote down, as ``recorded`` reads its settings."""
    values = read_yaml(path)
    try:
        return recorded(values)
    except SettingsError as error:
        raise SettingsError(f"{path}:\n{error}") from None


def gone_on_with(settings: Settings, then: Mapping[str, Any]) -> Settings:
    """Return settings for going on with a run, by what it wrote down.

    A setting that there was not yet is as things were then, where what is asked for is no more than
    the preset of today: who asks for a preset, or for nothing, need not know of it.

    Args:
        settings: that are asked for.
        then: what the run wrote down, as ``recorded`` takes it.
    """
    asked, default = settings.flat(), Settings.from_preset(settings.preset).flat()
    then_so = {
        name: value
        for group, earlier in BEFORE.items()
        for name, value in earlier.items()
        if name not in then.get(group, {}) and asked[name] == default[name]
    }
    return settings.replace(**then_so)


def changed_settings(then: Settings, now: Settings, harmless: Collection[str] = ()) -> list[str]:
    """Return a line for each setting that differs, by its flag; without the harmless ones."""
    before, after = then.flat(), now.flat()
    return [
        f"  {flag(name)}: {before[name]!r} then, {after[name]!r} now"
        for name in before
        if name not in harmless and before[name] != after[name]
    ]


RETIRED = {"surface_steps": "both heads learn in --segment-steps"}
"""Settings that there were once, and what is so now: their flags are taken and do nothing."""

BEFORE: dict[str, dict[str, Any]] = {
    "data": {"filter_noise": False},
    "model": {"consensus": 0.0},
    "synthesis": {"line_probability": 0.0},
    "variation": dataclasses.asdict(UNCHANGED),
    "decision": {"room": 0.0},
}
"""Settings that there were not always, and what was so before, by group."""

GROUPS = ("data", "variation", "model", "synthesis", "training", "decision")

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "image_size": SIDE,
        "crop_size": 0,
        "filter_noise": False,
        **dataclasses.asdict(UNCHANGED),
        "teacher": "resnet18.tv_in1k",
        "student": "resnet18",
        "head": "aspp",
        "head_width": 256,
        "surface_width": 0,
        "line_probability": 0.0,
        "cutpaste_probability": 0.0,
        "batch_size": 32,
        "denoise_steps": 1000,
        "segment_steps": 4000,
        "optimizer": "sgd",
        "lr_student": 0.4,
        "lr_head_blocks": 0.1,
        "lr_head": 0.01,
        "schedule": "constant",
        "warmup_steps": 0,
        "denoise_loss_scale": 32.0,
        "room": 0.0,
    },
}


def settings_fields() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield (group, field) of every setting, in the order of the classes."""
    for group in GROUPS:
        for item in dataclasses.fields(getattr(Settings, group)):
            yield group, item


def flag(name: str) -> str:
    """Return the command line's flag of a field: ``image_size`` is ``--image-size``."""
    return "--" + name.replace("_", "-")


def field_types(group: object) -> dict[str, Any]:
    """Return the resolved type of every field of a settings class or instance."""
    return dict(_type_hints(group if isinstance(group, type) else type(group)))


_type_hints = functools.cache(typing.get_type_hints)  # resolving them takes milliseconds


class _Loader(yaml.SafeLoader):
    """YAML that also takes 1e-4 for a number, which YAML 1.1 wants as 1.0e-4.

    Keys are names: a category may be called 2024 or no, which are a number and false elsewhere.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)  # << is no name
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _unknown_key(key: str, known: Any) -> str:
    if key in RETIRED:
        return f"{key!r} is no setting any more: {RETIRED[key]}; leave it out"
    near = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown setting {key!r}{hint}"


def _plain(group: Any) -> Any:
    expected = field_types(group)
    values = {
        item.name: plain(getattr(group, item.name), expected[item.name], item.metadata["rule"])
        for item in dataclasses.fields(group)
    }
    return dataclasses.replace(group, **values)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
