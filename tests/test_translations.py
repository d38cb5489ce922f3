"""A translation says what its English page says now: it is marked, and has the same bones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import load_script
from test_page_anchors import anchor, without_code

ROOT = Path(__file__).resolve().parents[1]


marks = load_script(ROOT / "docs" / "mark_translations.py")
TRANSLATIONS = marks.translations()
each_translation = pytest.mark.parametrize(
    "page", TRANSLATIONS, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def behind(pages: list[Path]) -> list[str]:
    """Return the names of those that were made from another text of their English page."""
    return [
        page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
        for page in pages
        if marks.mark(page) != marks.version(marks.original(page))
    ]


def code_blocks(text: str) -> list[str]:
    """Return the blocks of code, without the comments in them, which are translated."""
    blocks = re.findall(r"^ *```.*?^ *```", text, re.M | re.S)
    return [re.sub(r"(^|[ ]+)(#|--) .*", "", block, flags=re.M) for block in blocks]


def inline_code(text: str) -> set[str]:
    found = re.findall(r"`([^`]+)`", without_code(text))
    # A line may end within it.
    return {" ".join(code.split()) for code in found}


def headings(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", without_code(text), re.M)


def links(text: str) -> list[str]:
    """Return where the links and images lead, whichever language the page there has."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(text))
    return sorted(re.sub(r"\.zh(-CN)?\.md", ".md", link) for link in found)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def texts(page: Path) -> tuple[str, str]:
    """Return the English page and its translation, without what only one of them has."""
    english = marks.original(page).read_text(encoding="utf-8")
    chinese = page.read_text(encoding="utf-8")
    return english, chinese


def test_no_translation_is_behind() -> None:
    assert len(TRANSLATIONS) > 1
    late = behind(TRANSLATIONS)
    assert late == [], (
        f"the English page has changed: {', '.join(late)}. Translate what changed "
        f"(git log -p shows it), then: python docs/mark_translations.py {' '.join(late)}"
    )


@each_translation
def test_its_code_is_that_of_the_original(page: Path) -> None:
    english, chinese = texts(page)
    assert code_blocks(chinese) == code_blocks(english)
    assert inline_code(chinese) == inline_code(english)


@each_translation
def test_its_headings_and_links_are_those_of_the_original(page: Path) -> None:
    english, chinese = texts(page)
    assert [level for level, _ in headings(chinese)] == [level for level, _ in headings(english)]
    if page.parent != ROOT:  # a forge, which shows the README, knows no ids
        wanted = [anchor(title) for level, title in headings(english) if level != "#"]
        ids = [re.search(r"\{#([\w-]+)\}$", title) for level, title in headings(chinese)][1:]
        assert [found and found[1] for found in ids] == wanted
    ours = {page.name, marks.original(page).name}  # the README links to its translation
    assert [each for each in links(chinese) if each not in ours] == [
        each for each in links(english) if each not in ours
    ]


@each_translation
def test_no_number_or_row_is_missing(page: Path) -> None:
    english, chinese = texts(page)
    assert numbers(english) - numbers(chinese) == set()
    rows = [len(re.findall(r"^ *\|", text, re.M)) for text in (english, chinese)]
    assert rows[0] == rows[1]


def test_the_readme_leads_to_translations_where_there_are() -> None:
    """On a forge nothing else does; on the site it happens by itself."""
    text = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    names = {page.relative_to(ROOT).as_posix() for page in TRANSLATIONS}
    linked = re.findall(r"\]\((docs/[^)\s#]+\.md)", text)
    assert [link for link in linked if link.replace(".md", ".zh.md") in names] == []


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("page.zh.md", "# 页\n"),
        ("page.zh.md", "---\nhide: [toc]\n---\n\n# 页\n"),
        ("README.zh-CN.md", "# 页\n"),
    ],
)
def test_a_change_of_the_original_is_seen_until_it_is_marked(
    tmp_path: Path, name: str, before: str
) -> None:
    page = tmp_path / name
    page.write_text(before, encoding="utf-8")
    english = marks.original(page)
    for text in ("# Page\n", "# Another page\n"):
        english.write_text(text, encoding="utf-8")
        assert behind([page]) == [name]
        marks.write_mark(page)
        assert behind([page]) == []
    text = page.read_text(encoding="utf-8")
    now = marks.version(english)
    assert text.startswith((f"<!-- original: {now} -->\n", f'---\noriginal: "{now}"\n'))
    assert text.count("original: ") == 1
    assert text.endswith("# 页\n")
    assert ("hide: [toc]\n---\n" in text) == ("hide" in before)


def test_what_differs_is_seen() -> None:
    block = "```sh\ndestseg doctor  # {}\n```"
    assert code_blocks(block.format("what is there")) == code_blocks(block.format("有什么"))
    assert code_blocks(block.format("a")) != code_blocks(block.format("a").replace("doctor", "do"))
    columns = "```sql\nscore REAL,  -- {}\n```"
    assert code_blocks(columns.format("of an image")) == code_blocks(columns.format("图像的"))
    assert code_blocks(columns.format("a")) != code_blocks(columns.format("a").replace("L,", "L"))
    assert inline_code("take `--roi` or `--tile`") != inline_code("用 `--roi`")
    assert links("[a](b.md#c)") != links("[a](b.md#d)")
    assert numbers("5.5 of 1,000") - numbers("1,000") == {"5.5"}
