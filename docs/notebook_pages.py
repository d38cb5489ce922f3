"""A hook of MkDocs: makes a page of each notebook, which it runs for that.

The notebooks are kept without outputs.  Each becomes a Markdown page of the same name, so that its
links are checked, its headings are found and its code looks as on every other page; the notebook
itself lies beside it.  ``DESTSEG_RUN_NOTEBOOKS=0`` leaves the outputs out, for a quick look.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter


@event_priority(100)  # before plugins that sort pages by language
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, and the images on it, for each notebook among the files."""
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        assert file.abs_src_path is not None
        place = PurePosixPath(file.src_uri)
        text, images = page(file.abs_src_path, place.stem)
        uri = place.with_suffix(".md").as_posix()
        files.append(File.generated(config, uri, content=text))
        for name, content in images.items():
            uri = (place.parent / name).as_posix()
            files.append(File.generated(config, uri, content=content))
    return files


def page(path: str, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its images by the names that the text has for them."""
    notebook = nbformat.read(path, as_version=4)
    if os.environ.get("DESTSEG_RUN_NOTEBOOKS") != "0":
        with tempfile.TemporaryDirectory() as here:
            where = {"metadata": {"path": here}}
            NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    title, _, rest = text.lstrip().partition("\n")
    text = f"{title}\n\n[This page as a notebook]({name}.ipynb)\n{rest}"
    return text, resources.get("outputs", {})
