"""Links between the pages, the README too, lead to files and headings that exist."""

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CHANGELOG.md")
]
PAGES += [ROOT / "benchmarks/NOTES.md", *sorted((ROOT / "docs").rglob("*.md"))]


def without_code(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)


def anchor(heading):
    """Return what the site's table of contents, and GitHub, make of a heading."""
    if given := re.search(r"\{#([\w-]+)\}$", heading):  # translations keep the English ones
        return given[1]
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    plain = unicodedata.normalize("NFC", plain).strip()
    return re.sub(r"[^\w\s-]", "", plain).lower().replace(" ", "-")


def anchors(page):
    text = without_code(page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_their_anchors_exist(page):
    text = without_code(page.read_text(encoding="utf-8"))
    wrong = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        name, _, wanted = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (wanted and wanted not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_a_wrong_anchor_is_one():
    assert "score" in anchors(ROOT / "docs" / "thresholds.md")
    assert "scoar" not in anchors(ROOT / "docs" / "thresholds.md")
    # As the site and a forge have it: punctuation goes, the space before it stays.
    assert anchor("Small ones: `so it becomes ...`") == "small-ones-so-it-becomes-"
