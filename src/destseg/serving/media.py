"""Media types of a request: what its body is, and what its caller would rather have (RFC 9110)."""

from __future__ import annotations

import re

_WEIGHT = re.compile(r"(0(\.[0-9]{0,3})?|1(\.0{0,3})?)")


def type_of(content_type: str) -> str:
    """Return the media type that a ``Content-Type`` names, in small letters, without parameters.

    >>> type_of("Multipart/Form-Data; boundary=x")
    'multipart/form-data'
    """
    return content_type.partition(";")[0].strip().lower()


def wants(accept: str, offered: str, usual: str) -> bool:
    """Whether a caller's ``Accept`` asks for what is offered instead of what is usual.

    That is so where it has the higher weight, or the same one and is named.

    >>> wants("IMAGE/PNG, application/json", "image/png", "application/json")
    True
    >>> wants("image/png;q=0, */*", "image/png", "application/json")
    False
    """
    weights = _weights(accept)
    this, other = _weight(weights, offered), _weight(weights, usual)
    return this > other or (0 < this == other and offered in weights)


def _weights(accept: str) -> dict[str, float]:
    weights = {}
    for part in filter(str.strip, accept.split(",")):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        given = [each[2:].strip() for each in parameters if each.startswith("q=")]
        # What is no weight is none: the type is named all the same.
        weights[kind] = float(given[0]) if given and _WEIGHT.fullmatch(given[0]) else 1.0
    return weights


def _weight(weights: dict[str, float], kind: str) -> float:
    """Return the weight of a media type by the range that names it most closely; else 0."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)
