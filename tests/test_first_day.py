"""Whoever does what docs/first-day.md says, in its order, has a model that inspects."""

import json
import re
import shlex
from pathlib import Path

import pytest

from conftest import write_images
from destseg.cli.main import main
from destseg.config import flag

PAGE = Path(__file__).resolve().parents[1] / "docs" / "first-day.md"
TINY = {"image_size": 64, "batch_size": 2, "denoise_steps": 1, "segment_steps": 1}


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("destseg ")]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as the page wants it: the layout that step 3 draws."""
    write_images(tmp_path / "parts/good/2026-11-23", 8)
    for number, name in enumerate(("good", "scratch")):
        write_images(tmp_path / "parts/test" / name, 2, seed=10 + number)
    write_images(tmp_path / "incoming", 3, seed=20)
    write_images(tmp_path / "days/2026-11-24", 3, seed=30)
    regions = json.loads(
        re.search(r"^```json\n(\{\"poly.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)[1]
    )
    (tmp_path / "region.json").write_text(json.dumps(regions), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_command_runs_in_the_order_of_the_page(workplace, capsys):
    *here, export, _ = commands()
    assert [words[0] for words in here] == [
        *("doctor", "preview", "train", "evaluate", "report", "predict", "drift", "calibrate")
    ]
    assert export[0] == "export"  # tested, with doctor, in tests/exporting: it takes long
    tiny = [word for name, value in TINY.items() for word in (flag(name), str(value))]
    more = {
        "preview": ["--roi", "region.json", "--count", "2", "--image-size", "64"],
        "train": [*tiny, "--calibration-minimum", "3", "--roi", "region.json"],
    }
    for words in here:
        # After one step all may lie above the threshold: then drift compares nothing.
        codes = (0, 1) if words[0] == "drift" else (0,)
        assert main([*words, *more.get(words[0], [])]) in codes, words
    lines = [json.loads(line) for line in Path("results.jsonl").read_text("utf-8").splitlines()]
    assert [type(line["is_defective"]) for line in lines] == [bool] * 3
    for name in ("preview.png", "report.html", "overlays/000.png", "line1.json"):
        assert Path(name).is_file(), name
    calibration = json.loads(Path("runs/parts/calibration.json").read_bytes())
    assert set(calibration["groups"]) == {"earlier images", "2026-11-24"}
    assert "33.33%" in capsys.readouterr().out


def test_the_table_of_images_is_true():
    """Of so many good images so many are kept, and guarantee this rate."""
    from destseg.config import DataSettings
    from destseg.data.samples import Sample, split_calibration
    from destseg.inference.order_statistics import images_needed

    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) % \|$", PAGE.read_text("utf-8"), re.M)
    assert len(rows) == 4
    for images, kept, rate in rows:
        samples = [Sample(Path(f"{number}.png"), "good") for number in range(int(images))]
        _, chosen = split_calibration(
            samples,
            fraction=DataSettings.calibration_fraction,
            minimum=DataSettings.calibration_minimum,
            seed=0,
        )
        assert len(chosen) == int(kept)
        assert 100 / (1 + len(chosen)) == pytest.approx(float(rate), abs=0.05)
        assert images_needed(1 / (1 + len(chosen)), 0) == len(chosen)
