"""Exported forms on disk: whole, unchanged and of the right weights, or refused."""

import json
from dataclasses import replace

import pytest

from destseg.config import Settings
from destseg.errors import BundleError
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import TOLERANCE, Calibration
from destseg.inference.exports import (
    bundle_for,
    find_exports,
    load_export,
    save_export,
    save_export_calibration,
)

FILES = {"model.xml": b"<net/>", "model.bin": b"\x00\x01"}


@pytest.fixture
def bundle(tmp_path):
    settings = Settings.from_preset(image_size=64)
    saved = save_bundle(tmp_path / "model", settings, {}, {})
    calibration_images = Calibration.fit(
        [0.1, 0.2], [0.3, 0.4], ["a", "b"], settings, saved.weights_sha256
    )
    return save_calibration(saved, calibration_images)


def own_calibration(bundle, export, scores=(0.5, 0.6)):
    return Calibration.fit(scores, scores, ["a", "b"], bundle.settings, export.sha256)


def test_what_is_saved_is_loaded(bundle):
    saved = save_export(bundle, "openvino", FILES, {"precision": "fp32"})
    loaded = load_export(bundle, "openvino")
    assert (loaded.files, loaded.sha256) == (saved.files, saved.sha256)
    assert loaded.model == bundle.folder / "exports" / "openvino" / "model.xml"
    assert loaded.read() == FILES
    assert loaded.facts["precision"] == "fp32"
    assert loaded.calibration is None


def test_forms_are_found_in_their_order(bundle):
    assert find_exports(bundle) == []
    for name in ("onnx-int8", "onnx", "openvino"):
        save_export(bundle, name, FILES, {})
    assert find_exports(bundle) == ["openvino", "onnx", "onnx-int8"]


def test_a_form_is_replaced_as_a_whole(bundle):
    save_export(bundle, "openvino", {**FILES, "old": b""}, {})
    save_export(bundle, "openvino", FILES, {})
    names = sorted(path.name for path in (bundle.folder / "exports" / "openvino").iterdir())
    assert names == ["export.json", "model.bin", "model.xml"]
    assert [path.name for path in (bundle.folder / "exports").iterdir()] == ["openvino"]


def test_a_failure_on_the_way_keeps_the_old_form(bundle, monkeypatch):
    save_export(bundle, "openvino", FILES, {})
    writing = "destseg.inference.exports.write_atomically"

    def fail(path, content):
        if path.name == "model.bin":
            raise OSError("the disk is full")

    monkeypatch.setattr(writing, fail)
    with pytest.raises(BundleError, match="the disk is full"):
        save_export(bundle, "openvino", {"model.xml": b"new", "model.bin": b"new"}, {})
    assert load_export(bundle, "openvino").model.read_bytes() == FILES["model.xml"]
    assert [path.name for path in (bundle.folder / "exports").iterdir()] == ["openvino"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_refused(name, bundle):
    path = save_export(bundle, "openvino", FILES, {}).folder / name
    path.write_bytes(FILES[name] + b"!")
    with pytest.raises(BundleError, match=f"{name}: expected SHA-256"):
        load_export(bundle, "openvino")
    path.unlink()
    with pytest.raises(BundleError, match=r"destseg export .* --to openvino"):
        load_export(bundle, "openvino")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changes_after_it_was_checked_is_not_read(name, bundle):
    form = save_export(bundle, "openvino", FILES, {})
    (form.folder / name).write_bytes(FILES[name] + b"!")
    with pytest.raises(BundleError, match=rf"{name}: expected SHA-256 .* Copy the bundle again\.$"):
        form.read()
    (form.folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: expected a file of an exported model, got No"):
        form.read()


def test_a_missing_form_says_how_to_make_it(bundle):
    with pytest.raises(BundleError, match=r"as onnx, got none.* export .* --to onnx"):
        load_export(bundle, "onnx")
    with pytest.raises(BundleError, match=r"quantize .* DATA --to openvino"):
        load_export(bundle, "openvino-int8")


def test_a_form_of_other_weights_is_refused(bundle):
    save_export(bundle, "onnx", FILES, {})
    with pytest.raises(BundleError, match="from other weights"):
        load_export(replace(bundle, weights_sha256="0" * 64), "onnx")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        *(f'{{"format": 1, "files": {f}, "source_sha256": ""}}' for f in ("3", "{}")),
    ],
)
def test_a_damaged_record_is_refused(content, bundle):
    folder = save_export(bundle, "onnx", FILES, {}).folder
    (folder / "export.json").write_text(content)
    with pytest.raises(BundleError, match="expected an exported model"):
        load_export(bundle, "onnx")


def test_another_format_is_refused(bundle):
    path = save_export(bundle, "onnx", FILES, {}).folder / "export.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(BundleError, match=r"format 1, got 99.*Make it with: destseg export"):
        load_export(bundle, "onnx")


def test_a_quantised_form_brings_its_own_threshold(bundle):
    form = save_export(bundle, "onnx-int8", FILES, {})
    with pytest.raises(BundleError, match="no calibration of its own"):
        bundle_for(bundle, "onnx-int8")
    save_export_calibration(form, own_calibration(bundle, form))
    assert bundle_for(bundle, "onnx-int8").calibration.threshold == 0.6 + TOLERANCE
    assert bundle_for(bundle, "onnx") is bundle


def test_a_calibration_of_another_form_is_refused(bundle):
    form = save_export(bundle, "onnx-int8", FILES, {})
    other = own_calibration(bundle, form)
    form = save_export(bundle, "onnx-int8", {"model.onnx": b"other"}, {}, other)
    with pytest.raises(BundleError, match="another model or other settings"):
        load_export(bundle, "onnx-int8")
