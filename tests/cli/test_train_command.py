import json
import shutil

import pytest

import destseg
from conftest import write_category
from destseg.cli.main import main
from destseg.config import Settings
from destseg.inference.bundle import load_bundle


def words(parts, output, settings_file, *more: str) -> list[str]:
    return ["train", str(parts), "--output", str(output), "--settings", str(settings_file), *more]


def test_a_run_leaves_a_model_with_the_settings_that_it_used(trained, settings_file):
    settings = Settings.from_yaml(settings_file).replace(seed=7)
    assert Settings.from_yaml(trained / "settings.yaml") == settings
    bundle = load_bundle(trained)
    assert bundle.settings == settings
    assert bundle.calibration is not None
    assert len(bundle.calibration.scores) == bundle.training["calibration_images"] == 3
    assert bundle.training["images"] == 9
    names = sorted(path.name for path in trained.iterdir())
    assert names == [
        "calibration.json",
        "log.jsonl",
        "manifest.json",
        "settings.yaml",
        "weights.safetensors",
    ]


def test_the_log_has_every_step_of_all_phases(trained):
    lines = (trained / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if line["event"] == "step"]
    assert [(line["phase"], line["step"]) for line in steps] == [
        (phase, step) for phase in ("denoise", "segment") for step in (1, 2, 3)
    ]
    assert all(line["loss"] > 0 for line in steps)


def test_the_model_flags_no_calibration_image(trained, parts):
    predictor = destseg.load(trained, device="cpu")
    calibration_images = [parts / name for name in predictor.calibration.paths]
    results = predictor.predict(calibration_images)
    assert [result.is_defective for result in results] == [False] * 3
    assert sorted(result.score for result in results) == pytest.approx(
        list(predictor.calibration.scores), rel=1e-5
    )


def test_a_finished_run_is_not_replaced_unasked(trained, parts, settings_file, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert main(words(parts, trained, settings_file)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert str(trained) in err
    assert "--overwrite" in err
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_resuming_a_finished_run_changes_nothing(trained, parts, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert main(["train", str(parts), "--output", str(trained), "--resume"]) == 0
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_the_same_seed_gives_the_same_model_and_overwriting_replaces_it(
    trained, parts, settings_file, tmp_path, capsys
):
    copy = tmp_path / "model"
    shutil.copytree(trained, copy)
    assert main(words(parts, copy, settings_file, "--overwrite", "--seed", "7", "--quiet")) == 0
    assert capsys.readouterr().err == ""
    assert load_bundle(copy).weights_sha256 == load_bundle(trained).weights_sha256
    assert main(words(parts, copy, settings_file, "--overwrite", "--seed", "8", "--quiet")) == 0
    assert load_bundle(copy).weights_sha256 != load_bundle(trained).weights_sha256


def test_resuming_nothing_is_an_error(parts, settings_file, tmp_path, capsys):
    code = main(words(parts, tmp_path / "model", settings_file, "--resume"))
    err = capsys.readouterr().err
    assert code == 1
    assert str(tmp_path / "model") in err
    assert "Traceback" not in err


def test_both_resume_and_overwrite_make_no_sense(parts, settings_file, tmp_path, capsys):
    code = main(words(parts, tmp_path / "model", settings_file, "--resume", "--overwrite"))
    assert code == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "empty", "too few"])
def test_data_that_cannot_be_trained_on_is_an_error(kind, parts, settings_file, tmp_path, capsys):
    data = tmp_path / "data"
    if kind != "missing":
        data.mkdir()
    if kind == "too few":
        shutil.copy(parts / "000.png", data)
    assert main(words(data, tmp_path / "model", settings_file)) == 1
    err = capsys.readouterr().err
    assert str(data) in err
    assert "Traceback" not in err


def test_unreadable_images_stop_the_run_unless_they_may_be_skipped(
    parts, settings_file, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(parts, data)
    for name in ("a.png", "b.png"):
        (data / name).write_bytes(b"words")
    assert main(words(data, tmp_path / "model", settings_file)) == 1
    err = capsys.readouterr().err
    assert str(data / "a.png") in err
    assert str(data / "b.png") in err
    assert "--skip-unreadable" in err
    assert main(words(data, tmp_path / "again", settings_file, "--skip-unreadable", "--quiet")) == 0
    assert load_bundle(tmp_path / "again").training["images"] == 9


def test_an_output_that_cannot_be_a_folder_is_an_error(parts, settings_file, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in ("file", "file/model"):
        assert main(words(parts, tmp_path / output, settings_file)) == 1
        err = capsys.readouterr().err
        assert str(tmp_path / output) in err
        assert "Traceback" not in err


def test_the_help_opens_with_the_flags_that_most_people_need(capsys):
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: destseg train DATA --output DIR [flags]"
    assert lines[1] == ""  # no wall of flags
    flags = [line.split()[0].strip(",") for line in lines if line.startswith("  -")]
    assert flags[0] == "-h"
    assert set(flags[1:7]) == {
        *("--output", "--image-size", "--rotation", "--quarter-turns", "--roi"),
        "--max-false-alarm-rate",
    }
    assert len(flags) == len(set(flags)) > 40


def test_known_defects_and_an_ancestor_by_their_flags(
    parts, tiny_settings, tiny_teacher_weights, tmp_path, capsys
):
    bad = write_category(tmp_path / "category", 3)
    (bad / "test/hole").rename(bad / "hole")
    (tmp_path / "bad").mkdir()
    (bad / "hole").rename(tmp_path / "bad/hole")
    (bad / "ground_truth").rename(tmp_path / "bad/ground_truth")
    tiny = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    (tmp_path / "settings.yaml").write_text(tiny.to_yaml())
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    given = ["--settings", str(tmp_path / "settings.yaml")]
    assert main(["train", str(parts), "--output", first, *given, "--quiet"]) == 0
    capsys.readouterr()
    words = ["--from", first, "--defects", str(tmp_path / "bad"), "--accept-losses"]
    flags = ["--defect-fraction", "0.5", "--segment-steps", "2"]
    assert main(["train", str(parts), "--output", second, *words, *flags]) == 0
    told = capsys.readouterr().err
    assert "2 known defects to learn from, 0 only to measure: hole (2 + 0)" in told
    assert "beside the model that it goes on from: of 2 known defects" in told
    settings = load_bundle(tmp_path / "second").settings
    assert settings == tiny.replace(
        defect_fraction=0.5,
        segment_steps=2,
        lr_head=tiny.training.lr_head / 2,
        lr_head_blocks=tiny.training.lr_head_blocks / 2,
    )
    assert main(["train", str(parts), "--output", second, "--accept-losses", "--overwrite"]) == 2
    assert "--accept-losses: expected --from BUNDLE" in capsys.readouterr().err
