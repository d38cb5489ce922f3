import csv
import json

import numpy as np
import pytest
from PIL import Image

from destseg.cli.main import main
from destseg.data.files import sha256_of


@pytest.fixture
def data(tmp_path):
    """Six good and four defective images; the model sees the red channel."""
    for number in range(6):
        write(tmp_path / f"data/test/good/{number}.png", 20 + 10 * number)
    for number, value in enumerate((60, 120, 180, 240)):
        write(tmp_path / f"data/test/dent/{number}.png", value)
        write(tmp_path / f"data/ground_truth/dent/{number}_mask.png", 255)
    return tmp_path / "data"


def write(path, value):
    """A dark image of 80 x 64 with a square of a value."""
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
    assert figures["images"] == 10
    assert figures["misses"]["count"] == 1
    # Of 24 pairs of a defective and a good image one is equal and one the wrong way round.
    assert figures["image"]["auroc"] == pytest.approx((24 - 1 - 0.5) / 24)
    with rows.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["defect_type"] for row in table] == ["dent"] * 4 + ["good"] * 6
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
    assert json.loads((tmp_path / "deep" / "figures.json").read_text())["images"] == 10
    assert not (brightness_model / "metrics.json").exists()


def test_images_that_set_the_threshold_are_told_once(brightness_model, data, capsys):
    path = brightness_model / "calibration.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    own = sha256_of(data / "test/good/3.png")
    path.write_text(json.dumps({**values, "image_sha256": [own, "0" * 64, "1" * 64]}))
    assert main(["evaluate", str(brightness_model), str(data)]) == 0
    told = capsys.readouterr()
    assert (told.out + told.err).count("1 of 10 images set the threshold") == 1
    written = json.loads((brightness_model / "metrics.json").read_text(encoding="utf-8"))
    assert "1 of 10 images set the threshold" in written["notes"][0]


@pytest.mark.parametrize("command", ["evaluate", "report", "qualify"])
def test_an_empty_output_is_not_the_default(command, brightness_model, data, capsys):
    assert main([command, str(brightness_model), str(data), "--output", ""]) == 1
    assert "expected a path, got an empty text" in capsys.readouterr().err
    assert {path.name for path in brightness_model.iterdir()} == {
        *("manifest.json", "weights.safetensors", "calibration.json")
    }


def test_errors_are_told(brightness_model, data, tmp_path, capsys):
    assert main(["evaluate", str(brightness_model), str(data), "--by-image", "rows.xlsx"]) == 2
    assert main(["evaluate", str(brightness_model), str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "rows.xlsx" in err
    assert "expected a folder test/" in err
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


def test_both_numbers_of_images_are_said_where_masks_are_missing(
    brightness_model, data, tmp_path, capsys
):
    (data / "ground_truth/dent/2_mask.png").unlink()
    assert main(["evaluate", str(brightness_model), str(data)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "image metrics over 10 of 10 images, pixel metrics over 9 (1 defective without" in out
    figures = json.loads((brightness_model / "metrics.json").read_text())
    assert figures["coverage"] == {
        "given": 10,
        "images": 10,
        "with_mask": 9,
        "unreadable_masks": 0,
    }
    page = tmp_path / "report.html"
    assert main(["report", str(brightness_model), str(data), "--output", str(page)]) == 0
    assert "pixel metrics over 9 (1 defective without a mask)" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_unreadable_image_is_a_row_with_its_error_and_exit_code_1(
    suffix, brightness_model, data, tmp_path, capsys
):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (data / "test/good/3.png").write_bytes(b"words")
    (data / "ground_truth/dent/1_mask.png").write_bytes(b"words")
    rows = tmp_path / f"rows.{suffix}"
    words = [str(brightness_model), str(data)]
    assert main(["evaluate", *words, "--by-image", str(rows)]) == 1
    err = capsys.readouterr().err
    assert str(data / "test/good/3.png") in err
    assert str(data / "ground_truth/dent/1_mask.png") in err
    assert "of 2 of 10 images the image or its mask could not be read" in err
    figures = json.loads((brightness_model / "metrics.json").read_text())
    assert len(figures["failures"]) == 2
    assert figures["image"]["auroc"] is not None
    if suffix == "csv":
        with rows.open(newline="") as file:
            table = list(csv.DictReader(file))
    else:
        table = parquet.read_table(rows).to_pylist()
    assert len(table) == 10
    (lost,) = [row for row in table if row["outcome"] == "unreadable"]
    assert lost["path"].endswith("good/3.png")
    assert lost["error"]
    assert lost["score"] in ("", None)
    (unmasked,) = [row for row in table if row["error"] and row is not lost]
    assert unmasked["outcome"] == "found"
    assert unmasked["in_pixel_metrics"] in ("False", False)
    page = tmp_path / "report.html"
    assert main(["report", *words, "--output", str(page)]) == 1
    text = page.read_text(encoding="utf-8")
    assert "could not be read" in text
    assert "good/3.png" in text


def test_a_csv_of_labels_gives_the_same_as_the_folders(brightness_model, data, tmp_path, capsys):
    assert main(["evaluate", str(brightness_model), str(data)]) == 0
    expected = json.loads((brightness_model / "metrics.json").read_text())
    lines = [f"test/good/{n}.png,OK,\n" for n in range(6)]
    lines += [f"test/dent/{n}.png,dent,ground_truth/dent/{n}_mask.png\n" for n in range(4)]
    listed = data / "labels.csv"
    listed.write_text("path,label,mask\n" + "".join(lines), encoding="utf-8")
    output = tmp_path / "out.json"
    assert main(["evaluate", str(brightness_model), str(listed), "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    for name in ("image", "pixel", "coverage", "misses", "false_alarms", "defect_types"):
        assert figures[name] == expected[name], name
    # Without masks: the same of images, and a missing file costs its row alone.
    capsys.readouterr()
    lines = [line.split(",ground_truth")[0].rstrip(",\n") + "\n" for line in lines]
    listed.write_text("path,label\n" + "".join(lines) + "gone.png,dent\n", encoding="utf-8")
    assert main(["evaluate", str(brightness_model), str(listed), "--output", str(output)]) == 1
    figures = json.loads(output.read_text())
    assert figures["image"] == expected["image"]
    assert figures["pixel"]["ap"] is None
    assert figures["coverage"]["given"] == 11
    err = capsys.readouterr().err
    assert err.index("1 of the files to be read cannot be") < err.index("could not be read")
    assert str(data / "gone.png") in err
