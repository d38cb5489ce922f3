import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import destseg
from destseg.config import Settings
from destseg.errors import BundleError, DataError
from destseg.inference import bundle as bundle_module
from destseg.inference.bundle import (
    CALIBRATION,
    FORMAT,
    MANIFEST,
    WEIGHTS,
    Bundle,
    load_bundle,
    save_bundle,
    save_calibration,
)
from destseg.inference.calibration import TOLERANCE, Calibration

SETTINGS = Settings.from_preset(
    "paper", image_size=96, score_fraction=0.02, seed=5, surface_width=8
)
ARRAYS = {
    "matrix": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 2), np.float32),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "stepped": np.arange(20, dtype=np.float32)[::3],
    "backwards": np.arange(5, dtype=np.float32)[::-1],
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
}


def calibration_of(bundle: Bundle) -> Calibration:
    return Calibration.fit(
        [0.3, 0.1], [0.4, 0.5], ["a", "b"], bundle.settings, bundle.weights_sha256
    )


def save(folder: Path, weights=ARRAYS, settings: Settings = SETTINGS) -> Bundle:
    saved = save_bundle(folder, settings, weights, {"minutes": 1.5, "calibration_images": 2})
    return save_calibration(saved, calibration_of(saved))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **entries: object) -> None:
    """Change entries of a JSON file; ``...`` takes one out."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(entries)
    content = {name: value for name, value in content.items() if value is not ...}
    path.write_text(json.dumps(content), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder).weights()
    return str(caught.value)


def test_what_is_saved_is_loaded(tmp_path):
    saved = save(tmp_path / "deep" / "model")
    for loaded in (load_bundle(tmp_path / "deep" / "model"), load_bundle(str(saved.folder))):
        assert loaded == saved
        assert loaded.settings == SETTINGS
        assert loaded.calibration == calibration_of(saved)
        assert loaded.training == {"minutes": 1.5, "calibration_images": 2}


def test_arrays_of_every_layout_come_back_the_same(folder):
    weights = load_bundle(folder).weights()
    assert set(weights) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        assert weights[name].dtype == expected.dtype
        assert weights[name].shape == expected.shape
        np.testing.assert_array_equal(weights[name], expected)


def test_the_files_are_plain_json_and_safetensors_with_the_hash(folder):
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert manifest["weights_sha256"] == digest
    assert manifest["format"] == FORMAT == 1
    assert manifest["destseg"] == destseg.__version__
    assert Settings.from_dict(manifest["settings"]) == SETTINGS
    calibration = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    assert calibration["weights_sha256"] == digest
    assert set(safetensors.numpy.load_file(folder / WEIGHTS)) == set(ARRAYS)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [MANIFEST, WEIGHTS, CALIBRATION]
    )


def test_equal_weights_give_equal_files(tmp_path):
    first, second = save(tmp_path / "a"), save(tmp_path / "b", dict(reversed(ARRAYS.items())))
    assert first.weights_sha256 == second.weights_sha256


def test_a_moved_bundle_is_as_good(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(folder)
    assert load_bundle(tmp_path / "elsewhere").weights()["scalar"] == 7


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_others_may_read_it_where_the_umask_says_so(tmp_path):
    before = os.umask(0o022)
    try:
        save(tmp_path / "model")
    finally:
        os.umask(before)
    for path in (tmp_path / "model").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path


@pytest.mark.parametrize("where", [0, 9, -1])
def test_one_changed_byte_of_the_weights_is_refused(where, folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[where] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    load_bundle(folder)  # only the manifest: inspecting a bundle stays quick
    message = refusal(folder)
    assert str(folder / WEIGHTS) in message
    assert "changed or damaged" in message
    assert hashlib.sha256(content).hexdigest()[:12] in message


def test_weights_that_are_no_safetensors_are_refused_even_with_the_right_hash(folder):
    (folder / WEIGHTS).write_bytes(b"words")
    digest = hashlib.sha256(b"words").hexdigest()
    change(folder / MANIFEST, weights_sha256=digest)
    change(folder / CALIBRATION, weights_sha256=digest)
    assert f"{folder / WEIGHTS}: expected safetensors" in refusal(folder)


def test_weights_from_another_bundle_are_refused(folder, tmp_path):
    other = save(tmp_path / "other", {"matrix": np.zeros(3, np.float32)})
    shutil.copy(other.folder / WEIGHTS, folder / WEIGHTS)
    assert "changed or damaged" in refusal(folder)


def test_a_calibration_from_another_bundle_is_refused(folder, tmp_path):
    other = save(tmp_path / "other", {"matrix": np.zeros(3, np.float32)})
    shutil.copy(other.folder / CALIBRATION, folder / CALIBRATION)
    message = refusal(folder)
    assert "weights_sha256" in message
    assert "image_size" not in message


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("data", "image_size", 64), ("model", "consensus", 0.5), ("decision", "score_fraction", 0.5)],
)
def test_settings_changed_by_hand_are_refused_where_the_threshold_depends_on_them(
    group, name, value, folder
):
    settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["settings"]
    settings[group][name] = value
    change(folder / MANIFEST, settings=settings)
    assert name in refusal(folder)


def test_a_model_of_before_there_was_a_consensus_has_none(folder):
    settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["settings"]
    assert settings["model"].pop("consensus") > 0
    change(folder / MANIFEST, settings=settings)
    assert "consensus: calibrated for 0.25, the model has 0.0" in refusal(folder)
    calibration = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    del calibration["consensus"]
    (folder / CALIBRATION).write_text(json.dumps(calibration), encoding="utf-8")
    assert load_bundle(folder).settings.model.consensus == 0
    # What a user leaves out is as in the preset of today.
    assert Settings.from_dict(settings).model.consensus == 0.25


def test_the_false_alarm_rate_may_be_changed_in_the_calibration(folder):
    change(folder / CALIBRATION, max_false_alarm_rate=0.9)
    calibration = load_bundle(folder).calibration
    assert calibration is not None
    assert calibration.threshold == 0.1 + TOLERANCE


def test_another_format_is_refused_with_who_wrote_it(folder):
    change(folder / MANIFEST, format=FORMAT + 1, destseg="9.8.7", settings={"from": "later"})
    message = refusal(folder)
    assert "expected format 1, got 2" in message
    assert "9.8.7" in message
    assert "Use that version" in message


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION])
def test_a_missing_file_is_named_with_what_to_do(name, folder):
    (folder / name).unlink()
    message = refusal(folder)
    assert str(folder / name) in message
    assert "Copy the bundle again" in message
    assert "--resume" in message


def test_a_folder_without_a_manifest_is_no_bundle(folder, tmp_path):
    (folder / MANIFEST).unlink()
    assert MANIFEST in refusal(folder)
    assert "--resume" in refusal(folder)
    assert "no such folder" in refusal(tmp_path / "nothing")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert str(tmp_path / "file") in refusal(tmp_path / "file")


@pytest.mark.parametrize("name", [MANIFEST, CALIBRATION])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"words", b"\xff\xfe\x00", b"[]", b"3", b"null", b'"text"', b"{}"]
)
def test_a_file_that_is_not_ours_is_refused_by_name(name, content, folder):
    (folder / name).write_bytes(content)
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", ["format", "weights_sha256", "settings", "training"])
@pytest.mark.parametrize("value", [..., None, "words", [1]])
def test_a_manifest_with_a_wrong_entry_is_refused(name, value, folder):
    change(folder / MANIFEST, **{name: value})
    if name == "weights_sha256" and value is not ...:
        assert name in refusal(folder)  # then the calibration is another model's
    else:
        assert str(folder / MANIFEST) in refusal(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"data": {"image_size": 65}},
        {"data": {"colour": 1}},
        {"data": 3},
        {"preset": "newer"},
        {1: 2},
    ],
)
def test_a_manifest_with_settings_that_make_no_sense_is_refused(settings, folder):
    change(folder / MANIFEST, settings=settings)
    message = refusal(folder)
    assert str(folder / MANIFEST) in message
    assert "Copy the bundle again or train anew" in message


@pytest.mark.parametrize(
    "entries",
    [
        {"scores": ...},
        {"scores": None},
        {"scores": []},
        {"scores": [0.1]},
        {"scores": [0.3, 0.1]},
        {"scores": ["a", "b"]},
        {"scores": [None, None]},
        {"peaks": ["a", "b"]},
        {"max_false_alarm_rate": 0},
        {"max_false_alarm_rate": "1%"},
        {"weights_sha256": ...},
        {"paths": 5},
    ],
    ids=str,
)
def test_a_calibration_with_a_wrong_entry_is_refused(entries, folder):
    change(folder / CALIBRATION, **entries)
    message = refusal(folder)
    assert str(folder / CALIBRATION) in message
    assert "Copy the bundle again or train anew" in message


def test_the_new_replaces_the_old_whole(folder):
    saved = save_bundle(folder, SETTINGS, {"new": np.ones(2, np.float32)}, {})
    # Between the two steps of training there is a model without a threshold: refused.
    assert str(folder / CALIBRATION) in refusal(folder)
    save_calibration(saved, calibration_of(saved))
    assert set(load_bundle(folder).weights()) == {"new"}


@pytest.mark.parametrize("failing", [WEIGHTS, MANIFEST])
def test_an_interruption_leaves_a_folder_that_is_refused(failing, folder, monkeypatch):
    write = bundle_module.write_atomically

    def fail(path, content):
        if Path(path).name == failing:
            raise OSError("disk full")
        write(path, content)

    monkeypatch.setattr(bundle_module, "write_atomically", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(folder, SETTINGS, {"new": np.ones(2, np.float32)}, {})
    assert MANIFEST in refusal(folder)
    assert not (folder / CALIBRATION).exists()


def test_a_failing_replacement_leaves_no_manifest_and_no_litter(folder, monkeypatch):
    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"weights\.safetensors: expected a file .* got: no"):
        save_bundle(folder, SETTINGS, {"new": np.ones(2, np.float32)}, {})
    assert [path.name for path in folder.iterdir()] == [WEIGHTS]
