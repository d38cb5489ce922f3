"""Hooks of MkDocs: files of the repository that pages link to become a part of the site.

On a forge a page links to ``../deploy/destseg.service`` or ``../benchmarks/NOTES.md``.  The site
has the same files, so that it is whole without the repository: the Markdown ones as pages, the
others as they are in ``files/``.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import notebook_pages

ROOT = Path(__file__).resolve().parents[1]
# Pages of the site that are files of the repository.
PAGES = {
    "project/architecture.md": "ARCHITECTURE.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/measurements.md": "benchmarks/NOTES.md",
    "project/third-party.md": "THIRD_PARTY.md",
}
# The README is what a forge shows first; the site has a page for that.
PLACES = {source: uri for uri, source in PAGES.items()} | {"README.md": "index.md"}
# Chinese has no spaces: between two of its characters goes an invisible one, at which the search
# (its separator in mkdocs.yml) parts them.
CHINESE = re.compile("(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])")
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


@event_priority(-200)  # after i18n, which knows files of its own alone
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files of the repository that the site needs."""
    for uri, source in PAGES.items():
        add_page(files, config, uri, (ROOT / source).read_text(encoding="utf-8"))
    for notebook in [each for each in files if each.src_uri.endswith(".ipynb")]:
        assert notebook.abs_src_path is not None
        place = PurePosixPath(notebook.src_uri)
        text, images = notebook_pages.page(notebook.abs_src_path, place.stem)
        add_page(files, config, place.with_suffix(".md").as_posix(), text)
        for name, image in images.items():
            files.append(File.generated(config, str(place.parent / name), content=image))
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(_source(file.src_uri)), target))
        for file in files.documentation_pages()
        for _, target in LINK.findall(file.content_string)
    }
    for source in sorted(linked):
        if _is_outside(source) and (ROOT / source).is_file():
            content = (ROOT / source).read_bytes()
            files.append(File.generated(config, f"files/{source}", content=content))
    return files


def add_page(files: Files, config: MkDocsConfig, uri: str, text: str) -> None:
    """Add a page that has no file of its own to the language that is being built."""
    i18n: Any = config.plugins["i18n"]
    alternates = {}
    for language in i18n.build_languages:
        file: Any = File.generated(config, uri, content=text)
        if language != i18n.default_language:
            file.dest_uri = f"{language}/{file.dest_uri}"
            file.url = file._get_url(config.use_directory_urls)
        file.locale, file.locale_alternate_of = i18n.default_language, language
        file.alternates = alternates
        alternates[language] = file
    files.append(alternates[i18n.current_language])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files of the repository lead to where the site has them."""
    here = page.file.src_uri
    source = _source(here)

    def place(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            target = PLACES.get(target, f"files/{target}")
        return match[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    return LINK.sub(place, markdown)


@event_priority(-200)
def on_post_build(config: MkDocsConfig) -> None:
    """Let a search find Chinese words, and from a folder what it finds from a server.

    ``offline`` copies the index for it before ``i18n`` has put that of all languages together.
    """
    folder = Path(config.site_dir) / "search"
    index = json.loads((folder / "search_index.json").read_bytes())
    # Written as characters, not as their numbers, which the pattern would not know.
    index = CHINESE.sub("\u200b", json.dumps(index, ensure_ascii=False))
    (folder / "search_index.json").write_text(index, encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def _source(uri: str) -> str:
    """Return the file of the repository that a page of the site is made from."""
    return PAGES.get(uri, f"docs/{uri}")


def _is_outside(source: str) -> bool:
    return not source.startswith("docs/") and source not in PLACES
