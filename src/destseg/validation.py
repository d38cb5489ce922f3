"""Whether values fit their types and ranges; each setting states its own range by a rule."""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rule:
    """A range of values of a setting.

    Attributes:
        holds: whether a value of the right type lies in it.
        expected: the range in words, for messages and docs.
        says_type: whether the words say what type is expected as well.
        schema: the same as keywords of JSON Schema, as far as it has any.
    """

    holds: Callable[[Any], bool]
    expected: str
    says_type: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


ANY = Rule(lambda _: True, "")
PATH = Rule(bool, "a path, not an empty text", schema={"minLength": 1})
POSITIVE = Rule(lambda value: value > 0, "a number above 0", schema={"exclusiveMinimum": 0})
FRACTION = Rule(
    lambda value: 0 <= value <= 1, "a number in [0, 1]", schema={"minimum": 0, "maximum": 1}
)
BELOW_1 = Rule(
    lambda value: 0 <= value < 1,
    "a number in [0, 1)",
    schema={"minimum": 0, "exclusiveMaximum": 1},
)
FRACTION_ABOVE_0 = Rule(
    lambda value: 0 < value <= 1,
    "a number in (0, 1]",
    schema={"exclusiveMinimum": 0, "maximum": 1},
)
OPACITY = Rule(
    lambda pair: 0 <= pair[0] <= pair[1] <= 1 and pair[1] > 0,
    "two numbers, 0 <= first <= second <= 1, second above 0, so that anomalies can be seen",
    schema={"items": {"minimum": 0, "maximum": 1}, "contains": {"exclusiveMinimum": 0}},
)
DILATIONS = Rule(
    lambda values: len(values) > 0 and all(value >= 1 for value in values),
    "one whole number or more, each at least 1",
    schema={"minItems": 1, "items": {"type": "integer", "minimum": 1}},
)


def _is_side(value: int) -> bool:
    return value >= 64 and value % 32 == 0


_SIDE = {"type": "integer", "minimum": 64, "multipleOf": 32}

CROSS_FIT = Rule(lambda value: value in (0, 2, 3), "0, 2 or 3", schema={"enum": [0, 2, 3]})

CROP_SIZE = Rule(
    lambda value: value == 0 or _is_side(value),
    "0, or a multiple of 32, at least 64",
    schema={"anyOf": [{"const": 0}, _SIDE]},
)


def at_least(low: float) -> Rule:
    """Return the rule that a number is not below ``low``."""
    return Rule(lambda value: value >= low, f"at least {low:g}", schema={"minimum": low})


def between(low: float, high: float) -> Rule:
    """Return the rule that a number is neither below ``low`` nor above ``high``."""
    return Rule(
        lambda value: low <= value <= high,
        f"a number in [{low:g}, {high:g}]",
        schema={"minimum": low, "maximum": high},
    )


def _is_image_size(value: Any) -> bool:
    sides = value if isinstance(value, tuple) else (value,)
    return value == "auto" or all(map(_is_side, sides))


IMAGE_SIZE = Rule(
    _is_image_size,
    "auto, a multiple of 32, at least 64, or two of these as HEIGHTxWIDTH",
    says_type=True,
    schema={
        "anyOf": [
            {"const": "auto"},
            _SIDE,
            {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2},
            {"type": "string", "pattern": r"^[0-9]+x[0-9]+$"},
        ]
    },
)


def _is_grouping(value: str) -> bool:
    how, colon, what = value.partition(":")
    if how == "name" and what:
        try:
            re.compile(what)
        except re.error:
            return False
        return True
    return (how == "column" and bool(what)) or (
        not colon and how in ("image", "folder", "day", "alike")
    )


GROUP_BY = Rule(
    _is_grouping,
    "image, folder, day, alike, name:REGEX (a regular expression), or column:NAME",
    says_type=True,
    schema={"pattern": "^(image|folder|day|alike|(name|column):.+)$"},
)


ROOM = Rule(
    lambda value: value == "auto" or 0 <= value <= 1,
    "auto, or a number in [0, 1]",
    says_type=True,
    schema={"anyOf": [{"const": "auto"}, {"type": "number", "minimum": 0, "maximum": 1}]},
)


def rising(low: float, high: float, *, above: bool = False) -> Rule:
    """Return the rule that of two numbers the first is not above the second, both in a range.

    Args:
        low: not below this, or with ``above`` greater than this.
        high: not above this.
        above: whether ``low`` itself is refused.
    """
    return Rule(
        lambda pair: (low < pair[0] if above else low <= pair[0]) and pair[0] <= pair[1] <= high,
        f"two numbers, {low:g} {'<' if above else '<='} first <= second <= {high:g}",
        schema={"items": {"exclusiveMinimum" if above else "minimum": low, "maximum": high}},
    )


def plain(value: Any, expected: Any, rule: Rule) -> Any:
    """Return a value as settings keep it, as far as it fits its type.

    NumPy's scalars become Python's, and lists tuples where a tuple is expected.  Where the rule is
    ``PATH``, paths become text, and ``~`` the home folder; where it is ``IMAGE_SIZE``, text such as
    160x416 becomes two numbers, and two equal numbers become one.
    """
    if rule is IMAGE_SIZE:
        return _image_size(value)
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        return tuple(plain(item, None, ANY) for item in value)
    if rule is PATH and isinstance(value, str | os.PathLike):
        return os.path.expanduser(value)  # noqa: PTH111 - Path's fails where there is none
    return scalar(value)


def _image_size(value: Any) -> Any:
    if isinstance(value, str) and (written := re.fullmatch(r"(\d+)x(\d+)", value)):
        value = tuple(map(int, written.groups()))
    if not isinstance(value, list | tuple):
        return scalar(value)
    sides = tuple(map(scalar, value))
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides


def scalar(value: Value) -> Value:
    """Return Python's value for one of NumPy's, and any other as it is."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return cast(Value, cast(Any, value).item())
    return value


def problem(value: Any, expected: Any, rule: Rule) -> str | None:
    """Return what is wrong with a value, "expected ..., got ...", or ``None`` if it fits.

    Args:
        value: the value.
        expected: its type as annotated: int, float, str, bool, Literal, a tuple or a union.
        rule: its range.
    """
    if not _fits(value, expected):
        wanted = rule.expected if rule.says_type else _describe(expected)
        return f"expected {wanted}, got {value!r}"
    if value is not None and not rule.holds(value):
        return f"expected {rule.expected}, got {value!r}"
    return None


def one_of(options: Iterable[object]) -> str:
    """Return "one of a, b, c"."""
    return "one of " + ", ".join(str(option) for option in options)


def _fits(value: Any, expected: Any) -> bool:
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(_fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(_fits, value, args))
    if expected in (int, float):
        kinds = int if expected is int else int | float
        # A bool is an int to Python, but never meant as a number here.
        return (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and -math.inf < value < math.inf
        )
    return isinstance(value, expected)


def _describe(expected: Any) -> str:
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        return one_of(args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list, each {_describe(args[0])}"
        return f"a list of {len(args)}, each {_describe(args[0])}"
    names = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
    return names.get(expected, "nothing")
