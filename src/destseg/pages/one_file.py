"""A page that is one file: style, script and data are in it, and nothing is from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources

from destseg.data.paths import shown


def one_file(template: str, *, style: str, script: str = "", **places: str) -> str:
    """Return a page as HTML that refers to nothing outside of itself.

    Args:
        template: HTML with ``{{policy}}``, ``{{style}}``, ``{{script}}`` and a ``{{name}}`` for
            each of the places.
        style: CSS.
        script: JavaScript, a module; only this one runs, whatever a name in the data may try.
        places: HTML by name.
    """
    runs = f"script-src '{_digest(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; {runs}img-src data:; style-src '{_digest(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = {**places, "policy": policy, "style": style, "script": script}
    # One pass, so that what is put in is not searched for places again.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def part(room: str, name: str) -> str:
    """Return the text of a file that pages are made of.

    Args:
        room: where it lies, as in ``destseg.pages``.
        name: its name there.
    """
    return resources.files(room).joinpath(name).read_text(encoding="utf-8")


def escaped(text: str) -> str:
    """Return a text as HTML in ASCII: nothing in it is markup, and any encoding can write it."""
    return shown(html.escape(text)).encode("ascii", "xmlcharrefreplace").decode()


def image_uri(kind: str, content: bytes) -> str:
    """Return an image as the address of an image element, which has it in itself.

    Args:
        kind: jpeg or png.
        content: of its file.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    """Return what a content security policy knows a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
