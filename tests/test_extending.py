"""What docs/extending.md shows works: each example is run as it is printed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import destseg
from conftest import write_images
from destseg.cli.main import main
from destseg.inference.backends import open_backend
from destseg.inference.bundle import load_bundle

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


def section(heading):
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def code(heading):
    return re.search(r"^```python\n(.*?)^```", section(heading), re.M | re.S).group(1)


def commands(heading):
    block = re.search(r"^```sh\n(.*?)^```", section(heading), re.M | re.S).group(1)
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny_settings, tiny_teacher_weights):
    """A folder with the images of the page, and settings that train in a second."""
    write_images(tmp_path / "parts/good", 12)
    write_images(tmp_path / "new_good_parts", 5, seed=8)
    write_images(tmp_path, 1, seed=9).joinpath("000.png").rename(tmp_path / "part.png")
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    (tmp_path / "tiny.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    quiet = ["--quiet"] if words[0] == "train" else []
    return main([*words, "--settings", "tiny.yaml", *quiet])


def test_a_teacher(workplace):
    exec(code("A teacher"), {})
    assert [run(words) for words in commands("A teacher")] == [0]
    Path("teacher.safetensors").unlink()  # the bundle has all that it needs
    predictor = destseg.load("runs/parts")
    assert str(predictor.bundle.training["teacher"]).startswith("file teacher.safetensors sha256:")
    assert 0 <= predictor.predict("part.png").score <= 1


def test_a_head(workplace, monkeypatch):
    names = {}
    exec(code("A head"), names)
    made = []

    def build_head(kind, channels, width, dilations):
        made.append(names["PlainHead"](channels, width))
        return made[-1]

    monkeypatch.setattr("destseg.model.destseg.build_head", build_head)
    trained = destseg.train("parts/good", output="runs/parts", settings="tiny.yaml", quiet=True)
    opened = destseg.load("runs/parts")
    assert made
    assert trained.predict("part.png") == opened.predict("part.png")
    weights = opened.bundle.weights()
    assert {"head.blocks.0.weight", "head.classify.weight"} <= weights.keys()
    before = {name: value.numpy() for name, value in made[-1].state_dict().items()}
    assert all(np.array_equal(weights[f"head.{name}"], value) for name, value in before.items())


def test_a_backend(workplace):
    destseg.train("parts/good", output="runs/parts", settings="tiny.yaml", quiet=True)
    names = {}
    exec(code("A backend"), names)
    predictor, result = names["predictor"], names["result"]
    assert predictor.backend_name == "custom"
    plain = destseg.load("runs/parts").predict("part.png").anomaly_map
    turned = np.array(destseg.load("runs/parts").bundle.settings.data.size)
    assert result.anomaly_map.shape == tuple(turned)
    assert (result.anomaly_map <= plain).all()
    assert not np.array_equal(result.anomaly_map, plain)
    assert result.threshold == names["calibration"].threshold
    assert len(names["calibration"].scores) == 5
    # What both agree on is unchanged by looking at the mirror image instead.
    bundle = load_bundle("runs/parts")
    backend = names["Mirrored"](open_backend(bundle))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(backend(image)[:, :, ::-1], backend(image[:, :, ::-1]))


def test_textures(workplace):
    exec(code("A source of textures"), {})
    assert [run(words) for words in commands("A source of textures")] == [0, 0]
    assert Path("preview.png").is_file()
    assert destseg.load("runs/parts").bundle.settings.synthesis.textures == "textures"


def test_files_that_the_page_names_are_there():
    root = PAGE.parents[1]
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.]+?)/?`", text)
    assert len(named) > 15
    assert [name for name in named if not (root / name.replace("NAME_", "onnx_")).exists()] == []
