"""Mostly with runtimes of a few lines: fp32 sees every deviation from grey, INT8 may be blind."""

import functools
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg.exporting.int8 as int8
import destseg.exporting.quantize as module
from conftest import write_images
from destseg.config import Settings
from destseg.data.files import sha256_of
from destseg.data.roi import Roi
from destseg.errors import BundleError, DataError, ImageError, SettingsError
from destseg.evaluation.agreement import Agreement
from destseg.exporting.int8 import SCOPES
from destseg.exporting.quantize import quantize
from destseg.inference.bundle import load_bundle, save_bundle, save_calibration
from destseg.inference.calibration import TOLERANCE, Calibration
from destseg.inference.exports import bundle_for, find_exports, load_export, save_export
from destseg.inference.predictor import Predictor, load

CALIBRATION = ("002.png", "005.png", "011.png")
textures_once = functools.cache(int8.load_textures)


def grey(folder, count, size=(64, 64)):
    """Good parts: grey images, each a little lighter than the one before."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.full((*size, 3), 100 + number, np.uint8)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def sees(images):
    """Anomalies stand out from the grey of every good part."""
    return np.abs(images[..., 0].astype(np.float32) - 100) / 255


def blind(images):
    return np.full(images.shape[:3], 0.5, np.float32)


@pytest.fixture
def data(tmp_path):
    return grey(tmp_path / "data", 12)


@pytest.fixture
def bundle(tmp_path):
    """Exported to ONNX, with three of the twelve good parts for calibration."""
    return exported(tmp_path / "model")


def exported(folder, roi=None, **changes):
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25, **changes)
    saved = save_bundle(folder, settings, {}, {}, roi)
    scores = [2 / 255, 5 / 255, 11 / 255]
    calibration = Calibration.fit(scores, scores, CALIBRATION, settings, saved.weights_sha256)
    bundle = save_calibration(saved, calibration)
    save_export(bundle, "onnx", {"model.onnx": b"fp32"}, {})
    return bundle


@pytest.fixture
def runtimes(monkeypatch):
    """How much each scope sees, for a test to change, and with what images each was made."""
    kinds = {"all": sees, "convolutions": sees, "head": sees}
    asked = []

    def quantized(bundle, export, images, scope, *, vnni):
        asked.append((scope.name, images, vnni))
        return {"model.onnx": scope.name.encode()}

    def open_backend(bundle, runtime):
        content = load_export(bundle, runtime.backend).model.read_text()
        return sees if content == "fp32" else kinds[content]

    # Cutting the photographs takes longer than all the rest.
    monkeypatch.setattr(int8, "load_textures", textures_once)
    monkeypatch.setattr(module, "quantized", quantized)
    monkeypatch.setattr(module, "open_backend", open_backend)
    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    return kinds, asked


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what is written


def test_the_form_has_its_own_threshold_bound_to_its_own_files(bundle, data, runtimes):
    kinds, _ = runtimes
    kinds["all"] = lambda images: sees(images) / 2
    done = quantize(bundle, data, "onnx", count=4)
    form = load_export(load_bundle(bundle.folder), "onnx-int8")
    assert (form.sha256, form.calibration) == (done.sha256, done.calibration)
    assert form.calibration.weights_sha256 == form.sha256 != bundle.weights_sha256
    assert form.calibration.paths == CALIBRATION
    assert form.calibration.scores == pytest.approx([1 / 255, 2.5 / 255, 5.5 / 255])
    assert form.calibration.max_false_alarm_rate == 0.25
    assert bundle_for(bundle, "onnx-int8").calibration == form.calibration
    assert bundle_for(bundle, "onnx").calibration == bundle.calibration
    for backend, threshold in (("onnx", 11 / 255), ("onnx-int8", 5.5 / 255)):
        predictor = load(bundle.folder, backend=backend)
        assert predictor.calibration.threshold == pytest.approx(threshold + TOLERANCE)
    # At the threshold is good; this is exactly what the form itself gave.
    assert not load(bundle.folder, backend="onnx-int8").predict(data / "011.png").is_defective
    assert find_exports(bundle) == ["onnx", "onnx-int8"]


def test_the_form_has_the_room_of_the_model(bundle, data, runtimes):
    roomy = replace(bundle.calibration, room=0.25, anomalies=(0.5, 0.75))
    done = quantize(save_calibration(bundle, roomy), data, "onnx", count=4)
    assert (done.calibration.room, done.calibration.anomalies) == (0.25, (0.5, 0.75))
    limit = done.calibration.scores[-1] + TOLERANCE
    assert done.calibration.threshold == pytest.approx(limit + 0.25 * (0.5 - limit))


def test_what_was_measured_is_recorded(bundle, data, runtimes):
    steps = []
    done = quantize(bundle, data, "onnx", count=4, max_drop=0.5, vnni=True, on_step=steps.append)
    facts = json.loads((done.folder / "export.json").read_text())
    assert facts["precision"] == "int8"
    assert facts["scope"] == SCOPES[0].text
    assert (facts["vnni"], facts["images"], facts["max_drop"]) == (True, 4, 0.5)
    assert facts["synthetic"]["image_auroc"] == [1, 1]
    assert facts["synthetic"]["score_correlation"] == pytest.approx(1)
    assert facts["synthetic"]["other_decisions"] == facts["synthetic"]["p_value_difference"] == 0
    assert [{"scope": SCOPES[0].text, **facts["synthetic"]}] == facts["tried"]
    assert all(value > 0 for value in facts["milliseconds"])
    assert "labelled" not in facts
    assert steps == [
        f"quantising {SCOPES[0].text}",
        "comparing it with fp32 on good images and synthetic anomalies",
    ]


# --- which images


@pytest.mark.parametrize("count", [2, 3, 4, 64])
def test_ranges_judgement_and_threshold_have_no_image_in_common(
    count, bundle, data, runtimes, monkeypatch
):
    _, asked = runtimes
    taken = []
    original = module.good_and_anomalous

    def good_and_anomalous(paths, *rest, **options):
        taken.append([path.name for path in paths])
        return original(paths, *rest, **options)

    monkeypatch.setattr(module, "good_and_anomalous", good_and_anomalous)
    done = quantize(bundle, data, "onnx", count=count)
    ranges, judged = taken
    others = [path.name for path in sorted(data.iterdir()) if path.name not in CALIBRATION]
    sets = [*ranges, *judged, *done.calibration.paths]
    assert len(sets) == len(set(sets))
    assert set(ranges + judged) <= set(others)
    # At most half of the nine for the ranges; the others judge, up to two times as many.
    assert len(ranges) == min(count, 4)
    assert len(judged) == min(2 * count, 9 - len(ranges))
    assert (done.facts["images"], done.facts["compared_on"]) == (len(ranges), len(judged))
    # From the beginning to the end, not the first ones.
    for chosen in (ranges, judged):
        places = [others.index(name) for name in chosen]
        assert places == sorted(places)
        assert places[0] <= 1
        assert places[-1] >= 4
    ((_, images, vnni),) = asked
    # The good ones, the first, third, ..., show which images they are.
    assert [image[0, 0, 0] - 100 for image in images[::2]] == [
        int(name[:3]) for name in ranges[::2]
    ]
    assert vnni is False


def test_what_is_added_to_an_image_is_not_judged(tmp_path, data, runtimes):
    """Images of 32 x 64 lie in the upper half of 64 x 64."""

    def raves_below(images):
        maps = sees(images)
        maps[:, 32:] = 1
        return maps

    for path in data.iterdir():
        Image.open(path).crop((0, 0, 64, 32)).save(path)
    kinds, _ = runtimes
    kinds["all"] = raves_below
    done = quantize(exported(tmp_path / "model", fit="pad"), data, "onnx", count=4)
    assert done.facts["scope"] == SCOPES[0].text
    assert done.facts["synthetic"]["image_auroc"] == (1.0, 1.0)


def region(height, width, window):
    mask = np.zeros((height, width), bool)
    mask[window] = True
    return Roi(mask)


def test_a_form_that_sees_only_part_of_each_tile_is_refused_with_a_region_too(tmp_path, runtimes):
    """The right half of an image is inspected, of which most tiles show nothing else."""

    def sees_the_right(images):
        maps = sees(images)
        maps[..., :32] = 0
        return maps

    data = grey(tmp_path / "wide", 24, (96, 160))
    roi = region(96, 160, np.s_[:, 80:])
    kinds, _ = runtimes
    kinds.update({"all": sees_the_right, "convolutions": sees_the_right})
    done = quantize(exported(tmp_path / "model", roi, tile=True), data, "onnx", count=8)
    assert done.facts["scope"] == SCOPES[-1].text
    fp32, int8 = done.facts["tried"][0]["pixel_ap"]
    assert int8 < fp32 - 0.05


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("window", [np.s_[:14, :14], np.s_[40:54, 100:114], np.s_[82:96, 146:160]])
def test_a_form_that_is_as_good_is_taken_with_a_small_region_too(tile, window, tmp_path, runtimes):
    data = grey(tmp_path / "wide", 24, (96, 160))
    bundle = exported(tmp_path / "model", region(96, 160, window), tile=tile)
    done = quantize(bundle, data, "onnx", count=8)
    assert done.facts["scope"] == SCOPES[0].text
    fp32, int8 = done.facts["synthetic"]["pixel_ap"]
    assert fp32 == int8 > 0


@pytest.mark.parametrize("others", [False, True])
def test_copies_under_other_names_are_in_one_of_the_sets_alone(
    others, bundle, data, tmp_path, runtimes, monkeypatch, caplog
):
    if others:
        data = grey(tmp_path / "new", 12)
    for path in sorted(data.iterdir()):
        (data / f"copy-{path.name}").write_bytes(path.read_bytes())
    taken = []
    original = module.good_and_anomalous

    def good_and_anomalous(paths, *rest, **options):
        taken.append(paths)
        return original(paths, *rest, **options)

    monkeypatch.setattr(module, "good_and_anomalous", good_and_anomalous)
    done = quantize(bundle, data, "onnx", count=4)
    sets = [*taken, [data / path for path in done.calibration.paths]]
    contents = [sha256_of(path) for paths in sets for path in paths]
    assert len(contents) == len(set(contents)) == 12
    assert "the same image as another, so it does not count: " in caplog.text


def test_ranges_need_a_good_and_an_anomalous_image(bundle, data, runtimes):
    with pytest.raises(SettingsError, match="--images: expected at least 2, got 1"):
        quantize(bundle, data, "onnx", count=1)


def test_other_images_than_those_of_the_training_are_split_anew(bundle, tmp_path, runtimes):
    data = grey(tmp_path / "new" / "train" / "good", 12).parents[1]
    done = quantize(bundle, data, "onnx", count=4)
    settings = bundle.settings.data
    count = min(max(round(settings.calibration_fraction * 12), settings.calibration_minimum), 6)
    names = done.calibration.paths
    assert len(set(names)) == count
    assert all((data / "train/good") == path.parent for path in map(type(data), names))


def test_calibration_images_that_are_gone_are_named_and_the_others_used(
    bundle, data, runtimes, caplog
):
    own = tuple(sha256_of(data / path) for path in CALIBRATION)
    grouped = replace(
        bundle.calibration, image_sha256=own, groups=("a", "b", "b"), group_by="folder"
    )
    bundle = save_calibration(bundle, grouped)
    gone, moved, _ = (data / path for path in CALIBRATION)
    gone.unlink()
    moved.rename(data / "renamed.png")  # known by its content
    done = quantize(bundle, data, "onnx", count=3)
    assert done.calibration.groups == ("b", "b")
    assert set(done.calibration.image_sha256) == set(own[1:])
    assert f"of the 3 calibration images 1 are not where they were: {CALIBRATION[0]}" in caplog.text
    assert "from the other 2" in caplog.text


def test_the_form_is_calibrated_by_the_groups_of_the_model(bundle, data, runtimes):
    grouped = replace(bundle.calibration, groups=("a", "b", "b"), group_by="folder")
    done = quantize(save_calibration(bundle, grouped), data, "onnx", count=4)
    assert (done.calibration.groups, done.calibration.group_by) == (("a", "b", "b"), "folder")


def test_a_threshold_is_never_set_by_images_of_the_same_name_or_that_were_learned(
    bundle, data, runtimes
):
    others = replace(bundle.calibration, image_sha256=("0" * 64, "1" * 64, "2" * 64))
    learned = sorted(sha256_of(data / f"{number:03}.png") for number in range(9))
    changed = replace(
        save_calibration(bundle, others), training={**bundle.training, "learned_sha256": learned}
    )
    done = quantize(changed, data, "onnx", count=4)
    assert not {*done.calibration.image_sha256} & {*learned}
    assert {Path(path).name for path in done.calibration.paths} <= {"009.png", "010.png", "011.png"}
    own = tuple(sha256_of(data / path) for path in bundle.calibration.paths)
    same = save_calibration(bundle, replace(bundle.calibration, image_sha256=own))
    assert quantize(same, data, "onnx", count=4).calibration.image_sha256 == own


def test_the_rate_is_that_which_was_asked_for_last(bundle, data, runtimes):
    changed = bundle.calibration.with_rate(0.4, 0.5)
    done = quantize(save_calibration(bundle, changed), data, "onnx", count=4)
    assert (done.calibration.max_false_alarm_rate, done.calibration.confidence) == (0.4, 0.5)


def test_a_new_split_is_by_groups_where_the_training_was(bundle, tmp_path, runtimes):
    data = grey(tmp_path / "new" / "train" / "good", 12).parents[1]
    for path in sorted((data / "train/good").iterdir()):
        day = data / "train/good" / f"day {int(path.stem) // 3}"
        day.mkdir(exist_ok=True)
        path.rename(day / path.name)
    settings = bundle.settings.replace(group_by="folder", calibration_minimum=3)
    done = quantize(replace(bundle, settings=settings), data, "onnx", count=4)
    assert len(done.calibration.paths) == 3
    day = done.calibration.groups[0]
    assert all(path.startswith((data / day).as_posix()) for path in done.calibration.paths)
    assert set(done.calibration.groups) == {day}
    # As they were called where the training was given the folder of good parts.
    last = day.rpartition("/")[2]
    said = {"group_by": "folder", "names": [last]}
    learned = {**bundle.training, "learned_groups": said}
    done = quantize(replace(bundle, settings=settings, training=learned), data, "onnx", count=4)
    assert len(done.calibration.paths) == 3
    assert last not in {each.rpartition("/")[2] for each in done.calibration.groups}


def test_an_image_that_is_gone_is_an_error_of_ours(bundle, tmp_path, runtimes):
    data = grey(tmp_path / "new" / "train" / "good", 12).parents[1]
    (data / "train/good/dead.png").symlink_to(data / "nothing.png")
    learned = replace(bundle, training={**bundle.training, "learned_sha256": ["0" * 64]})
    with pytest.raises(ImageError, match=r"dead\.png: expected an image that can be read"):
        quantize(learned, data, "onnx", count=4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_good_images_beside_the_calibration_ones(count, bundle, data, runtimes):
    for path in sorted(data.iterdir()):
        if path.name not in CALIBRATION:
            path.unlink()
    for number in range(count):
        Image.fromarray(np.full((64, 64, 3), (100, 100, 90 + number), np.uint8)).save(
            data / f"new{number}.png"
        )
    before = files(bundle.folder)
    with pytest.raises(DataError, match=f"at least 4 good images .* got {count} and 3"):
        quantize(bundle, data, "onnx")
    assert files(bundle.folder) == before
    for number in range(4):
        Image.fromarray(np.full((64, 64, 3), (100, 100, 90 + number), np.uint8)).save(
            data / f"new{number}.png"
        )
    assert quantize(bundle, data, "onnx").facts["synthetic"]["image_auroc"] == (1, 1)


def test_each_image_is_hashed_once(labelled, bundle, runtimes, monkeypatch):
    kinds, _ = runtimes
    kinds["all"] = blind  # a second scope has a calibration of its own
    of_calibration = [labelled / "train/good" / path for path in CALIBRATION]
    names = [path.relative_to(labelled).as_posix() for path in of_calibration]
    known = replace(
        bundle.calibration, paths=tuple(names), image_sha256=tuple(map(sha256_of, of_calibration))
    )
    hashed, digest = [], hashlib.file_digest

    def counted(file, kind):
        hashed.append(Path(file.name))
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    done = quantize(save_calibration(bundle, known), labelled, "onnx", count=4)
    assert done.facts["scope"] == SCOPES[1].text
    assert done.calibration.image_sha256 == known.image_sha256
    images = [*labelled.glob("train/*/*.png"), *labelled.glob("test/*/*.png")]
    assert sorted(path for path in hashed if path.suffix == ".png") == sorted(images)


def test_an_image_that_is_replaced_meanwhile_sets_no_threshold(bundle, data, runtimes):
    before = files(bundle.folder)

    def replace_one(step):
        if step.startswith("comparing"):
            Image.fromarray(np.full((64, 64, 3), 50, np.uint8)).save(data / CALIBRATION[1])

    with pytest.raises(ImageError, match="written or taken away since") as caught:
        quantize(bundle, data, "onnx", count=4, on_step=replace_one)
    assert caught.value.path == str(data / CALIBRATION[1])
    assert "--resume" not in str(caught.value)
    assert files(bundle.folder) == before


# --- how much of the network


@pytest.mark.parametrize("good", ["all", "convolutions", "head"])
def test_the_first_scope_that_is_accurate_enough_is_taken(good, bundle, data, runtimes):
    kinds, asked = runtimes
    names = [scope.name for scope in SCOPES]
    for name in names[: names.index(good)]:
        kinds[name] = blind
    done = quantize(bundle, data, "onnx", count=4)
    tried = names[: names.index(good) + 1]
    assert [name for name, _, _ in asked] == tried
    assert done.model.read_text() == good
    assert [one["scope"] for one in done.facts["tried"]] == [s.text for s in SCOPES[: len(tried)]]
    # A map that is the same everywhere orders nothing.
    for one in done.facts["tried"][:-1]:
        assert one["image_auroc"] == (1, 0.5)
    assert done.facts["scope"] == SCOPES[len(tried) - 1].text
    assert done.calibration.weights_sha256 == load_export(bundle, "onnx-int8").sha256


def test_one_scope_alone(bundle, data, runtimes):
    _, asked = runtimes
    assert quantize(bundle, data, "onnx", scope="head", count=4).model.read_text() == "head"
    assert [name for name, _, _ in asked] == ["head"]


@pytest.mark.parametrize(("drop", "accepted"), [(0.25, True), (0.26, False), (np.nan, False)])
def test_the_drop_may_be_as_large_as_allowed_and_no_larger(
    drop, accepted, bundle, data, runtimes, monkeypatch
):
    agreed = Agreement((1.0, 1 - drop), (1.0, 1.0), 1.0, 0.0, 0.0)
    monkeypatch.setattr(module, "agreement", lambda *_: agreed)
    if accepted:
        assert quantize(bundle, data, "onnx", count=4, max_drop=0.25).model.is_file()
    else:
        with pytest.raises(BundleError, match="loses more"):
            quantize(bundle, data, "onnx", count=4, max_drop=0.25)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_refusal_leaves_the_bundle_as_it_was(earlier, bundle, data, runtimes):
    kinds, _ = runtimes
    if earlier:
        quantize(bundle, data, "onnx", count=4)
    before = files(bundle.folder)
    kinds.update(dict.fromkeys(kinds, blind))
    with pytest.raises(BundleError, match=r"loses more than --max-drop 0\.01") as caught:
        quantize(bundle, data, "onnx", count=4)
    for scope in SCOPES:
        assert f"{scope.text}: image AUROC 1.0000 -> 0.5000, pixel AP " in str(caught.value)
    assert files(bundle.folder) == before


# --- labelled images


@pytest.fixture
def labelled(tmp_path):
    """Twelve good parts to train on; to test four good ones and three with a dent of another grey.

    The dents are darker than what INT8 sees, if it does not see what is dark.
    """
    root = tmp_path / "labelled"
    grey(root / "train" / "good", 12)
    grey(root / "test" / "good", 4)
    for number in range(3):
        image = np.full((64, 64, 3), 100, np.uint8)
        image[8:24, 8:24] = 10 + number
        for path, pixels in (
            (root / f"test/dent/{number}.png", image),
            (root / f"ground_truth/dent/{number}_mask.png", np.where(image < 50, 255, 0)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def test_labelled_images_are_measured(labelled, bundle, runtimes):
    done = quantize(bundle, labelled, "onnx", count=4)
    assert done.facts["labelled"] == {
        "images": 7,
        "coverage": {"given": 7, "images": 7, "with_mask": 7, "unreadable_masks": 0},
        "image_auroc": (1, 1),
        "pixel_ap": (1, 1),
    }


@pytest.fixture
def agreeing(monkeypatch):
    """On synthetic anomalies every scope is as good as fp32."""
    agreed = Agreement((1.0, 1.0), (1.0, 1.0), 1.0, 0.0, 0.0)
    monkeypatch.setattr(module, "agreement", lambda *_: agreed)


def test_a_loss_on_labelled_images_is_refused_when_no_scope_is_left(
    labelled, bundle, runtimes, agreeing
):
    kinds, asked = runtimes
    kinds.update(dict.fromkeys(kinds, blind))
    before = files(bundle.folder)
    with pytest.raises(BundleError, match="whatever stays in fp32") as caught:
        quantize(bundle, labelled, "onnx", count=4)
    assert [name for name, _, _ in asked] == [scope.name for scope in SCOPES]
    for scope in SCOPES:
        assert (
            f"{scope.text}: image AUROC 1.0000 -> 1.0000, pixel AP 1.0000 -> 1.0000; on the "
            "labelled images image AUROC 1.0000 -> 0.5000, pixel AP 1.0000 -> "
        ) in str(caught.value)
    assert files(bundle.folder) == before


def test_after_a_loss_on_labelled_images_less_is_quantised(labelled, bundle, runtimes, agreeing):
    kinds, asked = runtimes
    kinds["all"] = blind
    done = quantize(bundle, labelled, "onnx", count=4)
    assert [name for name, _, _ in asked] == ["all", "convolutions"]
    assert done.model.read_text() == "convolutions"
    assert [one["labelled"]["image_auroc"] for one in done.facts["tried"]] == [(1, 0.5), (1, 1)]
    assert done.facts["labelled"]["image_auroc"] == (1, 1)


def test_of_one_scope_alone_no_other_is_tried(labelled, bundle, runtimes, agreeing):
    kinds, asked = runtimes
    kinds["all"] = blind
    with pytest.raises(BundleError, match="--scope auto tries"):
        quantize(bundle, labelled, "onnx", scope="all", count=4)
    assert [name for name, _, _ in asked] == ["all"]


def test_a_metric_that_labels_do_not_give_hides_no_other(labelled, bundle, runtimes, agreeing):
    for path in (labelled / "test" / "good").iterdir():
        path.unlink()
    (labelled / "test" / "good").rmdir()
    kinds, _ = runtimes
    kinds.update(dict.fromkeys(kinds, blind))
    # Without good ones there is no image AUROC, but the pixels are told apart no more: 1/16.
    with pytest.raises(BundleError, match=r"image AUROC nan -> nan, pixel AP 1\.0000 -> 0\.0625"):
        quantize(bundle, labelled, "onnx", count=4)


# --- what must be there before


def test_fp32_is_exported_first_where_it_is_missing(bundle, data, runtimes, monkeypatch):
    shutil.rmtree(bundle.folder / "exports")
    steps = []

    def export(bundle, to, on_step):
        on_step("exporting")
        return save_export(bundle, to, {"model.onnx": b"fp32"}, {})

    monkeypatch.setattr(module, "export_fp32", export)
    quantize(bundle, data, "onnx", count=4, on_step=steps.append)
    assert steps[:2] == ["exporting to onnx first", "exporting"]
    assert steps[2] == f"quantising {SCOPES[0].text}"
    assert find_exports(bundle) == ["onnx", "onnx-int8"]


def test_fp32_of_other_weights_is_refused(bundle, data, runtimes):
    save_export(replace(bundle, weights_sha256="other"), "onnx", {"model.onnx": b"fp32"}, {})
    with pytest.raises(BundleError, match="other weights"):
        quantize(bundle, data, "onnx", count=4)


# --- with the tiny network, really


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_tiny_network_in_int8(runtime, quantisable_bundle, tmp_path):
    pytest.importorskip("nncf", reason="the extra export is not installed")
    data = write_images(tmp_path / "parts", 12)
    shutil.copytree(quantisable_bundle.folder, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    # Of random weights no accuracy is to be kept.
    done = quantize(bundle, data, runtime, count=4, max_drop=1, scope="head")
    name = f"{runtime}-int8"
    assert done.calibration.weights_sha256 == load_export(bundle, name).sha256
    predictor = load(bundle.folder, backend=name, device="cpu")
    assert isinstance(predictor, Predictor)
    scores = sorted(predictor.predict(data / image).score for image in CALIBRATION)
    assert scores == pytest.approx(list(done.calibration.scores), abs=1e-6)
    assert predictor.calibration.threshold == done.calibration.threshold
    assert done.calibration.scores != bundle.calibration.scores
    np.testing.assert_allclose(done.calibration.scores, bundle.calibration.scores, atol=0.05)
