"""The site is built without a warning, is read without a network, and has every public name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import destseg
import destseg.metrics

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a site as ``make docs`` builds it, but that no notebook is run."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "DESTSEG_RUN_NOTEBOOKS": "0", "NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class Loaded(HTMLParser):
    """Collects what a browser fetches by itself for a page, and the page's anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev", "alternate"):
            return
        for name in ("src", "srcset", "poster", "data", "href"):
            if name in values and (name != "href" or tag in ("link", "use", "image")):
                self.fetched.append(values[name] or "")


def test_no_page_or_style_asks_for_anything_of_others(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        fetched = Loaded(page.read_text(encoding="utf-8")).fetched
        assert fetched
        assert [each for each in fetched if re.match(r"(\w+:)?//", each)] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        asked = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", text)
        assert asked == [], style


def test_what_would_be_fetched_is_seen() -> None:
    page = '<link rel="stylesheet" href="https://a.b/c.css"><script src="//d.e/f.js"></script>'
    assert Loaded(page + '<a href="https://g.h">').fetched == ["https://a.b/c.css", "//d.e/f.js"]


def test_every_public_name_is_described(site: Path) -> None:
    pages = (site / "reference").glob("*.html")
    ids = set().union(*(Loaded(page.read_text(encoding="utf-8")).ids for page in pages))
    values = {"Curve", "ImageMetrics", "PixelMetrics"}  # described once, where evaluation is
    metrics = {name for name in vars(destseg.metrics) if not name.startswith("_")} - values
    wanted = {f"destseg.{name}" for name in destseg.__all__ if name != "__version__"}
    wanted |= {f"destseg.metrics.{name}" for name in metrics}
    assert wanted - ids == set()
    # Their members too, and none of them without the text of its docstring.
    assert {"destseg.Predictor.predict", "destseg.Calibration.guarantee"} <= ids
    text = (site / "reference" / "functions.html").read_text(encoding="utf-8")
    assert "Learn from good images and return the predictor" in text


def test_a_page_without_a_translation_is_there_in_english(site: Path) -> None:
    english = {page.relative_to(site) for page in site.rglob("*.html")} - {Path("404.html")}
    chinese = {page for page in english if page.parts[0] == "zh"}
    assert {page.relative_to("zh") for page in chinese} == english - chinese
    text = (site / "zh" / "settings.html").read_text(encoding="utf-8")
    assert '<html lang="zh"' in text
    assert "--max-false-alarm-rate" in text


def test_a_translation_is_there_under_its_language_alone(site: Path) -> None:
    for page in ROOT.joinpath("docs").rglob("*.zh.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").with_suffix(".html")
        chinese, english = (
            (site / folder / name).read_text(encoding="utf-8") for folder in ("zh", "")
        )
        title = re.findall("^# (.+)$", page.read_text(encoding="utf-8"), re.M)[0]
        assert f">{title}<a" in chinese
        assert (f">{title}<a" in english) == title.isascii()
        assert "original:" not in chinese  # the mark


def test_files_of_the_repository_that_pages_name_are_in_the_site(site: Path) -> None:
    unit = site / "files" / "deploy" / "destseg.service"
    assert unit.read_bytes() == (ROOT / "deploy" / "destseg.service").read_bytes()
    page = (site / "deployment.html").read_text(encoding="utf-8")
    assert 'href="files/deploy/destseg.service"' in page
    assert 'href="project/measurements.html' in (site / "results.html").read_text(encoding="utf-8")


@pytest.mark.browser
def test_it_is_read_and_searched_from_a_folder(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.get_by_role("link", name="First day").first.click()
        page.wait_for_url("**/first-day.html")
        page.click(".md-search__input")
        page.keyboard.type("martingale")
        found = ".md-search-result__item a"
        page.locator(f"{found}[href*='/thresholds.html']").first.wait_for(timeout=30_000)
        # A page without a translation is not found twice.
        links = page.locator(f"{found}[href*='/zh/']").evaluate_all("all => all.map(a => a.href)")
        names = {re.sub(r".*/zh/|\.html.*", "", link) for link in links}
        assert [each for each in names if not (ROOT / f"docs/{each}.zh.md").is_file()] == []
        # A Chinese word within a sentence.
        page.goto((site / "zh" / "index.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("叠加图")
        page.keyboard.press("End")  # the search listens to keys, and this text needed none
        page.locator(f"{found}[href*='/zh/first-day.html']").first.wait_for(timeout=30_000)
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []
    assert errors == []
