"""Published layouts, built small from their publishers' descriptions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from destseg.errors import DataError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def layouts():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("layouts")
    finally:
        sys.path.remove(str(BENCHMARKS))


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def told(category, root):
    return {
        (
            sample.path.relative_to(root).as_posix(),
            sample.defect_type,
            sample.mask and sample.mask.relative_to(root).as_posix(),
        )
        for sample in category.test
    }


@pytest.mark.parametrize("dataset", ["mvtec", "mpdd"])
def test_mvtec(layouts, dataset, tmp_path):
    for name in ("tube", "bracket"):
        touch(tmp_path / name, "train/good/0.png", "test/good/1.png", "test/bent/2.png")
        touch(tmp_path / name, "ground_truth/bent/2_mask.png")
    touch(tmp_path, "license.txt", "notes/readme.png")
    bracket, tube = layouts.read_layout(dataset, tmp_path)
    assert (bracket.name, tube.name) == ("bracket", "tube")
    assert [path.name for path in tube.training] == ["0.png"]
    assert told(tube, tmp_path) == {
        ("tube/test/good/1.png", "good", None),
        ("tube/test/bent/2.png", "bent", "tube/ground_truth/bent/2_mask.png"),
    }


def test_visa(layouts, tmp_path):
    rows = [
        "object,split,label,image,mask",
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/1.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png",
        "fryum,train,normal,fryum/Data/Images/Normal/0.JPG,",
        "fryum,test,normal,fryum/Data/Images/Normal/1.JPG,",
    ]
    touch(tmp_path, "split_csv/1cls.csv")
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    candle, fryum = layouts.read_layout("visa", tmp_path)
    assert (candle.name, fryum.name) == ("candle", "fryum")
    assert candle.training == (tmp_path / "candle/Data/Images/Normal/0.JPG",)
    assert told(candle, tmp_path) == {
        ("candle/Data/Images/Normal/1.JPG", "good", None),
        ("candle/Data/Images/Anomaly/0.JPG", "anomaly", "candle/Data/Masks/Anomaly/0.png"),
    }


def test_btad(layouts, tmp_path):
    touch(tmp_path / "01", "train/ok/0.bmp", "test/ok/1.bmp", "test/ko/2.bmp", "test/ko/3.bmp")
    touch(tmp_path / "01", "ground_truth/ko/2.png", "ground_truth/ko/3.png")
    (only,) = layouts.read_layout("btad", tmp_path)
    assert only.training == (tmp_path / "01/train/ok/0.bmp",)
    assert told(only, tmp_path) == {
        ("01/test/ok/1.bmp", "good", None),
        ("01/test/ko/2.bmp", "ko", "01/ground_truth/ko/2.png"),
        ("01/test/ko/3.bmp", "ko", "01/ground_truth/ko/3.png"),
    }


def test_mtd(layouts, tmp_path):
    touch(tmp_path, *(f"MT_Free/Imgs/exp_{i}.{end}" for i in range(10) for end in ("jpg", "png")))
    touch(tmp_path, "MT_Crack/Imgs/a.jpg", "MT_Crack/Imgs/a.png", "README.md")
    (only,) = layouts.read_layout("mtd", tmp_path)
    free = {path.name for path in only.training} | {
        sample.path.name for sample in only.test if sample.defect_type == "good"
    }
    assert len(only.training) == 8
    assert free == {f"exp_{i}.jpg" for i in range(10)}
    assert ("MT_Crack/Imgs/a.jpg", "crack", "MT_Crack/Imgs/a.png") in told(only, tmp_path)
    assert len(only.test) == 3


@pytest.mark.parametrize("dataset", ["mvtec", "mpdd", "visa", "btad", "mtd"])
def test_another_layout_is_refused(layouts, dataset, tmp_path):
    touch(tmp_path, "something/else.png")
    with pytest.raises(DataError, match="expected"):
        layouts.read_layout(dataset, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        layouts.read_layout(dataset, tmp_path / "missing")
