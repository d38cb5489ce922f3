"""The commands on models of images that are not square: stretched to their shape, and padded."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from destseg.cli.main import main

SIZES = [(50, 125), (50, 125), (90, 90), (40, 160), (300, 80)]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Parts of 50 x 125 in MVTec's layout, test images of other shapes too."""
    folder = tmp_path_factory.mktemp("long")
    random = np.random.default_rng(0)
    for number in range(8):
        write(
            folder / "train" / "good" / f"{number}.png",
            random.integers(90, 120, (50, 125, 3), np.uint8),
        )
    for number, (height, width) in enumerate(SIZES):
        image = random.integers(90, 120, (height, width, 3), np.uint8)
        write(folder / "test" / "good" / f"{number}.png", image)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 :] = 255
        write(folder / "test" / "dent" / f"{number}.png", image + (mask // 2)[..., None])
        write(folder / "ground_truth" / "dent" / f"{number}_mask.png", mask)
    return folder


@pytest.fixture(scope="module", params=["auto", "64x160 --fit pad", "128x320 --crop-size 64"])
def model(request, data, settings_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    words = ["train", str(data), "--output", str(folder), "--settings", str(settings_file)]
    assert main([*words, "--quiet", "--image-size", *request.param.split()]) == 0
    return folder


@pytest.fixture(scope="module")
def settings(model):
    return yaml.safe_load((model / "settings.yaml").read_text())["data"]


def shapes(settings):
    """The sizes of maps: of the model's own shape, or of each image's own within it."""
    height, width = settings["image_size"]
    if settings["fit"] == "stretch":
        return [(height, width)] * len(SIZES)
    scales = [min(height / h, width / w) for h, w in SIZES]
    return [(round(s * h), round(s * w)) for s, (h, w) in zip(scales, SIZES, strict=True)]


def test_training_writes_the_size_that_it_chose(settings):
    assert settings["image_size"] in ([160, 416], [64, 160], [128, 320])


def test_maps_of_every_runtime_are_those_of_pytorch(model, settings, data, tmp_path, capsys):
    import destseg

    folder = shutil.copytree(model, tmp_path / "model")
    for name in ("onnx", "openvino"):
        assert main(["export", str(folder), "--to", name]) == 0
    images = sorted((data / "test" / "dent").iterdir())
    results = destseg.load(folder, backend="torch").predict(images)
    assert [result.anomaly_map.shape for result in results] == shapes(settings)
    for name in ("onnx", "openvino"):
        for ours, other in zip(
            results, destseg.load(folder, backend=name).predict(images), strict=True
        ):
            np.testing.assert_allclose(other.anomaly_map, ours.anomaly_map, atol=1e-5)
            assert other.score == pytest.approx(ours.score, abs=1e-6)
    assert main(["doctor", str(folder), "--data", str(data / "test")]) == 0
    assert main(["doctor", str(folder)]) == 0


def test_predict_draws_on_images_of_every_shape(model, data, tmp_path, capsys):
    assert main(["predict", str(model), str(data / "test"), "--overlays", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["height"], line["width"]) for line in lines] == SIZES * 2
    assert len(list(tmp_path.rglob("*.png"))) == len(lines)


def test_evaluate_report_and_calibrate(model, data, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    output = tmp_path / "metrics.json"
    assert main(["evaluate", str(folder), str(data), "--output", str(output)]) == 0
    assert json.loads(output.read_text())["images"] == 2 * len(SIZES)
    report = tmp_path / "report.html"
    assert main(["report", str(folder), str(data), "--output", str(report)]) == 0
    assert main(["calibrate", str(folder), str(data / "test" / "good")]) == 0


def test_a_run_is_gone_on_with_as_it_began(model, data, settings_file, capsys):
    """What ``auto`` is was written down, and is the same again for the same images."""
    words = ["train", str(data), "--output", str(model), "--resume", "--quiet"]
    assert main(words) == 0
    if yaml.safe_load((model / "settings.yaml").read_text())["data"]["image_size"] == [160, 416]:
        auto = ["--settings", str(settings_file), "--image-size", "auto"]
        assert main([*words, *auto]) == 0
        assert main([*words, *auto[:-1], "64x160"]) == 1
        assert "--image-size: (160, 416) then, (64, 160) now" in capsys.readouterr().err


def test_preview_shows_the_shape(data, settings_file, tmp_path, capsys):
    sheet = tmp_path / "preview.png"
    words = ["preview", str(data), "--output", str(sheet), "--settings", str(settings_file)]
    assert main([*words, "--count", "2", "--image-size", "auto"]) == 0
    with Image.open(sheet) as image:
        assert image.size == (8 + 4 * (416 + 8), 8 + 20 + 2 * (160 + 8))
