import csv
import io
import json
import re
import statistics

from destseg.categories import summary
from destseg.categories.page import render
from destseg.categories.summary_files import write_summary


def rows(made_up):
    return summary.rows_of(
        [
            made_up("bolt", 0, image_auroc=0.9, auroc=0.8, ap=0.5, aupro=0.7, iap=0.4, iap_90=0.3),
            made_up("nut", 0, image_auroc=1.0, auroc=0.9, ap=0.6),
            made_up("bolt", 1, image_auroc=1.0, auroc=0.9, ap=0.7, aupro=0.8, iap=0.5, iap_90=0.2),
            made_up("nut", 1, "expected <images>, got\n  words"),
            made_up("worn", 0),
            made_up("nut", 2, "expected <images>, got\n  words"),
        ]
    )


def cells(row):
    return dict(zip(summary.COLUMNS, row.cells(), strict=True))


def test_a_row_has_means_and_deviations_over_seeds(made_up):
    bolt, nut, worn = map(cells, rows(made_up))
    spread = statistics.stdev([50, 70])
    assert bolt["pixel AP"] == f"60.0 ± {spread:.1f}"
    assert bolt["image AUROC"] == "95.0 ± 7.1"
    assert (bolt["seeds"], bolt["minutes"]) == ("2", "2.5")
    assert (bolt["false alarms"], bolt["missed"]) == ("3 of 40", "4 of 120")
    assert (nut["seeds"], nut["pixel AP"], nut["IAP"]) == ("1 of 3", "60.0", "-")
    # A folder of good images alone has a model, and no metrics.
    assert (worn["seeds"], worn["pixel AP"], worn["false alarms"]) == ("1", "-", "-")
    assert worn["minutes"] == "2.0"


def test_the_mean_is_that_of_the_categories(made_up):
    mean = dict(zip(summary.COLUMNS, summary.mean_row(rows(made_up)), strict=True))
    assert mean["image AUROC"] == "97.5"
    assert mean["IAP"] == "45.0"


def test_seeds_that_failed_alike_are_told_once(made_up):
    _, nut, _ = rows(made_up)
    assert nut.reasons == {"nut, seed 1 2": "expected <images>, got\n  words"}


def test_the_files_hold_every_run_and_every_failure(made_up, tmp_path):
    paths = write_summary(tmp_path, rows(made_up))
    assert [path.name for path in paths] == ["summary.json", "summary.csv", "index.html"]
    values = json.loads(paths[0].read_text("utf-8"))
    assert [(run["category"], run["seed"]) for run in values["runs"]] == [
        *(("bolt", 0), ("bolt", 1), ("nut", 0), ("worn", 0))
    ]
    assert values["failures"][1]["reason"] == "expected <images>, got\n  words"
    lines = list(csv.DictReader(io.StringIO(paths[1].read_text("utf-8"))))
    assert [line["category"] for line in lines] == ["bolt", "bolt", "nut", "nut", "nut", "worn"]
    assert lines[1]["pixel AP"] == "0.7"
    assert (lines[1]["false alarms"], lines[1]["good"]) == ("2", "20")
    assert (lines[3]["failure"], lines[3]["pixel AP"]) == ("expected <images>, got\n  words", "")
    assert None not in lines[3]


def test_the_page_links_the_reports_and_reads_no_name_as_markup(made_up, tmp_path):
    page = render(tmp_path / "out", rows(made_up))
    assert re.findall(r'href="([^"]+)"', page) == [
        *("bolt/seed-0/report.html", "bolt/seed-1/report.html", "nut/seed-0/report.html")
    ]
    assert "expected &lt;images&gt;, got\n  words" in page
    assert "<images>" not in page
    assert "4 of 6 models of 3 categories are trained; 2 failed, see below." in page
    assert page.count("<tr") == 1 + 3 + 1
    assert "{{" not in page
