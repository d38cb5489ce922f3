"""Settings as command-line flags: names, help and defaults come from the settings classes."""

from __future__ import annotations

import argparse
import functools
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from destseg.config import (
    GROUPS,
    PRESETS,
    RETIRED,
    ImageSize,
    Room,
    Settings,
    field_types,
    flag,
    recorded_yaml,
    settings_fields,
)

TITLES = {
    "data": "images",
    "variation": "changes that are no defect",
    "model": "networks",
    "synthesis": "synthetic anomalies",
    "training": "training",
    "decision": "score and threshold",
}


def command_parser(
    name: str, description: str, epilog: str = "", usage: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of ``destseg NAME``: its texts keep their lines, flags are whole words.

    Args:
        name: of the command.
        description: what stands above the flags.
        epilog: what stands below them.
        usage: the line that ``--help`` begins with; ``None`` lists every flag there.
    """
    return argparse.ArgumentParser(
        f"destseg {name}",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the commands that run a trained model: what runs it, and where."""
    section = parser.add_argument_group("runtime")
    section.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="torch, onnx, openvino, onnx-int8 or openvino-int8; auto takes OpenVINO or ONNX "
        "Runtime where the model was exported, else PyTorch (default: auto)",
    )
    section.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda or mps, or a device of OpenVINO's (default: auto)",
    )
    section.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: the runtime's own choice)"
    )
    section.add_argument(
        "--cache",
        metavar="DIR",
        help="folder for what OpenVINO compiles, for a quicker start (default: none is kept)",
    )


def runtime_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags of ``add_runtime_flags`` say, as keywords of ``load``."""
    return {name: getattr(parsed, name) for name in ("backend", "device", "threads", "cache")}


def base_settings(arguments: Sequence[str], fallback: Path | None = None) -> Settings:
    """Return the settings that the flags change: a YAML file's, a preset's or a fallback file's.

    Raises:
        SettingsError: if the file or the preset is not valid.
    """
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_sources(scout)
    found, _ = scout.parse_known_args(arguments)
    if found.settings:
        return Settings.from_yaml(found.settings)
    if found.preset:
        return Settings.from_preset(found.preset)
    return recorded_yaml(fallback) if fallback and fallback.is_file() else Settings()


def add_settings_flags(
    parser: argparse.ArgumentParser,
    base: Settings,
    groups: Collection[str] = GROUPS,
    sources: Any = None,
    first: Mapping[str, Any] | None = None,
) -> None:
    """Add ``--preset``, ``--settings`` and a flag for each field of some groups of settings.

    Args:
        parser: of the command.
        base: whose values are the defaults.
        groups: which groups of settings.
        sources: the section for ``--preset`` and ``--settings``; ``None`` is the parser's own.
        first: fields that go into a section of their own, each with that section.
    """
    _add_sources(parser if sources is None else sources)
    for group in groups:
        values = getattr(base, group)
        section = parser.add_argument_group(TITLES[group])
        for name, expected in field_types(values).items():
            _add_flag((first or {}).get(name, section), name, expected, values)
    for name in RETIRED:
        gone = functools.partial(_passed_over, name)
        parser.add_argument(flag(name), type=gone, help=argparse.SUPPRESS)


def settings_options(
    parsed: argparse.Namespace, groups: Collection[str] = GROUPS
) -> dict[str, Any]:
    """Return what the flags of some groups of settings say, as keywords of ``destseg.train``."""
    names = [item.name for group, item in settings_fields() if group in groups]
    return {name: getattr(parsed, name) for name in names}


def _add_sources(section: Any) -> None:
    source = section.add_mutually_exclusive_group()
    source.add_argument(
        "--preset", choices=list(PRESETS), help="settings to start from (default: fast)"
    )
    source.add_argument(
        "--settings", metavar="FILE", help="YAML file to start from, as training writes it"
    )


def _passed_over(name: str, _: str) -> None:
    """Tell that a flag of scripts from before does nothing."""
    print(f"destseg: note: {flag(name)} does nothing any more: {RETIRED[name]}", file=sys.stderr)


def _add_flag(section: Any, name: str, expected: Any, values: Any) -> None:
    default = getattr(values, name)
    text = values.__dataclass_fields__[name].metadata["help"].rstrip(".")
    between = "x" if expected == ImageSize else " "
    shown = between.join(f"{part:g}" for part in default) if isinstance(default, tuple) else default
    shown = f"{shown:.6g}" if isinstance(shown, float) else shown
    help_text = text if default is None else f"{text} (default: {shown})"
    help_text = help_text.replace("%", "%%")
    if expected is bool:
        section.add_argument(
            flag(name), action=argparse.BooleanOptionalAction, default=default, help=help_text
        )
        return
    options: dict[str, Any] = {"default": default, "help": help_text, "type": reader(expected)}
    if get_origin(expected) is Literal:
        options["metavar"] = "{" + ",".join(get_args(expected)) + "}"
    elif get_origin(expected) is tuple:
        several = get_args(expected)
        options |= {"nargs": "+" if several[-1] is Ellipsis else len(several)}
        options["type"] = reader(several[0])
        options["metavar"] = _METAVARS[several[0]]
    else:
        options["metavar"] = _METAVARS.get(expected, "FILE")
    section.add_argument(flag(name), **options)


_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", ImageSize: "SIZE", Room: "R"}


def reader(expected: Any) -> Any:
    """Return a function that reads a value, or leaves the text for the settings to refuse.

    The settings name every wrong flag at once; argparse would stop at the first.
    """
    if get_origin(expected) in (typing.Union, types.UnionType):
        expected = get_args(expected)[0]

    def read(text: str) -> Any:
        try:
            return expected(text) if expected in (int, float) else text
        except ValueError:
            return text

    return read
