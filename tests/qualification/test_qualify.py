"""A whole qualification of a model whose answers can be worked out."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.cli.main import main
from destseg.data.files import sha256_of
from destseg.errors import DataError
from destseg.inference.bundle import LEARNED, load_bundle, save_calibration
from destseg.qualification import nuisances
from destseg.qualification.page import render
from destseg.qualification.words import summary
from qualification.qualification_model import SIDE, off_level, save_model, write_good

SMALL = {"sizes": [4, 8, 16], "contrasts": [10, 60], "trials": 4}
WORDS = ["--sizes", "4", "16", "--contrasts", "60", "--trials", "2"]
"""Of a study of which little more is asked than that it comes to an end."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study, its report's values and what was told of its progress."""
    folder, told = tmp_path_factory.mktemp("study"), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("destseg.inference.predictor.open_backend", lambda *_: off_level)
        found = destseg.qualify(
            save_model(folder / "model"),
            write_good(folder / "good"),
            folder / "report.html",
            mm_per_pixel=0.5,
            on_progress=lambda *each: told.append(each),
            **SMALL,
        )
    return found, json.loads((folder / "report.json").read_bytes()), told


@pytest.fixture
def found(study):
    return study[0]


def test_what_is_found_follows_from_the_contrast_and_the_area(found, study):
    assert study[1] == json.loads(json.dumps(found.to_json()))
    for family in ("pit", "stain", "missing piece", "particle"):
        strong = found.find(family, 60).curve
        # 20 pixels at 0.6 are above 0.2, and so are more than 7 of them.
        assert strong.hits[1:] == (4, 4), family
    for each in found.detection:
        if each.contrast == 10:
            assert each.curve.hits == (0, 0, 0)  # 0.1 at most, and the ground's own 0.03
            assert each.curve.a90 is None
    assert found.reference.contrast == 60
    assert found.blind_spots.blind == ()
    assert found.images["drawn_on"] == 5
    assert found.false_alarms == destseg.Rate(0, 5)


def test_each_image_counts_once_however_often_it_is_given(found, model, good, tmp_path, caplog):
    again = tmp_path / "again"
    again.mkdir()
    for path in good.iterdir():
        (again / f"copy-{path.name}").write_bytes(path.read_bytes())
    (tmp_path / "link").symlink_to(good)
    more = destseg.qualify(model, [good, good, tmp_path / "link", again], mm_per_pixel=0.5, **SMALL)
    assert more.images == found.images
    assert more.false_alarms == found.false_alarms
    assert "does not count: " in caplog.text
    assert "copy-" in caplog.text


def test_light_may_change_until_the_level_leaves_the_threshold(found):
    limits = {each.name: each for each in found.tolerances}
    # 120 times 0.8 is 24 below, a score of 0.24; 0.85 gives 0.18 and noise of 3 more.
    assert 10 <= limits["less light"].limit < 20
    assert limits["less light"].ended_by[0] == "false alarms"
    assert limits["rotation"].is_largest
    assert [each.name for each in found.tolerances] == [n.name for n in nuisances.NUISANCES]


def test_of_a_model_that_finds_nothing_no_condition_is_known(model, good, monkeypatch):
    monkeypatch.setattr("destseg.qualification.tolerance.is_hit", lambda _, scores: scores > 2)
    told = []
    found = destseg.qualify(
        model, good, mm_per_pixel=0.5, on_progress=lambda *each: told.append(each), **SMALL
    )
    assert {each.ended_by for each in found.tolerances} == {("too few defects found",)}
    assert {each.limit for each in found.tolerances} == {0}
    assert {each.tried for each in found.tolerances} == {()}  # no change is tried in vain
    assert [each.name for each in found.tolerances] == [n.name for n in nuisances.NUISANCES]
    assert told[-1][0] == told[-1][1]
    assert "not even" not in render(found.to_json(), found.typical)
    (line,) = [each for each in summary(found.to_json()) if each.startswith("Conditions: ")]
    assert line.count("not known, as too few defects are found without it") == len(found.tolerances)


def test_the_same_command_gives_the_same_files(model, good, tmp_path, capsys):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    for path in (first, second):
        assert main(["qualify", str(model), str(good), "--output", str(path), *WORDS]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".json").read_bytes() == second.with_suffix(".json").read_bytes()
    out = capsys.readouterr().out
    assert "Not shown to be found nine times in ten up to 16 px" in out  # by so few trials
    assert "written: " in out
    other = tmp_path / "c.html"
    words = ["qualify", str(model), str(good), "--output", str(other), "--seed", "1", *WORDS]
    assert main(words) == 0
    assert other.with_suffix(".json").read_bytes() != first.with_suffix(".json").read_bytes()


def test_a_corner_where_nothing_is_seen_is_a_blind_spot(model, good, monkeypatch):
    def half_blind(images):
        maps = np.abs(images[..., 0].astype(np.float32) - 120) / 100
        maps[:, :24, :24] = 0
        return maps

    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: half_blind)
    spots = destseg.qualify(model, good, sizes=[8, 16], contrasts=[60], trials=10).blind_spots
    assert (0, 1) in spots.blind or (1, 1) in spots.blind or (1, 0) in spots.blind
    assert all(row < 4 and column < 4 for row, column in spots.blind)


def test_defects_are_drawn_inside_the_region_of_interest(tmp_path, good, monkeypatch):
    seen = []

    def watching(images):
        seen.extend(images)
        return np.abs(images[..., 0].astype(np.float32) - 120) / 100

    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: watching)
    roi = np.zeros((SIDE, SIDE), bool)
    roi[:, :32] = True
    found = destseg.qualify(save_model(tmp_path / "m", roi), good, **SMALL)
    assert found.model["roi_sha256"]
    grid = seen[5 : 5 + 6 * 3 * 2 * 4]  # before shifts and rotations begin
    off = np.abs(np.array(grid)[..., 0].astype(float) - 120) > 8
    assert off[:, :, :32].any()
    assert not off[:, :, 38:].any()  # the corners of a box may be inside where its middle side is
    right = [row[-1] for row in found.blind_spots.trials]
    assert set(right) == {0}


def test_images_that_are_called_defective_or_cannot_be_read_are_told(model, good, tmp_path, capsys):
    Image.fromarray(np.full((SIDE, SIDE, 3), 200, np.uint8)).save(good / "bright.png")
    (good / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    page = tmp_path / "report.html"
    assert main(["qualify", str(model), str(good), "--output", str(page), *WORDS]) == 1
    assert "torn.png" in capsys.readouterr().err
    values = json.loads(page.with_suffix(".json").read_bytes())
    assert values["false_alarms"]["count"] == 1
    assert values["images"] | {"drawn_on": 5, "read": 6, "given": 7} == values["images"]
    assert [each["path"] for each in values["failures"]] == [str(good / "torn.png")]


def test_wrong_arguments_are_refused_before_the_work(model, good, tmp_path, capsys):
    for words, code, said in (
        (["--contrasts", "10", "300"], 2, "--contrasts: expected grey levels"),
        (["--sizes", "8", "4"], 2, "--sizes: expected"),
        (["--trials", "0"], 2, "--trials"),
        (["--mm-per-pixel", "0"], 2, "--mm-per-pixel"),
        (["--output", "report.pdf"], 2, ".html"),
        (["--repeats", str(good)], 1, "a folder a part"),
    ):
        assert main(["qualify", str(model), str(good), *words]) == code
        err = capsys.readouterr().err
        assert said in err
        assert "Traceback" not in err
    (tmp_path / "train").mkdir()
    good.rename(tmp_path / "train/good")
    assert main(["qualify", str(model), str(tmp_path / "train/good")]) == 1
    assert "expected new images of good parts" in capsys.readouterr().err
    dark = tmp_path / "dark"
    dark.mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(dark / "0.png")
    with pytest.raises(destseg.DataError, match="below the threshold to draw defects on"):
        destseg.qualify(model, dark)


def test_progress_ends_where_it_said(study):
    told = study[2]
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_images_that_set_the_threshold_are_told(model, good):
    bundle = load_bundle(model)
    contents = [sha256_of(good / "1.png"), "0" * 64, "1" * 64]
    save_calibration(bundle, replace(bundle.calibration, image_sha256=tuple(contents)))
    found = destseg.qualify(model, good, trials=1)
    assert any("1 of 5 good images set the threshold" in note for note in found.notes)
    assert any("1.png" in note for note in found.notes)


def test_images_that_were_learned_are_refused_for_their_own_reason(model, good, tmp_path):
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["training"][LEARNED] = [sha256_of(good / "1.png")]
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"1\.png.* better than it is"):
        destseg.qualify(model, good, trials=1)
    (good / "1.png").rename(tmp_path / "shot.png")
    for shot in ("1/a.png", "1/b.png", "2/a.png", "2/b.png"):
        (tmp_path / "repeats" / shot).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "shot.png", tmp_path / "repeats" / shot)
    with pytest.raises(DataError, match=r"a\.png.* better than it is"):
        destseg.qualify(model, good, trials=1, repeats=tmp_path / "repeats")
    (tmp_path / "data/train").mkdir(parents=True)
    good.rename(tmp_path / "data/train/good")
    with pytest.raises(DataError, match=r"train/\. .* better than it is"):
        destseg.qualify(model, tmp_path / "data/train/good", trials=1)
