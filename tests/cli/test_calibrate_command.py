"""The model's map is the red channel, its calibration scores 0.1, 0.2 and 0.3, its rate 0.25.

Its INT8 form, where it has one, gives half of that.
"""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.cli.main import main
from destseg.data.files import sha256_of
from destseg.errors import DataError, ImageError
from destseg.inference.bundle import load_bundle, save_calibration
from destseg.inference.calibration import TOLERANCE
from destseg.inference.exports import load_export, save_export, save_export_calibration
from destseg.inference.predictor import load


def write(folder: Path, reds: list[int]) -> Path:
    folder.mkdir(parents=True)
    for number, red in enumerate(reds):
        Image.fromarray(np.full((8, 8, 3), (red, 0, 0), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def runtimes(brightness_model, monkeypatch):
    """What runtimes were asked for; INT8 gives maps of half the height."""
    asked = []

    def open_backend(_, runtime):
        asked.append(runtime)
        share = 0.5 if runtime.backend.endswith("-int8") else 1
        return lambda images: share * images[..., 0].astype(np.float32) / 255

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    return asked


@pytest.fixture
def with_int8(brightness_model, runtimes):
    """The model with an INT8 form whose calibration scores are half of the model's."""
    bundle = load_bundle(brightness_model)
    form = save_export(bundle, "onnx-int8", {"model.onnx": b"int8"}, {})
    halves = tuple(score / 2 for score in bundle.calibration.scores)
    own = replace(bundle.calibration, scores=halves, peaks=halves, weights_sha256=form.sha256)
    save_export(bundle, "onnx-int8", {"model.onnx": b"int8"}, {}, own)
    return brightness_model


@pytest.fixture
def calibrate(capsys):
    """Runs the command; returns the exit code, what it printed and what it complained of."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["calibrate", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def split(out: str) -> tuple[list[str], str]:
    """The lines about thresholds, and the name of the kept calibration that the last one tells."""
    *lines, last = out.splitlines()
    told = re.fullmatch(
        r"the old calibration is kept as (\S+)/(calibration\.until-\S+\.json); to go back: "
        r"destseg calibrate (\S+) --restore (\S+)",
        last,
    )
    assert told is not None
    assert (told[1], told[2]) == (told[3], told[4])
    return lines, told[2]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_rate_alone_keeps_the_scores(brightness_model, calibrate):
    before = load_bundle(brightness_model)
    code, out, err = calibrate(brightness_model, "--max-false-alarm-rate", "0.5")
    assert (code, err) == (0, "")
    # Of three calibration scores the second highest: two of four parts may be above it.
    assert split(out)[0] == [
        "threshold 0.2001 (was 0.3001), at most 50.00% false alarms in the mean, "
        "86.46% with 95% confidence, "
        "from 3 good images",
        "  set by b",
    ]
    after = load_bundle(brightness_model)
    assert after == replace(before, calibration=before.calibration.with_rate(0.5))
    values = json.loads((brightness_model / "calibration.json").read_text())
    assert values["threshold"] == 0.2 + TOLERANCE


def test_a_confidence_alone_keeps_scores_and_rate(brightness_model, calibrate):
    """Of three images the second highest would do in the mean, not with 60 %: 0.57 > 0.5."""
    calibrate(brightness_model, "--max-false-alarm-rate", "0.5")
    code, out, err = calibrate(brightness_model, "--confidence", "0.6")
    assert code == 0
    assert "threshold 0.3001 (was 0.2001), at most 25.00% false alarms in the mean" in out
    assert "26.32% with 60% confidence" in out  # 1 - 0.4 ** (1 / 3)
    assert err == ""
    code, out, err = calibrate(brightness_model, "--confidence", "0.95")
    assert "guarantees a false-alarm rate of 63.16% with 95% confidence, not of 50.00%" in err
    assert "which takes 5: give 2 more good images" in err
    assert load_bundle(brightness_model).calibration.confidence == 0.95
    # Another rate keeps the confidence, as another confidence kept the rate.
    calibrate(brightness_model, "--max-false-alarm-rate", "0.7")
    calibration = load_bundle(brightness_model).calibration
    assert (calibration.max_false_alarm_rate, calibration.confidence) == (0.7, 0.95)


def test_new_images_give_new_scores_at_the_old_rate(brightness_model, calibrate, tmp_path):
    good = write(tmp_path / "good", [51, 102, 153, 204, 0, 10, 20])
    code, out, err = calibrate(brightness_model, good)
    assert (code, err) == (0, "")
    after = load_bundle(brightness_model).calibration
    assert after.scores == pytest.approx([0, 10 / 255, 20 / 255, 0.2, 0.4, 0.6, 0.8])
    assert after.peaks == pytest.approx(after.scores)
    # In the order of their scores: each says which image it is of.
    assert after.paths == tuple(str(good / f"{number}.png") for number in (4, 5, 6, 0, 1, 2, 3))
    assert after.max_false_alarm_rate == 0.25
    # Two of eight may be above: the second highest.
    assert split(out)[0] == [
        "threshold 0.6001 (was 0.3001), at most 25.00% false alarms in the mean, "
        "52.07% with 95% confidence, "
        "from 7 good images",
        f"  set by {good / '2.png'}",
    ]
    assert load(brightness_model).predict(np.full((64, 64, 3), 160, np.uint8)).is_defective
    assert not load(brightness_model).predict(np.full((64, 64, 3), 150, np.uint8)).is_defective


def test_new_images_and_a_new_rate(brightness_model, calibrate, tmp_path):
    good = write(tmp_path / "good", [51, 102, 153])
    code, out, err = calibrate(brightness_model, good, "--max-false-alarm-rate", "0.01")
    assert code == 0
    assert "threshold 0.6001 (was 0.3001), at most 25.00% false alarms" in out
    # Three images are too few for 1 %, which is told: it takes 99.
    assert err.startswith("destseg: note: with 3 calibration images")
    assert "99" in err
    after = load_bundle(brightness_model).calibration
    assert after.scores == pytest.approx([0.2, 0.4, 0.6])
    assert after.max_false_alarm_rate == 0.01


def test_neither_is_an_error(with_int8, calibrate):
    before = files(with_int8)
    code, out, err = calibrate(with_int8)
    assert (code, out) == (1, "")
    assert "good images, --max-false-alarm-rate, or both, got neither" in err
    assert files(with_int8) == before


@pytest.mark.parametrize("rate", ["0", "1.5", "nan"])
def test_a_rate_out_of_range_is_refused(rate, with_int8, calibrate, tmp_path):
    before = files(with_int8)
    for good in ([], [write(tmp_path / "good", [51])]):
        code, out, err = calibrate(with_int8, *good, "--max-false-alarm-rate", rate)
        assert (code, out) == (2, "")
        assert "--max-false-alarm-rate: expected" in err
    assert files(with_int8) == before


def test_training_images_are_refused(brightness_model, calibrate, tmp_path):
    before = files(brightness_model)
    write(tmp_path / "data" / "train" / "good", [200])
    code, _, err = calibrate(brightness_model, tmp_path / "data")
    assert code == 1
    assert "train/" in err
    assert "too low" in err
    assert files(brightness_model) == before


def test_a_folder_without_images_is_refused(brightness_model, calibrate, tmp_path):
    assert calibrate(brightness_model, tmp_path / "nothing")[0] == 1
    (tmp_path / "empty").mkdir()
    code, _, err = calibrate(brightness_model, tmp_path / "empty")
    assert code == 1
    assert "expected images" in err


def test_a_quantised_form_is_fitted_on_the_same_images(with_int8, calibrate, tmp_path):
    good = write(tmp_path / "good", [51, 102, 153])
    code, out, err = calibrate(with_int8, good)
    assert (code, err) == (0, "")
    assert [line for line in split(out)[0] if not line.startswith("  set by ")] == [
        "threshold 0.6001 (was 0.3001), at most 25.00% false alarms in the mean, "
        "63.16% with 95% confidence, "
        "from 3 good images",
        "onnx-int8: threshold 0.3001 (was 0.1501), at most 25.00% false alarms in the mean, "
        "63.16% with 95% confidence, "
        "from 3 good images",
    ]
    assert out.count(f"  set by {good / '2.png'}\n") == 2
    bundle = load_bundle(with_int8)
    form = load_export(bundle, "onnx-int8")
    assert form.calibration.scores == pytest.approx([0.1, 0.2, 0.3])
    assert form.calibration.paths == bundle.calibration.paths
    assert form.calibration.weights_sha256 == form.sha256
    assert form.calibration.weights_sha256 != bundle.weights_sha256
    grey = np.full((64, 64, 3), 150, np.uint8)
    for backend, threshold in (("torch", 0.6), ("onnx-int8", 0.3)):
        result = load(with_int8, backend=backend).predict(grey)
        assert result.threshold == pytest.approx(threshold + TOLERANCE)
        assert not result.is_defective


def test_a_quantised_form_gets_the_new_rate_too(with_int8, calibrate):
    code, out, _ = calibrate(with_int8, "--max-false-alarm-rate", "0.5")
    assert code == 0
    assert "onnx-int8: threshold 0.1001 (was 0.1501), at most 50.00%" in out
    bundle = load_bundle(with_int8)
    assert bundle.calibration.threshold == 0.2 + TOLERANCE
    form = load_export(bundle, "onnx-int8")
    assert form.calibration.scores == (0.05, 0.1, 0.15)
    assert form.calibration.max_false_alarm_rate == 0.5


# --- room


@pytest.fixture
def with_room(with_int8):
    """The model, and its INT8 form, that know what synthetic anomalies score; without room yet."""
    bundle = load_bundle(with_int8)
    save_calibration(bundle, replace(bundle.calibration, room=0.0, anomalies=(0.7, 0.9)))
    form = load_export(bundle, "onnx-int8")
    save_export_calibration(form, replace(form.calibration, room=0.0, anomalies=(0.35, 0.45)))
    return with_int8


def test_room_alone_raises_the_threshold_of_every_form(with_room, calibrate):
    code, out, err = calibrate(with_room, "--room", "0.5")
    assert (code, err) == (0, "")
    assert [line for line in split(out)[0] if "threshold" in line] == [
        "threshold 0.5000 (was 0.3001), at most 25.00% false alarms in the mean, "
        "63.16% with 95% confidence, from 3 good images",
        "onnx-int8: threshold 0.2500 (was 0.1501), at most 25.00% false alarms in the mean, "
        "63.16% with 95% confidence, from 3 good images",
    ]
    assert out.count("raised from 0.3001 towards synthetic anomalies (--room 0.5)") == 1
    grey = np.full((64, 64, 3), round(0.4 * 255), np.uint8)
    result = load(with_room, backend="torch").predict(grey)
    assert (result.is_defective, result.p_value) == (False, 0.5)
    assert calibrate(with_room, "--room", "0")[0] == 0
    assert load(with_room, backend="torch").predict(grey).is_defective


def test_room_may_be_left_to_the_model(with_room, calibrate):
    code, out, err = calibrate(with_room, "--room", "auto")
    assert (code, err) == (0, "")
    assert out.count("raised from 0.3001 towards synthetic anomalies (--room auto)") == 1
    assert load_bundle(with_room).calibration.threshold == pytest.approx(0.5, abs=1e-4)
    assert load_export(load_bundle(with_room), "onnx-int8").calibration.room == "auto"


@pytest.mark.parametrize("words", [[], ["--add"]])
def test_new_images_keep_the_room_and_what_anomalies_score(words, with_room, calibrate, tmp_path):
    assert calibrate(with_room, "--room", "1")[0] == 0
    code, *_ = calibrate(with_room, write(tmp_path / "good", [51, 102, 153]), *words)
    assert code == 0
    bundle = load_bundle(with_room)
    for each, score in ((bundle, 0.7), (load_export(bundle, "onnx-int8"), 0.35)):
        assert each.calibration.room == 1
        assert each.calibration.threshold == pytest.approx(score)


def test_there_is_no_room_where_nobody_knows_what_anomalies_score(with_int8, calibrate):
    before = files(with_int8)
    code, out, err = calibrate(with_int8, "--room", "0.5")
    assert (code, out) == (2, "")
    assert "--room: expected 0 for" in err
    assert "train anew" in err
    assert files(with_int8) == before


@pytest.mark.parametrize("room", ["-0.1", "1.5", "nan", "half"])
def test_room_out_of_range_is_refused(room, with_room, calibrate):
    before = files(with_room)
    code, _, err = calibrate(with_room, "--room", room)
    assert code != 0
    assert "--room: expected auto, or a number in [0, 1], got" in err
    assert files(with_room) == before


def test_the_device_asked_for_is_not_that_of_a_quantised_form(
    with_int8, runtimes, calibrate, tmp_path
):
    good = write(tmp_path / "good", [51])
    assert calibrate(with_int8, good, "--backend", "torch", "--device", "cuda")[0] == 0
    assert [(r.backend, r.device) for r in runtimes] == [("torch", "cuda"), ("onnx-int8", "cpu")]


@pytest.mark.parametrize("fails", ["path", "form"])
def test_a_failure_leaves_every_threshold_as_it_was(fails, with_int8, calibrate, tmp_path):
    good = write(tmp_path / "good", [51, 102])
    if fails == "path":
        (good / "9.png").write_bytes(b"\x89PNG")
    else:
        (with_int8 / "exports/onnx-int8/model.onnx").write_bytes(b"changed")
    before = files(with_int8)
    code, out, err = calibrate(with_int8, good, "--max-false-alarm-rate", "0.5")
    assert (code, out) == (1, "")
    assert ("9.png" if fails == "path" else "model.onnx") in err
    assert "Traceback" not in err
    assert files(with_int8) == before


def test_an_image_that_only_the_quantised_form_fails_on_changes_nothing(
    with_int8, calibrate, tmp_path, monkeypatch
):
    good = write(tmp_path / "good", [51, 102])
    before = files(with_int8)

    def open_backend(_, runtime):
        value = np.nan if runtime.backend.endswith("-int8") else 0.5
        return lambda images: np.full(images.shape[:3], value, np.float32)

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    code, out, err = calibrate(with_int8, good)
    assert (code, out) == (1, "")
    assert "finite" in err
    assert files(with_int8) == before


# --- what is a good image here


@pytest.mark.parametrize(
    ("names", "source", "reason"),
    [
        (["test/good", "test/scratch", "ground_truth/scratch"], "test", "only good images"),
        (["test/good", "test/scratch", "ground_truth/scratch"], "test/scratch", "a folder of good"),
        (["test/good", "test/scratch", "ground_truth/scratch"], "", "expected train/good"),
        (["good", "scratch"], "", "only good images"),
        (["1", "NG"], "", "only good images"),
        (["train/good", "test/good"], "", "too low"),
        (["Train/OK"], "", "too low"),
        (["train/good"], "train", "too low"),
        (["train/good"], "train/good", "too low"),
    ],
)
def test_what_may_be_defective_or_trained_on_moves_no_threshold(
    names, source, reason, with_int8, calibrate, tmp_path
):
    for name in names:
        write(tmp_path / "data" / name, [51, 255])
    before = files(with_int8)
    code, out, err = calibrate(with_int8, tmp_path / "data" / source)
    assert (code, out) == (1, "")
    assert reason in err
    assert files(with_int8) == before


@pytest.mark.parametrize(("good", "bad"), [("good", "bad"), ("OK", "NG"), ("normal", "abnormal")])
def test_the_good_folder_of_labelled_ones_is_taken_with_a_word(
    good, bad, brightness_model, calibrate, tmp_path
):
    for name, red in ((good, 51), (bad, 255), ("mask", 255)):
        write(tmp_path / "new" / name, [red, red, red])
    code, out, err = calibrate(brightness_model, tmp_path / "new")
    assert code == 0
    assert "threshold 0.2001" in out
    assert "left out: " in err
    assert f"{bad}/ (3)" in err
    assert "mask/ (3)" in err


def test_the_good_folder_of_a_test_set_can_be_named(brightness_model, calibrate, tmp_path):
    for name, reds in (("good", [49, 50, 51]), ("scratch", [255])):
        write(tmp_path / "data/test" / name, reds)
    code, out, err = calibrate(brightness_model, tmp_path / "data/test/good")
    assert (code, err) == (0, "")
    assert "threshold 0.2001" in out


def test_rows_labelled_with_a_defect_are_left_out_and_counted(
    brightness_model, calibrate, tmp_path
):
    write(tmp_path / "all", [51, 51, 51, 255, 255])
    rows = ["0,good", "1,OK", "2,good", "3,dent", "4,1"]
    text = "\n".join(["path,label", *(f"all/{row.replace(',', '.png,')}" for row in rows)])
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    code, out, err = calibrate(brightness_model, tmp_path / "list.csv")
    assert code == 0
    assert "threshold 0.2001" in out
    assert "3 rows labelled good; left out: 2 labelled 'dent' (1), '1' (1)" in err


def test_a_list_of_training_images_is_refused(brightness_model, calibrate, tmp_path):
    write(tmp_path / "data/train/good", [51, 51])
    (tmp_path / "list.txt").write_text("data/train/good/0.png\n", encoding="utf-8")
    code, _, err = calibrate(brightness_model, tmp_path / "list.txt")
    assert code == 1
    assert "too low" in err


# --- what it was before


def test_every_old_calibration_is_kept_and_can_be_gone_back_to(with_int8, calibrate, tmp_path):
    places = ["calibration.json", "exports/onnx-int8/calibration.json"]
    first = [(with_int8 / place).read_bytes() for place in places]
    good = write(tmp_path / "good", [51, 102, 153])
    _, kept = split(calibrate(with_int8, good)[1])
    second = [(with_int8 / place).read_bytes() for place in places]
    assert [(with_int8 / place).with_name(kept).read_bytes() for place in places] == first
    # Within the same second too, none is lost.
    _, other = split(calibrate(with_int8, "--max-false-alarm-rate", "0.5")[1])
    assert other != kept
    assert [(with_int8 / place).with_name(other).read_bytes() for place in places] == second
    code, out, err = calibrate(with_int8, "--restore", kept)
    assert (code, err) == (0, "")
    assert split(out)[0][0].startswith("threshold 0.3001 (was 0.4001)")
    values = [json.loads((with_int8 / place).read_bytes()) for place in places]
    assert values == [json.loads(content) for content in first]
    assert len(list(with_int8.glob("calibration.until-*.json"))) == 3
    assert load(with_int8, backend="onnx-int8").calibration.threshold == pytest.approx(0.1501)


@pytest.mark.parametrize("name", ["", ".", "calibration.json", "manifest.json"])
def test_going_back_to_what_was_not_kept_is_refused(name, with_int8, calibrate):
    before = files(with_int8)
    code, _, err = calibrate(with_int8, "--restore", name)
    assert (code, files(with_int8)) == (1, before)
    assert f"expected a kept calibration, got {name!r}; there is none" in err


def test_going_back_to_nothing_or_to_another_model_is_refused(with_int8, calibrate):
    before = files(with_int8)
    code, _, err = calibrate(with_int8, "--restore", "calibration.until-1.json")
    assert code == 1
    assert "got 'calibration.until-1.json'; there is none" in err
    values = json.loads((with_int8 / "calibration.json").read_text())
    for name, changed in (("1", {"weights_sha256": "f" * 64}), ("2", {"scores": []})):
        path = with_int8 / f"calibration.until-{name}.json"
        path.write_text(json.dumps(values | changed), encoding="utf-8")
        assert calibrate(with_int8, "--restore", path.name)[0] == 1
        path.unlink()
    assert calibrate(with_int8, "--restore", "x", "--max-false-alarm-rate", "0.5")[0] == 2
    assert files(with_int8) == before


def test_a_new_training_leaves_no_calibration_of_the_old_weights(brightness_model, calibrate):
    from destseg.inference.bundle import save_bundle

    assert calibrate(brightness_model, "--max-false-alarm-rate", "0.5")[0] == 0
    assert list(brightness_model.glob("calibration.*"))
    save_bundle(brightness_model, load_bundle(brightness_model).settings, {}, {})
    assert not list(brightness_model.glob("calibration.*"))


# --- by groups


def days(folder: Path) -> Path:
    write(folder / "monday", [51, 53, 55])
    write(folder / "tuesday", [60, 102])
    return folder


def test_the_scores_of_each_day_and_what_they_guarantee_are_told(
    brightness_model, calibrate, tmp_path
):
    good = days(tmp_path / "days")
    code, out, err = calibrate(
        brightness_model, good, "--group-by", "folder", "--max-false-alarm-rate", "0.5"
    )
    assert code == 0
    # Allowed are 0.5 * 3 - 1 votes above: one of tuesday's two.
    assert split(out)[0] == [
        "threshold 0.2354 (was 0.3001), at most 50.00% false alarms in the mean, for a new image "
        "of a new group, from 5 good images of 2 groups",
        "  group    images  median score  highest",
        "  monday        3        0.2078   0.2157",
        "  tuesday       2        0.3176   0.4000",
        f"  set by {good / 'tuesday/0.png'}",
    ]
    assert err == ""
    after = load_bundle(brightness_model).calibration
    assert after.groups == ("monday",) * 3 + ("tuesday",) * 2
    assert after.group_by == "folder"
    # The p-value is by groups too: half of tuesday's images are as bright.
    assert load(brightness_model).predict(np.full((64, 64, 3), 100, np.uint8)).p_value == 0.5


def test_another_day_is_added_to_every_form(with_int8, calibrate, tmp_path):
    good = days(tmp_path / "days")
    calibrate(with_int8, good, "--group-by", "folder")
    new = write(good / "wednesday", [153])
    code, out, err = calibrate(with_int8, new, "--add")  # grouped as it was
    assert code == 0
    assert "threshold 0.6001 (was 0.4001)" in out
    assert "onnx-int8: threshold 0.3001 (was 0.2001)" in out
    assert "from 6 good images of 3 groups" in out
    assert "  wednesday       1        0.6000   0.6000" in out
    assert err == ""  # 3 groups are enough for the 25 % of this model
    bundle = load_bundle(with_int8)
    assert bundle.calibration.groups[-1] == "wednesday"
    assert load_export(bundle, "onnx-int8").calibration.groups == bundle.calibration.groups
    code, _, err = calibrate(with_int8, new, "--add")
    assert code == 1
    assert "expected images that are not in the calibration yet, got 1" in err
    _, kept = split(out)
    assert calibrate(with_int8, "--restore", kept)[0] == 0
    assert len(load_bundle(with_int8).calibration.scores) == 5


def test_images_are_added_without_groups_too(brightness_model, calibrate, tmp_path):
    code, out, err = calibrate(brightness_model, write(tmp_path / "good", [153]), "--add")
    assert (code, err) == (0, "")
    assert "threshold 0.6001 (was 0.3001)" in out
    assert "from 4 good images\n" in out
    assert "new group" not in out


def test_one_day_alone_is_told_once_and_in_plain_words(brightness_model, calibrate, tmp_path):
    good = write(tmp_path / "monday", [51, 102])
    code, out, err = calibrate(brightness_model, good, "--group-by", "folder")
    assert code == 0
    assert "from 2 good images of 1 group\n" in out
    assert err.count("note:") == 1
    assert "all calibration images are of one group, monday, so the threshold knows nothing" in err
    assert "50.00%, not of 25.00%, which takes 3 groups" in err
    # Nobody who did not ask is told.
    assert calibrate(brightness_model, good, "--group-by", "image")[2] == (
        "destseg: note: with 2 calibration images the threshold guarantees a false-alarm rate of "
        "33.33%, not of 25.00%, which takes 3: give 1 more good image, or accept a "
        "higher --max-false-alarm-rate.\n"
    )


def test_a_day_of_several_cameras_is_added_by_a_list(brightness_model, calibrate, tmp_path):
    """Given by itself its folder is called cam, like that of any other day."""
    days = tmp_path / "days"
    for number, day in enumerate(("mon", "tue")):
        write(days / day / "cam", [51 + number, 60 + number])
    assert calibrate(brightness_model, days, "--group-by", "folder")[0] == 0
    write(days / "wed" / "cam", [70, 80])
    for source in (days / "wed", days / "wed" / "cam"):
        code, _, err = calibrate(brightness_model, source, "--add")
        assert code == 1
        assert "got cam, which may be mon/cam in it" in err
    (days / "wed.txt").write_text("wed/cam/0.png\nwed/cam/1.png\n")
    code, out, _ = calibrate(brightness_model, days / "wed.txt", "--add")
    assert code == 0
    assert "from 6 good images of 3 groups" in out
    assert "wed/cam" in out


def test_more_of_a_folder_that_is_there_is_told(brightness_model, calibrate, tmp_path):
    """Another folder can have the same name, and nobody else can know."""
    for number, place in enumerate("ab"):
        write(tmp_path / place / "cam", [51 + number, 60 + number])
    assert calibrate(brightness_model, tmp_path / "a/cam", "--group-by", "folder")[0] == 0
    code, out, err = calibrate(brightness_model, tmp_path / "b/cam", "--add")
    assert code == 0
    assert "from 4 good images of 1 group\n" in out
    assert "folders called as in the calibration count as the same groups: cam" in err


@pytest.mark.parametrize("add", [[], ["--add"]])
def test_other_images_of_a_group_that_was_trained_on_are_refused(
    add, brightness_model, calibrate, tmp_path
):
    calibrate(brightness_model, days(tmp_path / "days"), "--group-by", "folder")
    manifest = json.loads((brightness_model / "manifest.json").read_text())
    manifest["training"]["learned_groups"] = {"group_by": "folder", "names": ["sunday", "2025/mon"]}
    (brightness_model / "manifest.json").write_text(json.dumps(manifest))
    before = files(brightness_model)
    for name in ("sunday", "mon"):
        source = write(tmp_path / "more" / name, [70, 80])
        code, _, err = calibrate(brightness_model, source, *add)
        assert code == 1
        assert f"got 1 of 1 groups that it was: {name}. Images" in err
        assert files(brightness_model) == before
    write(tmp_path / "more" / "monday", [90])
    code, _, err = calibrate(brightness_model, tmp_path / "more", *add)
    assert "got 2 of 3 groups that it was: mon, sunday" in err
    assert calibrate(brightness_model, tmp_path / "more/monday", *add)[0] == 0
    # By something else they are other groups.
    assert calibrate(brightness_model, source, "--group-by", "image")[0] == 0


def test_images_that_may_look_like_earlier_ones_are_not_added(
    brightness_model, calibrate, tmp_path
):
    good = write(tmp_path / "good", [51, 102])
    assert calibrate(brightness_model, good, "--group-by", "alike")[0] == 0
    before = files(brightness_model)
    code, _, err = calibrate(brightness_model, write(tmp_path / "more", [51, 153]), "--add")
    assert code == 2
    assert "--add: expected groups that are known by their names, got --group-by alike" in err
    assert files(brightness_model) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--add"], "expected GOOD images with them"),
        (["--group-by", "folder"], "expected GOOD images with them"),
        (["{good}", "--group-by", "lot"], "--group-by: expected image, folder, day"),
        (["{good}", "--group-by", "day"], "DateTimeOriginal"),
        (["{good}", "--group-by", "column:lot"], "a list with a column 'lot'"),
    ],
)
def test_groups_that_are_not_known_move_no_threshold(words, reason, with_int8, calibrate, tmp_path):
    good = write(tmp_path / "good", [51, 102])
    before = files(with_int8)
    code, out, err = calibrate(with_int8, *(word.format(good=good) for word in words))
    assert code in (1, 2)
    assert out == ""
    assert reason in err
    assert files(with_int8) == before


def test_of_very_many_groups_those_that_score_highest_are_shown(
    brightness_model, calibrate, tmp_path
):
    for day in range(40):
        write(tmp_path / f"days/{day:02}", [100 + day])
    _, out, _ = calibrate(brightness_model, tmp_path / "days", "--group-by", "folder")
    lines = split(out)[0]
    assert lines[2].split()[0] == "10"
    assert lines[-2:-1] == ["  and 10 more groups with lower highest scores"]


def test_every_command_says_what_a_guarantee_by_groups_is_about(
    brightness_model, calibrate, tmp_path, capsys
):
    good = days(tmp_path / "days")
    calibrate(brightness_model, good, "--group-by", "folder", "--max-false-alarm-rate", "0.5")
    write(tmp_path / "set/test/good", [51, 52])
    write(tmp_path / "set/test/dent", [200, 210])
    for words, told in (
        (["evaluate", brightness_model, tmp_path / "set"], "to at most 50.00% false alarms {}:"),
        (["drift", brightness_model, good], "at most 50.00% are expected ({})"),
    ):
        capsys.readouterr()
        main(list(map(str, words)))
        said = " ".join(capsys.readouterr().out.split())  # lines end where the terminal does
        assert told.format("for a new image of a new group") in said


@pytest.mark.parametrize("backend", ["onnx-int8", "auto"])
def test_an_int8_backend_gives_fp32_no_threshold(with_int8, tmp_path, calibrate, backend):
    good = write(tmp_path / "good", [20, 40, 60])
    code, _, complaint = calibrate(with_int8, good, "--backend", backend)
    assert (code, complaint) == (0, "")
    bundle = load_bundle(with_int8)
    expected = [20 / 255, 40 / 255, 60 / 255]
    assert bundle.calibration.scores == pytest.approx(expected)
    halves = [score / 2 for score in expected]
    assert load_export(bundle, "onnx-int8").calibration.scores == pytest.approx(halves)


def test_an_int8_predictor_stands_for_what_it_was_made_from(with_int8, tmp_path):
    good = write(tmp_path / "good", [20, 40, 60])
    destseg.calibrate(load(with_int8, backend="onnx-int8"), good)
    assert load_bundle(with_int8).calibration.scores[-1] == pytest.approx(60 / 255)


def test_an_image_counts_once_whatever_it_is_called(
    brightness_model, runtimes, tmp_path, calibrate
):
    good = write(tmp_path / "good", [20, 40, 60])
    (good / "copy.png").write_bytes((good / "0.png").read_bytes())
    code, _, complaint = calibrate(brightness_model, good)
    assert code == 0
    assert "the same image as another, so it does not count" in complaint
    assert load_bundle(brightness_model).calibration.scores == pytest.approx(
        [20 / 255, 40 / 255, 60 / 255]
    )
    other = write(tmp_path / "other", [80])
    (other / "again.png").write_bytes((good / "1.png").read_bytes())
    code, _, complaint = calibrate(brightness_model, other, "--add")
    assert code == 1
    assert "not in the calibration yet, got 1 that are" in complaint
    assert "again.png" in complaint


def test_images_count_once_where_those_of_before_are_not_known_by_content(
    brightness_model, runtimes, tmp_path, calibrate
):
    """Nobody knew contents then; the new ones are known all the same."""
    assert load_bundle(brightness_model).calibration.image_sha256 is None
    good = write(tmp_path / "good", [20, 40])
    assert calibrate(brightness_model, good, "--add")[0] == 0
    after = load_bundle(brightness_model).calibration
    assert sorted(after.image_sha256)[:3] == ["", "", ""]
    assert len(set(after.image_sha256)) == 3
    again = tmp_path / "again"
    again.mkdir()
    (again / "other.png").write_bytes((good / "0.png").read_bytes())
    code, _, complaint = calibrate(brightness_model, again, "--add")
    assert code == 1
    assert "not in the calibration yet, got 1 that are" in complaint
    assert load_bundle(brightness_model).calibration == after


def test_what_something_else_calibrated_meanwhile_is_not_written_over(
    with_int8, runtimes, tmp_path
):
    monday, tuesday = (write(tmp_path / day, [red]) for day, red in (("a", 20), ("b", 40)))
    begun = []

    def meanwhile(*_):
        if not begun:
            begun.append(True)
            destseg.calibrate(with_int8, tuesday, add=True)

    with pytest.raises(DataError, match="something else has calibrated the model meanwhile"):
        destseg.calibrate(with_int8, monday, add=True, on_progress=meanwhile)
    assert len(load_bundle(with_int8).calibration.scores) == 4
    destseg.calibrate(with_int8, monday, add=True)
    assert len(load_bundle(with_int8).calibration.scores) == 5


@pytest.mark.parametrize("number", [0, 2])
def test_an_image_that_is_replaced_meanwhile_sets_no_threshold(
    number, with_int8, runtimes, tmp_path
):
    good = write(tmp_path / "good", [20, 40, 60])
    replaced, before = good / f"{number}.png", files(with_int8)

    def meanwhile(done, _):
        if done == 1:
            Image.fromarray(np.full((9, 9, 3), 70, np.uint8)).save(replaced)

    with pytest.raises(ImageError, match=r"written or taken away since.*calibrate") as caught:
        destseg.calibrate(with_int8, good, on_progress=meanwhile)
    assert caught.value.path == str(replaced)
    assert files(with_int8) == before


def test_what_a_killed_process_left_half_written_the_same_command_ends(
    with_int8, runtimes, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    good = write(tmp_path / "good", [20, 40])
    with monkeypatch.context() as patched:
        patched.setattr("destseg.inference.recalibration.save_calibration", killed)
        with pytest.raises(KeyboardInterrupt):
            destseg.calibrate(with_int8, good, add=True)
    bundle = load_bundle(with_int8)
    assert len(bundle.calibration.scores) == 3
    assert len(load_export(bundle, "onnx-int8").calibration.scores) == 5
    done = destseg.calibrate(with_int8, good, add=True)
    assert {len(each.scores) for each in done.after.values()} == {5}
    assert len(load_bundle(with_int8).calibration.scores) == 5


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_while_calibrations_are_written_takes_effect_when_all_are(
    with_int8, runtimes, tmp_path, monkeypatch, calibrate
):
    from destseg.inference.recalibration import save_calibration

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return save_calibration(*given)

    good = write(tmp_path / "good", [20, 40])
    monkeypatch.setattr("destseg.inference.recalibration.save_calibration", interrupted)
    code, _, told = calibrate(with_int8, good, "--add")
    assert (code, told) == (143, "destseg: stopped by SIGTERM\n")
    bundle = load_bundle(with_int8)
    assert len(bundle.calibration.scores) == 5
    assert len(load_export(bundle, "onnx-int8").calibration.scores) == 5


def test_figures_of_the_old_threshold_are_named(brightness_model, calibrate):
    for name in ("metrics.json", "report.html"):
        (brightness_model / name).write_text("{}", encoding="utf-8")
    code, _, told = calibrate(brightness_model, "--max-false-alarm-rate", 0.5)
    assert code == 0
    assert "metrics.json, report.html: still of the old threshold" in told


def test_images_that_the_model_learned_from_are_refused(
    brightness_model, runtimes, tmp_path, calibrate
):
    good = write(tmp_path / "good", [20, 40, 60])
    manifest = brightness_model / "manifest.json"
    content = json.loads(manifest.read_text())
    content["training"]["learned_sha256"] = [sha256_of(good / "1.png")]
    manifest.write_text(json.dumps(content))
    before = load_bundle(brightness_model).calibration
    code, _, complaint = calibrate(brightness_model, good)
    assert code == 1
    assert "the model was not trained on, got 1 of 3 that it was" in complaint
    assert load_bundle(brightness_model).calibration == before
    with pytest.raises(DataError, match="got 1 of 3 that it was"):
        destseg.qualify(brightness_model, good)
