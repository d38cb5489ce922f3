"""The report: its numbers are those of the JSON, it is one file, and a browser shows it whole."""

import json
import re
import shutil

import pytest

import destseg
from destseg.qualification.page import render
from destseg.qualification.words import summary

ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def report(model, good, tmp_path):
    path = tmp_path / "report.html"
    destseg.qualify(
        model, good, path, mm_per_pixel=0.5, sizes=[4, 8, 16], contrasts=[10, 60], trials=4
    )
    return path


def rows(page, name):
    """The texts of the tables' rows in a section."""
    return [
        row.locator("th, td").all_text_contents() for row in page.locator(f"#{name} tbody tr").all()
    ]


@pytest.mark.browser
def test_the_numbers_on_the_page_are_those_of_the_json(report):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    values = json.loads(report.with_suffix(".json").read_bytes())
    said = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda asked: said.append(asked.url) if "data:" not in asked.url[:5]
                and asked.url != report.as_uri() else None)  # fmt: skip
        page.goto(report.as_uri())
        counted = [cells for row in rows(page, "tables") for cells in row[1:]]
        expected = [
            f"{hits}/{trials}"
            for each in values["detection"]
            for hits, trials in zip(each["hits"], each["trials"], strict=True)
        ]
        assert counted == expected
        assert page.locator("#summary li").all_text_contents() == summary(values)
        tried = [row[2:4] for row in rows(page, "tolerance") if "/" in row[-2]]
        assert tried == [
            [f"{each['false_alarms']}/{each['images']}", f"{each['found']}/{each['images']}"]
            for each in [
                values["unchanged"],
                *(t for v in values["tolerances"] for t in v["tried"]),
            ]
        ]
        fields = page.locator("#blind .count").all_text_contents()
        spots = values["blind_spots"]
        assert fields == [
            f"{hits}/{trials}"
            for line in zip(spots["hits"], spots["trials"], strict=True)
            for hits, trials in zip(*line, strict=True)
        ]
        # All images are shown, and nothing is wider than the window.
        loaded = "images => images.every(each => each.naturalWidth > 0)"
        assert page.locator("img").evaluate_all(loaded)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.pdf(format="A4").startswith(b"%PDF")
        browser.close()
    assert said == []


def test_a_hostile_name_is_text_and_nothing_is_fetched(model, good):
    found = destseg.qualify(model, good, sizes=[8, 16], contrasts=[60], trials=1)
    values = found.to_json()
    name = "</title><script>alert(1)</script>{{policy}}"
    page = render(values | {"model": values["model"] | {"name": name}}, found.typical)
    assert "<script" not in page
    assert "{{policy}}" in page
    assert not re.search(r"(?:src|href)=(?![\"']?data:)", page)
