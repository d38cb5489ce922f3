import csv
import json

import numpy as np
import pytest
from PIL import Image

from destseg.cli.main import main


@pytest.fixture
def data(tmp_path):
    """Six good and four defective pictures; the model sees the red channel."""
    for number in range(6):
        write(tmp_path / f"data/test/good/{number}.png", 20 + 10 * number)
    for number, value in enumerate((60, 120, 180, 240)):
        write(tmp_path / f"data/test/dent/{number}.png", value)
        write(tmp_path / f"data/ground_truth/dent/{number}_mask.png", 255)
    return tmp_path / "data"


def write(path, value):
    """A dark picture of 80 x 64 with a square of a value."""
    image = np.zeros((64, 80, 3), np.uint8)
    image[20:40, 30:60] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_metrics_are_printed_and_written(brightness_model, data, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    assert main(["evaluate", str(brightness_model), str(data), "--by-image", str(rows)]) == 0
    out = capsys.readouterr().out
    for text in ("AUPRO", "IAP@90", "dent", "false alarms 0 of 6", "missed       1 of 4 = 25.0%"):
        assert text in out
    figures = json.loads((brightness_model / "metrics.json").read_text())
    assert figures["pictures"] == 10
    assert figures["misses"]["count"] == 1
    # Of 24 pairs of a defective and a good picture one is equal and one the wrong way round.
    assert figures["image"]["auroc"] == pytest.approx((24 - 1 - 0.5) / 24)
    with rows.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["kind"] for row in table] == ["dent"] * 4 + ["good"] * 6
    assert [row["outcome"] for row in table] == ["missed", *["found"] * 3, *["passed"] * 6]


def test_parquet_holds_the_same_rows(brightness_model, data, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = tmp_path / "rows.parquet"
    assert main(["evaluate", str(brightness_model), str(data), "--by-image", str(rows)]) == 0
    table = parquet.read_table(rows).to_pylist()
    assert len(table) == 10
    assert table[3]["is_defective"] is True
    assert table[3]["score"] == pytest.approx(240 / 255)


def test_bounded_and_another_output(brightness_model, data, tmp_path, capsys):
    words = ["evaluate", str(brightness_model), str(data), "--bounded"]
    assert main([*words, "--output", str(tmp_path / "deep" / "figures.json")]) == 0
    assert json.loads((tmp_path / "deep" / "figures.json").read_text())["pictures"] == 10
    assert not (brightness_model / "metrics.json").exists()


def test_errors_are_told(brightness_model, data, tmp_path, capsys):
    assert main(["evaluate", str(brightness_model), str(data), "--by-image", "rows.xlsx"]) == 2
    assert main(["evaluate", str(brightness_model), str(tmp_path)]) == 1
    (data / "ground_truth/dent/2_mask.png").unlink()
    assert main(["evaluate", str(brightness_model), str(data)]) == 1
    err = capsys.readouterr().err
    assert "rows.xlsx" in err
    assert "expected a folder test/" in err
    assert "2.png" in err
    assert "Traceback" not in err
    assert not (brightness_model / "metrics.json").exists()


def test_the_report_is_one_file(brightness_model, data, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", str(brightness_model), str(data), "--output", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/") >= 2 * 10
    assert "dent" in text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
