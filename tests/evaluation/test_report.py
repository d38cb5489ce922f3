import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings
from destseg.data import paths
from destseg.data.drawing import colour_map
from destseg.data.samples import Sample
from destseg.errors import DataError
from destseg.evaluation.metrics import Curve, image_curves
from destseg.evaluation.page import render, write_report
from destseg.evaluation.report import Entry, Report, make_entry, training_curves
from destseg.inference.result import Region, Result
from destseg.rate import Rate

HOSTILE = "</script><script>alert(1)</script> \"'><img src=x onerror=alert(2)> & {{data}} 划痕 <!--"
CHROMIUM_ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
CHROMIUM_ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
OUTCOMES = {
    "Wrong": {"missed", "false alarm"},
    "Missed": {"missed"},
    "False alarms": {"false alarm"},
    "Right": {"found", "passed"},
}


def jpeg(side=8, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG", quality=82)
    return content.getvalue()


def entry(name="good/1.png", kind="good", score=0.2, **changes):
    region = Region(x=10, y=20, width=30, height=5, area=99, peak=0.9, peak_x=12, peak_y=21)
    values = {
        "name": name,
        "defect_type": kind,
        "is_defective": kind != "good",
        "score": score,
        "p_value": 0.25,
        "regions": () if kind == "good" else (region,),
        "height": 60,
        "width": 120,
        "image": jpeg(),
        "heatmap": jpeg(seed=1),
        "mask": None,
    }
    return Entry(**(values | changes))


def curve(x, y):
    return Curve(np.array(x), np.array(y), np.zeros(len(x)))


def curves_of(entries):
    curves = image_curves([each.is_defective for each in entries], [each.score for each in entries])
    return {f"image {name.upper()}": points for name, points in curves.items()}


def report_of(entries, **changes):
    values = {
        "title": "bottle",
        "facts": {"model": "bottle1"},
        "metrics": {"image AUROC": 0.991, "pixel AP": None},
        "reasons": {"pixel AP": "there are no masks"},
        "defect_types": [
            {"defect type": "good", "images": 3, "flagged": 1, "image AP": None, "pixel AP": 0.5}
        ],
        "curves": {"pixel ROC": curve([0.0, 0.1, 1.0], [0.0, 0.9, 1.0]), **curves_of(entries)},
        "threshold": 0.5123456789,
        "guaranteed_false_alarm_rate": 0.25,
        "calibration_scores": [0.5123456789, 0.1, 0.3],
        "training": {"phase 1": [(10, 2.0), (20, 1.0)]},
        "settings": Settings.from_preset("fast").to_dict(),
        "entries": entries,
    }
    return Report(**(values | changes))


def mixed_entries():
    rng = np.random.default_rng(7)
    entries = []
    for kind, count, centre in [("good", 12, 0.35), ("crack", 9, 0.7), ("hole & dirt", 7, 0.6)]:
        scores = np.clip(rng.normal(centre, 0.2, count), 0, 1)
        entries += [
            entry(f"{kind}/{number:03}.png", kind, float(score))
            for number, score in enumerate(scores)
        ]
    return entries


def outcome(each, threshold):
    if each.is_defective:
        return "found" if each.score > threshold else "missed"
    return "false alarm" if each.score > threshold else "passed"


def data_of(page):
    block = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)
    return json.loads(block[1])


# What goes in


def test_an_entry_has_small_images_of_the_images_proportions():
    rng = np.random.default_rng(0)
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[:, 32:] = 1
    result = Result("x", 0.5, 0.1, True, 0.4, 0.4, anomaly_map, 300, 600, ())
    image = rng.integers(0, 256, (300, 600, 3), np.uint8)
    made = make_entry(Sample(Path("a/test/crack/7.png"), "crack"), result, image, anomaly_map > 0.5)
    assert (made.name, made.defect_type, made.is_defective) == ("crack/7.png", "crack", True)
    assert (made.score, made.p_value, made.height, made.width) == (0.5, 0.1, 300, 600)
    opened = [Image.open(io.BytesIO(part)) for part in (made.image, made.heatmap, made.mask)]
    assert [(part.format, part.size) for part in opened] == [
        ("JPEG", (192, 96)),
        ("JPEG", (192, 96)),
        ("PNG", (192, 96)),
    ]
    low, high = colour_map(np.array([[0, 1]], np.float32))[0].astype(int)
    coloured = np.asarray(opened[1]).astype(int)
    assert abs(coloured[:, :80] - low).max() < 12  # JPEG
    assert abs(coloured[:, 112:] - high).max() < 12
    mask = np.asarray(opened[2])
    assert (mask[:, :94] == 0).all()
    assert (mask[:, 98:] == 255).all()


def test_small_images_are_not_enlarged_and_good_ones_have_no_mask():
    result = Result("x", 0.5, 0.1, True, 0.4, 0.4, np.zeros((64, 64), np.float32), 20, 1, ())
    made = make_entry(
        Sample(Path("good/1.png"), "good"), result, np.zeros((20, 1, 3), np.uint8), None
    )
    assert Image.open(io.BytesIO(made.image)).size == (1, 20)
    assert made.mask is None
    assert not made.is_defective


def test_an_image_of_the_current_folder_has_its_folders_name_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = Result("x", 0.5, 0.1, True, 0.4, 0.4, np.zeros((8, 8), np.float32), 8, 8, ())
    made = make_entry(Sample(Path("1.png"), "good"), result, np.zeros((8, 8, 3), np.uint8), None)
    assert made.name == f"{tmp_path.name}/1.png"


def test_an_image_of_unknown_kind_is_refused():
    result = Result("x", 0.5, 0.1, True, 0.4, 0.4, np.zeros((8, 8), np.float32), 8, 8, ())
    with pytest.raises(DataError, match="good or defective"):
        make_entry(Sample(Path("a.png"), None), result, np.zeros((8, 8, 3), np.uint8), None)


# The page as text


def test_hostile_text_is_data_and_never_markup():
    hostile = entry(HOSTILE, HOSTILE)
    page = render(report_of([hostile], title=HOSTILE, facts={HOSTILE: HOSTILE}))
    data = data_of(page)
    assert (
        data["title"] == data["entries"][0]["name"] == data["entries"][0]["defectType"] == HOSTILE
    )
    assert data["facts"] == [[HOSTILE, HOSTILE]]
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "<!--" not in page


def test_names_that_are_no_unicode_can_be_written(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_report(tmp_path / "report.html", report_of([entry(name)], title=name))
    assert data_of((tmp_path / "report.html").read_text("utf-8"))["title"] == paths.shown(name)


def test_the_page_refers_to_nothing_outside_and_forbids_it():
    page = render(report_of([entry()]))
    assert "default-src 'none'" in page
    markup = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|url\((?!#)|@import|<link (?!rel=\"icon\")", markup)


def test_numbers_stay_exact_and_undefined_ones_have_no_number():
    report = report_of(
        [entry(score=0.1 + 0.2)], metrics={"a": float("nan"), "b": None}, reasons={"b": "why"}
    )
    data = data_of(render(report))
    assert data["threshold"] == 0.5123456789
    assert data["entries"][0]["score"] == 0.1 + 0.2
    assert data["metrics"] == [["a", None, ""], ["b", None, "why"]]
    assert data["defectTypes"]["rows"] == [["good", "3", "1", "–", "50.0"]]
    assert ["training", "batch_size", "8"] in data["settings"]


def test_each_count_that_a_threshold_can_give_has_its_interval():
    entries = mixed_entries()
    intervals = data_of(render(report_of(entries)))["intervals"]
    for name, total in (("good", 12), ("defective", 16)):
        expected = [Rate(count, total).interval for count in range(total + 1)]
        assert np.allclose(intervals[name], expected, atol=1e-5)
    assert data_of(render(report_of(entries[:12])))["intervals"]["defective"] == []


def test_a_long_training_is_few_points_from_its_first_to_its_last():
    steps = [(step, 1 / step) for step in range(1, 100_001)]
    points = data_of(render(report_of([entry()], training={"phase 1": steps})))["training"]
    x = [step for step, _ in points["phase 1"]]
    assert len(x) <= 401
    assert (x[0], x[-1]) == (1, 100_000)
    assert max(np.diff(x)) <= 251


def test_two_hundred_noisy_images_stay_below_20_mb():
    rng = np.random.default_rng(0)
    anomaly_map = rng.random((192, 192), np.float32)
    result = Result("x", 0.5, 0.1, True, 0.4, 0.4, anomaly_map, 192, 192, ())
    image = rng.integers(0, 256, (192, 192, 3), np.uint8)
    mask = np.hypot(*(np.mgrid[:192, :192] - 96)) < 60
    worst = make_entry(Sample(Path("c/1.png"), "c"), result, image, mask)
    assert min(len(worst.image), len(worst.heatmap)) > 20_000
    assert 8e6 < len(render(report_of([worst] * 200)).encode()) < 20e6


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    write_report(path, report_of([entry()]))
    before = path.read_text("utf-8")
    assert before.startswith("<!doctype html>")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(DataError, match=r"report\.html: .*disk full"):
        write_report(path, report_of([entry()], title="other"))
    assert path.read_text("utf-8") == before
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_training_curves_are_those_of_the_log(tmp_path):
    assert training_curves(tmp_path) == {}

    def line(phase, step, loss):
        return json.dumps({"event": "step", "phase": phase, "step": step, "loss": loss})

    lines = [
        json.dumps({"event": "note", "text": "hello"}),
        line("denoise", 10, 2.0),
        line("denoise", 20, 1.5),
        line("denoise", 30, 9.0),
        '{"event": "step", "phase": "deno',
        "[1]",
        '"step"',
        line("denoise", 20, 1.4),  # resumed
        line("denoise", 30, 1.3),
        line("segment", 10, float("nan")),
        line("segment", 20, 0.5),
        line("segment", None, 0.5),
    ]
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"event": "st\xc3')
    assert training_curves(tmp_path) == {
        "phase 1": [(10, 2.0), (20, 1.4), (30, 1.3)],
        "phase 2": [(20, 0.5)],
    }


# The page in a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield opened
        opened.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a report; afterwards nothing may be on the console and nothing may have been asked."""
    said, asked, pages = [], [], []

    def open_report(report, **options):
        path = tmp_path / f"{len(pages)}.html"
        write_report(path, report)
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

        def route(route):
            if route.request.url != path.as_uri():
                asked.append(route.request.url)
                route.abort()
            else:
                route.continue_()

        page.route(lambda url: not url.startswith("data:"), route)
        page.goto(path.as_uri())
        return page

    yield open_report
    for page in pages:
        page.close()
    assert said == []
    assert asked == []


def shown(page):
    return page.locator("#gallery > li:not([hidden]) .name").all_text_contents()


def told(page):
    """The four counts."""
    texts = page.locator("#counts b").all_text_contents()
    return [int(text.split()[0]) for text in texts]


def counts(entries, threshold):
    outcomes = [outcome(each, threshold) for each in entries]
    return [outcomes.count(name) for name in ("found", "missed", "passed", "false alarm")]


def move(page, value):
    page.locator("#slider").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }",
        value,
    )


@pytest.mark.browser
def test_the_slider_moves_counts_and_verdicts(show):
    entries = [*mixed_entries(), entry("good/at.png", score=0.5123456789)]
    page = show(report_of(entries))
    assert told(page) == counts(entries, 0.5123456789)  # at the threshold is passed, not flagged
    assert page.locator("#verdict").text_content().startswith("At the calibrated threshold")
    assert page.locator("#reset").is_disabled()
    seen = set()
    for threshold in (0, 0.25, 0.6, 1):
        move(page, threshold)
        seen.add(tuple(told(page)))
        assert told(page) == counts(entries, threshold)
        items = page.locator("#gallery > li").all_inner_texts()
        assert len(items) == len(entries)
        wrong = set(page.locator("#gallery > li.wrong .name").all_text_contents())
        assert wrong == {x.name for x in entries if outcome(x, threshold) in OUTCOMES["Wrong"]}
    assert len(seen) == 4
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#number").input_value() == "0.0010"
    page.locator("#number").fill("0.45")
    assert told(page) == counts(entries, 0.45)
    assert page.locator("#slider").input_value() == "0.45"
    page.locator("#higher").click()
    above = min(each.score for each in entries if each.score > 0.45)
    assert told(page) == counts(entries, above)
    page.locator("#lower").click()
    assert told(page) == counts(entries, max(x.score for x in entries if x.score < above))
    page.locator("#reset").click()
    assert told(page) == counts(entries, 0.5123456789)
    total, rate = re.match(
        r"of (\d+), ([\d.]+)", page.locator("#rate-found").text_content()
    ).groups()
    assert int(total) == 16
    assert float(rate) == pytest.approx(100 * told(page)[0] / 16, abs=0.051)


@pytest.mark.browser
def test_filters_filter_and_follow_the_threshold(show):
    entries = mixed_entries()
    page = show(report_of(entries))
    assert len(shown(page)) == len(entries)
    for threshold in (0.5123456789, 0.3):
        if threshold == 0.3:
            move(page, threshold)
        for kind in ("", "hole & dirt"):
            page.locator("#defect-type").select_option(kind)
            for name, outcomes in OUTCOMES.items():
                page.locator(f"input[value='{name}']").check(force=True)
                expected = {
                    each.name
                    for each in entries
                    if outcome(each, threshold) in outcomes and kind in ("", each.defect_type)
                }
                assert set(shown(page)) == expected
                assert page.locator(f"[data-count='{name}']").text_content() == str(len(expected))
                told_number = page.locator("#shown").text_content().split()[0]
                assert told_number == str(len(expected))


@pytest.mark.browser
def test_what_is_filtered_changes_while_the_threshold_moves(show):
    entries = mixed_entries()
    page = show(report_of(entries))
    page.locator("input[value='Wrong']").check(force=True)
    for threshold in (0.2, 0.5, 0.7):
        move(page, threshold)
        expected = {x.name for x in entries if outcome(x, threshold) in OUTCOMES["Wrong"]}
        assert set(shown(page)) == expected


@pytest.mark.browser
def test_charts_show_the_scores_and_the_point_that_the_threshold_gives(show):
    entries = mixed_entries()
    page = show(report_of(entries))
    titles = page.locator("#curve-list figcaption b").all_text_contents()
    assert titles == ["image ROC", "image PR", "pixel ROC", "training, phase 1"]
    assert page.locator("#histogram .tick").count() == 3
    for bars, defective in ((".bad-bar", True), (".good-bar", False)):
        scores = [each.score for each in entries if each.is_defective == defective]
        counts_of_bars = [count for count in np.histogram(scores, 40, (0, 1))[0] if count]
        texts = page.locator(f"#histogram {bars} title").all_text_contents()
        assert [int(text.split()[0]) for text in texts] == counts_of_bars
    for threshold in (0.3, 0.6):
        move(page, threshold)
        assert page.locator(".threshold-name").text_content() == f"threshold {threshold:.4f}"
        line = page.locator("line.threshold").bounding_box()
        slider = page.locator("#slider").bounding_box()
        thumb = slider["x"] + 9 + (slider["width"] - 18) * threshold
        assert line["x"] + line["width"] / 2 == pytest.approx(thumb, abs=1.5)
        found, _, _, alarms = counts(entries, threshold)
        roc = page.locator("#curve-list svg").first
        x, y = (float(roc.locator(".point").get_attribute(name)) for name in ("cx", "cy"))
        assert (x - 46) / 242 == pytest.approx(alarms / 12)  # the chart's margins and sides
        assert (194 - y) / 184 == pytest.approx(found / 16)


@pytest.mark.browser
def test_the_gallery_is_sorted(show):
    entries = [*mixed_entries(), entry("crack/1000.png", "crack", 0.41)]
    page = show(report_of(entries))
    by_score = [each.name for each in sorted(entries, key=lambda each: each.score)]
    assert shown(page) == by_score[::-1]
    page.locator("#order").select_option("rising")
    assert shown(page) == by_score
    page.locator("#order").select_option("name")
    names = sorted(
        by_score, key=lambda name: (name.split("/")[0], int(re.findall(r"\d+", name)[0]))
    )
    assert shown(page) == names


@pytest.mark.browser
def test_the_larger_view_goes_by_keyboard_through_what_is_shown(show):
    entries = mixed_entries()
    page = show(report_of(entries))
    page.locator("#defect-type").select_option("crack")
    cracks = sorted((x for x in entries if x.defect_type == "crack"), key=lambda each: -each.score)
    page.locator("#gallery > li:not([hidden]) .card").first.focus()
    page.keyboard.press("Enter")
    name, viewer = page.locator("#viewer-name"), page.locator("#viewer")
    assert viewer.is_visible()
    assert name.text_content() == cracks[0].name
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert name.text_content() == cracks[2].name
    assert page.locator("#viewer-place").text_content() == "3 of 9"
    assert f"{cracks[2].score:.4f}" in page.locator("#viewer-content dl").inner_text()
    page.keyboard.press("ArrowLeft")
    assert name.text_content() == cracks[1].name
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert name.text_content() == cracks[-1].name
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    focused = page.evaluate("document.activeElement.querySelector('.name').textContent")
    assert focused == cracks[-1].name


@pytest.mark.browser
def test_images_load_when_near_and_boxes_lie_where_the_regions_are(show):
    entries = [entry(f"crack/{n:04}.png", "crack", n / 1000) for n in range(600)]
    page = show(report_of(entries))
    page.locator("#gallery > li").first.scroll_into_view_if_needed()
    first = page.locator("#gallery > li:first-child img[src]").first
    first.wait_for()
    assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert page.locator("#gallery img").count() == 1200
    assert page.locator("#gallery img[src]").count() < 200
    last = page.locator("#gallery > li").last
    last.scroll_into_view_if_needed()
    last.locator("img[src]").first.wait_for()
    frame = last.locator(".frame").first.bounding_box()
    box = last.locator("rect.box").bounding_box()
    scale = frame["width"] / 120
    assert frame["height"] == pytest.approx(60 * scale, abs=0.6)
    assert box["x"] - frame["x"] == pytest.approx(10 * scale, abs=1.6)
    assert box["y"] - frame["y"] == pytest.approx(20 * scale, abs=1.6)
    assert box["width"] == pytest.approx(30 * scale, abs=3.1)
    page.locator("#boxes").uncheck()
    assert not last.locator("rect.box").is_visible()


@pytest.mark.browser
def test_hostile_text_is_shown_as_it_is(show):
    page = show(
        report_of(
            [entry(HOSTILE, HOSTILE, 0.9)],
            title=HOSTILE,
            facts={HOSTILE: HOSTILE},
            metrics={HOSTILE: None},
            reasons={HOSTILE: HOSTILE},
            defect_types=[{HOSTILE: HOSTILE}],
            settings={HOSTILE: {HOSTILE: HOSTILE}},
            training={HOSTILE: [(1, 0.5)]},
        )
    )
    page.locator(".card").click()
    for place in (
        "#title",
        ".name",
        "#viewer-name",
        "#defect-types td, #defect-types tbody th",
        "#facts dd",
    ):
        assert page.locator(place).first.text_content() == HOSTILE
    assert page.title() == HOSTILE
    assert page.locator("#defect-type option").nth(1).text_content() == f"{HOSTILE} (1)"


@pytest.mark.browser
@pytest.mark.parametrize(
    "report",
    [
        report_of(
            [entry()], curves={}, training={}, defect_types=[], metrics={}, facts={}, settings={}
        ),
        report_of([entry("c/1.png", "c", 0.9)] * 3, calibration_scores=[]),
        report_of([entry("c/1.png", "c", 0.5), entry(score=0.5)], threshold=0.5),
        report_of([entry("c/1.png", "c", 1.0), entry(score=0.0, mask=jpeg())], threshold=1.0),
        report_of([], calibration_scores=[]),
    ],
    ids=["one good", "no good", "equal scores", "extremes", "nothing"],
)
def test_reports_with_little_in_them_work(show, report):
    page = show(report, viewport={"width": 400, "height": 800}, color_scheme="dark")
    assert told(page) == counts(report.entries, report.threshold)
    move(page, 0.2)
    assert told(page) == counts(report.entries, 0.2)
    assert len(shown(page)) == len(report.entries)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert "NaN" not in page.content()
