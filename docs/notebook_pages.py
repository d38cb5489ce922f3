"""Makes a page of each notebook, which it runs for that; ``site_hooks.py`` adds it to the site.

The notebooks are kept without outputs.  Each becomes a Markdown page of the same name, so that its
links are checked, its headings are found and its code looks as on every other page; the notebook
itself lies beside it.  ``DESTSEG_RUN_NOTEBOOKS=0`` leaves the outputs out, for a quick look.
"""

from __future__ import annotations

import functools
import os
import tempfile

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter


@functools.cache  # each language has the page, and its notebook is run once
def page(path: str, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its images by the names that the text has for them."""
    notebook = nbformat.read(path, as_version=4)
    if os.environ.get("DESTSEG_RUN_NOTEBOOKS") != "0":
        with tempfile.TemporaryDirectory() as here:
            where = {"metadata": {"path": here}}
            NotebookClient(
                notebook,
                timeout=1800,  # of a cell, on a busy machine
                kernel_name="python3",
                resources=where,
                coalesce_streams=True,  # printed tables stay whole
            ).execute()
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    title, _, rest = text.lstrip().partition("\n")
    text = f"{title}\n\n[This page as a notebook]({name}.ipynb)\n{rest}"
    # Of an image there may be several forms; the text has one.
    images = resources.get("outputs", {})
    return text, {name: content for name, content in images.items() if name in text}
