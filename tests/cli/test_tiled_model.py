"""The commands on a model of tiles with a region of interest, trained by its flags."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_images
from destseg.cli.main import main

SIZES = [(100, 100), (200, 70), (40, 90), (64, 64)]


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts in MVTec's layout, test images of mixed sizes, and a region of interest."""
    folder = tmp_path_factory.mktemp("tiled")
    write_images(folder / "train" / "good", 8, side=100)
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 :] = 255
        write(folder / "test" / "good" / f"{number}.png", image)
        write(folder / "test" / "dent" / f"{number}.png", image)
        write(folder / "ground_truth" / "dent" / f"{number}_mask.png", mask)
    upper = [[0, 0], [1, 0], [1, 0.5], [0, 0.5]]
    (folder / "roi.json").write_text(json.dumps({"polygons": [upper]}))
    return folder


@pytest.fixture(scope="module")
def model(data: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    words = ["train", str(data), "--output", str(folder), "--settings", str(settings_file)]
    words += ["--tile", "--tile-overlap", "0.5", "--roi", str(data / "roi.json"), "--quiet"]
    assert main(words) == 0
    return folder


def test_predict_with_overlays(model, data, tmp_path, capsys):
    assert main(["predict", str(model), str(data), "--overlays", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 * len(SIZES)
    drawn = sorted(tmp_path.rglob("*.png"))
    assert len(drawn) == len(lines)
    sizes = [size_of(path) for path in drawn]
    assert sizes == [size_of(data / path.relative_to(tmp_path)) for path in drawn]
    assert {(line["width"], line["height"]) for line in lines} == set(sizes)


def test_evaluate(model, data, tmp_path, capsys):
    output = tmp_path / "metrics.json"
    assert main(["evaluate", str(model), str(data), "--output", str(output)]) == 0
    metrics = json.loads(output.read_text())
    assert metrics["images"] == 2 * len(SIZES)
    assert 0 <= metrics["pixel"]["auroc"] <= 1


def test_report(model, data, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main(["report", str(model), str(data), "--output", str(output)]) == 0
    assert output.stat().st_size > 10_000


def test_preview(data, settings_file, tmp_path, capsys):
    """The sheet shows crops, and no anomaly outside of the region."""
    sheet = tmp_path / "preview.png"
    words = ["preview", str(data), "--output", str(sheet), "--settings", str(settings_file)]
    words += [
        "--rotation",
        "0",
        "--no-quarter-turns",
        "--roi",
        str(data / "roi.json"),
        "--count",
        "2",
    ]
    for tile in ("--no-tile", "--tile"):
        assert main([*words, tile]) == 0
        pixels = np.asarray(Image.open(sheet))
        masks = pixels[40 : 40 + 2 * 264, 3 * 264 + 8 + 128].reshape(2, 264, 3)[:, :256]
        if tile == "--no-tile":
            assert not masks[:, 130:].any()


def test_a_region_that_is_missing_is_one_line(data, settings_file, tmp_path, capsys):
    words = ["train", str(data), "--output", str(tmp_path / "m"), "--settings", str(settings_file)]
    assert main([*words, "--roi", str(tmp_path / "none.png")]) == 1
    assert "none.png" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    assert main([*words, "--tile-overlap", "0.8"]) == 2
    assert "--tile-overlap: expected a number in [0, 0.75], got 0.8" in capsys.readouterr().err
