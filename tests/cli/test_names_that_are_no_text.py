"""Files whose names are no UTF-8: nowhere a stack trace, and the name comes back where it can."""

import contextlib
import csv
import io
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.cli.main import main
from destseg.data.paths import shown

ODD = os.fsdecode(b"\xff[bold].png")
KIND = os.fsdecode(b"dent \xe9")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have no names that are not text"
)


def write(path: Path, value: int) -> None:
    image = np.zeros((64, 80, 3), np.uint8)
    image[20:40, 30:60] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    path.write_bytes(content.getvalue())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate((ODD, "1.png", "2.png")):
        write(tmp_path / "data/test/good" / name, 20 + 10 * number)
        write(tmp_path / "data/test" / KIND / name, 150 + 10 * number)
        mask = Path(name).with_name(f"{Path(name).stem}_mask.png").name
        write(tmp_path / "data/ground_truth" / KIND / mask, 255)
    return tmp_path / "data"


@pytest.fixture
def run(monkeypatch):
    """Runs a command with a strict standard output, and returns the exit code and what it said."""

    def call(*words: object) -> tuple[int, str]:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="strict")
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout", stream)
            code = main([str(word) for word in words])
        assert stream.errors == "strict"
        stream.flush()
        return code, raw.getvalue().decode()

    return call


def test_every_text_can_be_encoded_and_ordinary_ones_are_as_they_were():
    assert shown(Path("ä/1.png")) == "ä/1.png"
    assert shown(ODD) == "\\udcff[bold].png"
    # The raw text of JSON has the same six characters.
    assert shown(ODD) in json.dumps(ODD)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_evaluate_and_report(suffix, run, data, brightness_model, tmp_path):
    rows = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    code, out = run("evaluate", brightness_model, data, "--by-image", rows)
    assert code == 0
    assert shown(KIND) in out
    values = json.loads((brightness_model / "metrics.json").read_bytes())
    assert KIND in values["defect_types"]
    if suffix == "csv":
        with rows.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(rows).to_pylist()
    assert {row["path"] for row in table} >= {
        shown(data / "test/good" / ODD),
        shown(data / "test" / KIND / ODD),
    }
    page = tmp_path / os.fsdecode(b"report \xff.html")
    code, out = run("report", brightness_model, data, "--output", page)
    assert (code, out) == (0, f"{shown(page)}\n")
    text = page.read_text(encoding="utf-8")
    assert json.dumps(shown(f"good/{ODD}")) in text
    assert json.dumps(shown(KIND)) in text


def test_an_unreadable_image_is_named(run, data, brightness_model, tmp_path, capsys):
    (data / "test/good" / ODD).write_bytes(b"words")
    rows = tmp_path / "rows.csv"
    assert run("evaluate", brightness_model, data, "--by-image", rows)[0] == 1
    assert run("report", brightness_model, data, "--output", tmp_path / "page.html")[0] == 1
    assert "\\udcff[bold].png" in shown(capsys.readouterr().err)


def test_predict_gives_the_name_back(run, data, brightness_model, tmp_path):
    folder, results = data / "test/good", tmp_path / "results.jsonl"
    code, out = run("predict", brightness_model, folder)
    assert code == 0
    assert str(folder / ODD) in [json.loads(line)["path"] for line in out.splitlines()]
    words = ["--output", results, "--overlays", tmp_path / "overlays"]
    assert run("predict", brightness_model, folder, *words)[0] == 0
    named = [json.loads(line)["path"] for line in results.read_bytes().splitlines()]
    assert str(folder / ODD) in named
    assert (tmp_path / "overlays" / ODD).is_file()


@pytest.mark.parametrize("name", ["watched.jsonl", "watched.db"])
def test_watch_and_drift_give_the_name_back(name, run, data, brightness_model, tmp_path):
    folder, results, out = data / "test/good", tmp_path / name, tmp_path / "drift.jsonl"
    words = ["--once", "--settle", 0, "--interval", 0.01, "--output", results, "--verbose"]
    assert run("watch", brightness_model, folder, *words)[0] == 0
    if name.endswith(".db"):
        with contextlib.closing(sqlite3.connect(results)) as database:
            found = [name for (name,) in database.execute("SELECT path FROM results")]
        assert os.fsencode(folder / ODD) in found
    assert run("drift", brightness_model, results, "--output", out)[0] == 0
    lines = out.read_bytes().splitlines()
    assert str(folder / ODD) in [json.loads(line)["path"] for line in lines]
    assert run("watch", brightness_model, folder, *words)[0] == 0  # knows what is done


def test_calibrate_keeps_the_name(run, data, brightness_model):
    assert run("calibrate", brightness_model, data / "test/good")[0] == 0
    record = json.loads((brightness_model / "calibration.json").read_bytes())
    assert any(name.endswith(ODD) for name in record["paths"])


def test_a_model_in_a_folder_with_such_a_name_is_served(brightness_model):
    testclient = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed")
    from destseg.serving.app import create_app
    from destseg.serving.models import openers

    folder = brightness_model.rename(brightness_model.with_name(os.fsdecode(b"model \xff")))
    with testclient.TestClient(create_app(openers([str(folder)]))) as client:
        listed = client.get("/v1/models")
        assert listed.json()["models"][0]["name"] == shown(folder.name)
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_model_in_a_folder_with_such_a_name_runs(backend, quantisable_bundle, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = destseg.load(quantisable_bundle.folder, backend=backend).predict(image).score
    folder = tmp_path / os.fsdecode(b"model \xff")
    shutil.copytree(quantisable_bundle.folder, folder)
    assert destseg.load(folder, backend=backend).predict(image).score == expected
