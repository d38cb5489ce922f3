import dataclasses

import numpy as np
import pytest
from PIL import Image

from conftest import write_images
from destseg.cli.main import main
from destseg.config import UNCHANGED, flag
from destseg.data.images import read_image, resize

CELL, GAP, HEADING = 256, 8, 32


@pytest.fixture
def preview(parts, textures, tmp_path):
    """Runs the command; returns the exit code and the sheet, if there is one."""

    def run(*words: str, name: str = "sheet.png"):
        path = tmp_path / name
        fixed = ["--output", str(path), "--textures", str(textures), "--image-size", "64"]
        code = main(["preview", str(parts), *fixed, *words])
        return code, np.array(Image.open(path)) if path.exists() else None

    return run


def cells(sheet: np.ndarray, row: int) -> list[np.ndarray]:
    """The images of a row of the sheet: the file, what is seen of it, anomalous, mask."""
    top = GAP + HEADING + row * (CELL + GAP)
    lefts = range(GAP, sheet.shape[1] - CELL, CELL + GAP)
    return [sheet[top : top + CELL, left : left + CELL] for left in lefts]


@pytest.mark.parametrize("count", [1, 8])
def test_the_sheet_has_a_row_for_each_image(count, preview, capsys):
    code, sheet = preview("--count", str(count))
    assert code == 0
    assert "sheet.png" in capsys.readouterr().out
    height = GAP + HEADING + count * (CELL + GAP)
    assert sheet.shape == (height, GAP + 4 * (CELL + GAP), 3)


def test_a_row_shows_a_good_image_and_preview_only_where_the_mask_is(preview, parts):
    unchanged = dataclasses.asdict(UNCHANGED).items()
    _, sheet = preview(
        *(
            "--count",
            "2",
            "--opacity",
            "1",
            "1",
            "--perlin-units",
            "pixels",
            "--cutpaste-probability",
            "0",
            *(word for name, value in unchanged for word in (flag(name), str(value))),
        )
    )
    known = [resize(read_image(path), (CELL, CELL)) for path in parts.glob("*.png")]
    for _, good, anomalous, mask in (cells(sheet, 0), cells(sheet, 1)):
        assert any(np.abs(good.astype(int) - image).max() <= 1 for image in known)
        assert 0 < (mask == 255).mean() < 1
        np.testing.assert_array_equal(anomalous[mask == 0], good[mask == 0])
        assert np.abs(anomalous.astype(int) - good)[mask == 255].mean() > 20


@pytest.mark.parametrize("source", ["good", "bad", "grain"])
def test_a_sheet_in_a_folder_that_is_read_is_refused(source, tmp_path, monkeypatch, capsys):
    """Synthetic anomalies would be learned as a good part."""
    write_images(tmp_path / "good", 3)
    write_images(tmp_path / "grain", 2)
    write_images(tmp_path / "bad", 1)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / source)
    words = ["--textures", "../grain", "--defects", "../bad"]
    assert main(["preview", "." if source == "good" else "../good", *words]) == 2
    assert "--output: expected a place outside of " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_left_out_of_known_defects_is_told(preview, tmp_path, capsys):
    """Who looks at the sheet would not see that one is missing."""
    write_images(tmp_path / "bad/scratch", 2, seed=5)
    marked = np.zeros((64, 64), np.uint8)
    marked[20:30, 20:30] = 255
    (tmp_path / "bad/ground_truth/scratch").mkdir(parents=True)
    for name in ("000", "007"):
        Image.fromarray(marked).save(tmp_path / f"bad/ground_truth/scratch/{name}_mask.png")
    code, _ = preview("--defects", str(tmp_path / "bad"), "--count", "2")
    assert code == 0
    told = capsys.readouterr().err
    assert "masks without an image: ground_truth/scratch/007_mask.png: left out" in told


def test_the_seed_decides(preview):
    few = ["--count", "2"]
    _, first = preview(*few, name="a.png")
    _, same = preview(*few, name="b.png")
    _, other = preview(*few, "--seed", "1", name="c.png")
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_the_settings_decide(preview):
    fractions = {}
    for low, high in (("0.02", "0.03"), ("0.4", "0.5")):
        words = [
            "--perlin-units",
            "pixels",
            "--anomaly-area",
            low,
            high,
            "--perlin-scale",
            "10",
            "20",
        ]
        words += ["--cutpaste-probability", "0", "--line-probability", "0"]
        _, sheet = preview("--count", "2", *words)
        fractions[high] = np.mean([(cells(sheet, row)[3] > 127).mean() for row in range(2)])
    assert 0.01 < fractions["0.03"] < 0.06
    assert 0.3 < fractions["0.5"] < 0.6


def test_other_image_formats_and_new_folders_can_be_written(preview):
    code, sheet = preview("--count", "1", name="new/sheet.jpg")
    assert code == 0
    assert sheet.ndim == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--count", "0"], 2, "--count: expected at least 1"),
        (["--opacity", "2", "1"], 2, "--opacity"),
        (["--seed", "-1"], 2, "--seed"),
        (["--textures", "/no/such/folder"], 1, "/no/such/folder"),
        (["--count", "many"], 2, "--count"),
        (["--batch-size", "4"], 2, "--batch-size"),
    ],
)
def test_what_cannot_be_is_said_without_a_trace(words, code, said, preview, capsys):
    assert preview(*words) == (code, None)
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_name_that_is_no_image_is_refused(preview, capsys):
    code, _ = preview("--count", "1", name="sheet.gif")
    assert code == 1
    assert "sheet.gif" in capsys.readouterr().err


def test_more_images_than_there_are_can_be_asked_for(preview):
    code, sheet = preview("--count", "14")  # of 12
    assert code == 0
    assert sheet.shape[0] == GAP + HEADING + 14 * (CELL + GAP)
