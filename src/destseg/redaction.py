"""What is told of URLs: without the passwords, keys and tokens that they carry."""

from __future__ import annotations

import re
from urllib.parse import unquote

_LOGIN = re.compile(
    # Azure's CONTAINER@ACCOUNT is a place.
    r"(?<!abfs)(?<!abfss)(?<!wasb)(?<!wasbs)://(?:[^/?#\s'\"]*"
    # A password that was not encoded may have a slash or an @; what has no login may have a port.
    r"|[^/?#\s'\":\[]*:(?!:|\d+[/?])[^?#\s'\"]*)@"
)
_OPTIONS = re.compile(r"(?<=://)([^?#\s'\"]*)([?#][^\s'\"]*=[^\s'\"]*(?<![:,.;)]))")
_SHORTEST = 4  # of a value that is looked for in other texts


def without_secrets(text: str) -> str:
    """Return a text with its URLs without logins (``KEY:SECRET@``) and options (``?sig=...``).

    >>> without_secrets("s3://KEY:SECRET@bucket/parts?region=eu: no such bucket")
    's3://bucket/parts: no such bucket'
    """
    if "://" not in text:
        return text
    return _OPTIONS.sub(r"\1", _LOGIN.sub("://", text))


def hide(text: str, place: str) -> str:
    """Return what others said about a place, without anything that its URL must not tell.

    Args:
        text: an error of a library's, say.
        place: a path or URL; its login and the values of its options are looked for everywhere in
            the text, encoded or not.
    """
    for value in _secrets(place):
        text = text.replace(value, "***")
    return without_secrets(text)


def _secrets(place: str) -> list[str]:
    """Return what a URL must not tell, longest first."""
    found: set[str] = set()
    for login in _LOGIN.findall(place):
        login = login.removeprefix("://").removesuffix("@")
        found.update((login, *login.split(":", 1)))
    for _, options in _OPTIONS.findall(place):
        found.update(pair.partition("=")[2] for pair in re.split("[?&#;]", options))
    found |= {unquote(value) for value in found}
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
