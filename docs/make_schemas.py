"""Write docs/schemas/settings.json from the settings' definitions: python docs/make_schemas.py."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from destseg.config import GROUPS, PRESETS, RETIRED, Settings, field_types
from destseg.validation import IMAGE_SIZE, ROOM

TARGET = Path(__file__).parent / "schemas" / "settings.json"
_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_COMMENT = (
    "Written by docs/make_schemas.py from the settings' definitions. What JSON Schema cannot say: "
    "of two numbers the first is not above the second, name:REGEX is a regular expression, the "
    "sides in HEIGHTxWIDTH are multiples of 32, and image_size is one number with tile."
)


def schema() -> dict[str, Any]:
    """Return the schema of a file of settings."""
    groups = {group: _group(getattr(Settings, group)) for group in GROUPS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": _COMMENT,
        "title": "Settings of a training run: settings.yaml, and settings in manifest.json",
        "description": "What is left out is as in the preset.",
        "type": "object",
        "properties": {"preset": {"enum": list(PRESETS), "default": "fast"}, **groups},
        "additionalProperties": False,
    }


def render() -> str:
    """Return the file's text."""
    return json.dumps(schema(), indent=1) + "\n"


def _group(defaults: Any) -> dict[str, Any]:
    expected = field_types(defaults)
    properties = {
        item.name: _setting(item, expected[item.name]) for item in dataclasses.fields(defaults)
    }
    retired = {
        name: {"deprecated": True, "description": f"Passed over: {now}."}
        for name, now in RETIRED.items()
    }
    return {
        "type": "object",
        "properties": properties | retired,
        "additionalProperties": False,
    }


def _setting(item: dataclasses.Field[Any], expected: Any) -> dict[str, Any]:
    rule, default = item.metadata["rule"], item.default
    # Its words say what types there are; so do the keywords.
    fits = dict(rule.schema) if rule in (IMAGE_SIZE, ROOM) else _both(_type(expected), rule.schema)
    told = {"description": item.metadata["help"]}
    return {**fits, **told, "default": list(default) if isinstance(default, tuple) else default}


def _both(kind: dict[str, Any], rule: Any) -> dict[str, Any]:
    """Return a type's keywords and a range's; both may speak of the items."""
    items = {**kind.get("items", {}), **rule.get("items", {})}
    return {**kind, **rule, **({"items": items} if items else {})}


def _type(expected: Any) -> dict[str, Any]:
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        return {"type": [_NAMES[option] for option in args]}
    if origin is tuple:
        length = {} if args[-1] is Ellipsis else {"minItems": len(args), "maxItems": len(args)}
        return {"type": "array", "items": _type(args[0]), **length}
    return {"type": _NAMES[expected]}


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(render(), encoding="utf-8")
