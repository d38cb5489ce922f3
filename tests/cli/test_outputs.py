"""Of all commands: no output is an input, places are tried before the work, and none is in vain."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import write_category, write_red
from destseg.cli.main import main
from destseg.data.outputs import require_folder
from destseg.errors import DataError, SettingsError
from destseg.exporting.export import export
from destseg.exporting.quantize import quantize
from destseg.inference.bundle import load_bundle
from destseg.training.run_folder import require_apart_from


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("the work was begun")


@pytest.fixture
def place(tmp_path, brightness_model, monkeypatch) -> Path:
    """A folder with ``data``, ``model``, ``results.jsonl`` and more; the model must not be run."""
    write_category(tmp_path / "data", 0)
    (tmp_path / "labels.csv").write_text("path,label\ndata/test/good/000.png,good\n")
    (tmp_path / "settings.yaml").write_text("preset: fast\n")
    (tmp_path / "results.jsonl").write_text("")
    (tmp_path / "model/log.jsonl").write_text("")
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/sheet.png").write_bytes(b"mine")
    write_red(tmp_path / "run/roi.png", 255)
    for name in ("predictor.open_backend", "bundle.Bundle.weights"):
        monkeypatch.setattr(f"destseg.inference.{name}", forbidden)
    monkeypatch.setattr("destseg.synthesis.preview.Batches", forbidden)
    monkeypatch.setattr("destseg.training.train.GoodParts", forbidden)
    monkeypatch.setattr("destseg.categories.ray_jobs.run_on_ray", forbidden)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


IMAGE, MASK = "data/test/hole/000.png", "data/ground_truth/hole/000_mask.png"
ON_INPUTS = {
    "predict, results": f"predict model {IMAGE} --output {IMAGE}",
    "predict, overlays": "predict model data/test --overlays data/test",
    "evaluate, an image": f"evaluate model data --output {IMAGE}",
    "evaluate, a mask": f"evaluate model data --output {MASK}",
    "evaluate, the model": "evaluate model data --output model/manifest.json",
    "evaluate, the labels": "evaluate model labels.csv --by-image labels.csv",
    "evaluate, its own": "evaluate model data --output rows.csv --by-image rows.csv",
    "report, an image": f"report model data --output {IMAGE}",
    "report, the model": "report model data --output model/calibration.json",
    "drift, an image": f"drift model {IMAGE} --output {IMAGE}",
    "drift, results": "drift model results.jsonl --output results.jsonl",
    "drift, the state": "drift model results.jsonl --state results.jsonl",
    "drift, its own": f"drift model {IMAGE} --state new.json --output new.json",
    "drift, the model": f"drift model {IMAGE} --state model/manifest.json",
    "watch, the model": "watch model data --output model/log.jsonl --once",
    "preview, an image": "preview data --output data/train/good/000.png",
    "preview, settings": "preview data --settings settings.yaml --output settings.png",
    "preview, a texture": f"preview data --textures data/test --output {IMAGE}",
    "train, the region": "train data --output run --roi run/roi.png",
    "train, settings": "train data --output . --settings settings.yaml",
    "train-many": "train-many . --output table --settings table/summary.json --only data",
}


@pytest.mark.parametrize("name", ON_INPUTS)
def test_an_output_that_is_an_input_is_refused(name, place, capsys):
    if name == "preview, settings":
        Path("settings.png").symlink_to("settings.yaml")
    if name == "train-many":
        Path("table").mkdir()
        Path("table/summary.json").write_text("preset: fast\n")
    before = files(place)
    assert main(ON_INPUTS[name].split()) == 2
    err = capsys.readouterr().err
    assert "expected a file to write to that is not read from" in err or (
        "expected two files to write to" in err
    )
    assert files(place) == before


UNWRITABLE = {
    "predict": "predict model data --output file/x.jsonl",
    "evaluate": "evaluate model data --output file/x.json",
    "evaluate, rows": "evaluate model data --by-image file/x.csv",
    "report": "report model data --output file/x.html",
    "drift": "drift model data --output file/x.jsonl",
    "drift, state": "drift model data --state file/x.json",
    "watch": "watch model data --output file/x.jsonl --once",
    "preview": "preview data --output file/x.png",
    "preview, name": "preview data --output x.gif",
    "train": "train data --output file/x",
    "train-many": "train-many . --only data --output file/x",
    "demo": "demo --output mine",
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_place_that_cannot_be_is_refused_before_the_work(name, place, capsys):
    before = files(place)
    assert main(UNWRITABLE[name].split()) == 1
    err = capsys.readouterr().err
    shown = {"demo": "mine/sheet.png", "train-many": "file/x"}
    assert shown.get(name, UNWRITABLE[name].split()[-1].removesuffix(" --once")) in err or (
        "file/x.jsonl" in err
    )
    assert "Traceback" not in err
    assert files(place) == before


def test_a_model_that_cannot_be_written_to_is_known_before_the_work(place, monkeypatch, capsys):
    def refuse(folder: Path, expected: str = "") -> None:
        if Path(folder) == Path("model"):
            raise DataError(f"{expected or folder}: read-only")
        require_folder(folder, expected)

    for name in ("data.outputs", "inference.exports", "inference.recalibration"):
        monkeypatch.setattr(f"destseg.{name}.require_folder", refuse)
    for command in ("evaluate model data", "report model data", "calibrate model data/test/good"):
        assert main(command.split()) == 1
        assert "read-only" in capsys.readouterr().err
    with pytest.raises(DataError, match="read-only"):
        export(load_bundle("model"), "onnx")
    with pytest.raises(DataError, match="read-only"):
        quantize(load_bundle("model"), "data", "onnx")


def test_a_run_is_kept_off_what_it_reads_from_python_too(place, tiny_settings):
    weights = place / "run/weights.safetensors"
    weights.write_bytes(b"mine")
    for setting in ({"roi": "run/roi.png"}, {"teacher_weights": str(weights)}):
        settings = tiny_settings.replace(**setting)
        with pytest.raises(SettingsError, match="run/"):
            require_apart_from(Path("run"), "data", settings, resume=False)
    # A resumed run reads the region that it wrote.
    settings = tiny_settings.replace(roi="run/roi.png")
    require_apart_from(Path("run"), "data", settings, resume=True)
    shutil.copy("run/roi.png", "data/train/good/roi.png")
    with pytest.raises(SettingsError, match=r"good/roi\.png"):
        require_apart_from(Path("data/train/good"), "data", tiny_settings, resume=False)


# --- places that were good before the work and are not after it


@pytest.fixture
def spoils(place, monkeypatch):
    """Lets the first image that is inspected put folders in the place of outputs."""

    def spoil(*names: str) -> None:
        def run(images):
            for name in names:
                Path(name).mkdir(exist_ok=True)
            return images[..., 0].astype(np.float32) / 255

        monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: run)

    return spoil


def test_metrics_that_cannot_be_written_are_printed_and_the_rows_are_written(spoils, capsys):
    spoils("metrics.json")
    words = "evaluate model data --output metrics.json --by-image rows.csv"
    assert main(words.split()) == 1
    out, err = capsys.readouterr()
    assert "metrics.json: expected a file that can be written, got: " in err
    assert "AUPRO" in out
    assert "written: rows.csv" in out
    assert "metrics.json" not in out
    assert len(Path("rows.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize("spoilt", ["lines.jsonl", "state.json"])
def test_the_verdict_is_told_and_the_state_goes_with_the_lines(spoilt, spoils, capsys):
    spoils(spoilt)
    write_red(Path("dark/0.png"), 10)
    words = "drift model dark --output lines.jsonl --state state.json"
    assert main(words.split()) == 1
    out, err = capsys.readouterr()
    assert out.endswith("no drift shown\n")
    assert f"{spoilt}: expected a file that can be written" in err
    # Without the lines no state: the same images can be given again.
    assert not Path("state.json").is_file()
    assert Path("lines.jsonl").is_file() == (spoilt == "state.json")


def test_a_table_of_many_that_cannot_be_written_is_printed(place, monkeypatch, capsys):
    def run(jobs, *_):
        Path("table/summary.json").mkdir()
        return iter(())

    monkeypatch.setattr("destseg.categories.ray_jobs.run_on_ray", run)
    assert main(["train-many", ".", "--only", "data", "--output", "table", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "image AUROC" in out
    assert "summary.json: expected a file that can be written" in err
    assert json.loads(Path("model/manifest.json").read_text())
