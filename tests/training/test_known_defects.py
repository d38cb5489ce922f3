import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import destseg
from conftest import write_category, write_images
from destseg.cli.main import main
from destseg.data.defects import Defect
from destseg.data.files import sha256_of
from destseg.data.samples import Sample
from destseg.errors import BundleError, DataError, SettingsError, TrainingError, TrainingInterrupted
from destseg.evaluation.report import training_curves
from destseg.inference.ancestor import Ancestor, Seen, by_groups, split_like
from destseg.inference.bundle import Bundle, load_bundle
from destseg.inference.calibration import Calibration
from destseg.inference.known_defects import KnownDefect, KnownDefects, load_known_defects
from destseg.rate import Rate
from destseg.training import cross_fit, guard
from destseg.training.known_parts import _measured
from destseg.training.phases import SegmentPhase
from training.steps import at_call, send

HOLES, DENTS, STAINS = 5, 1, 2


@pytest.fixture(scope="module")
def settings(tiny_settings, tiny_teacher_weights):
    return tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Five holes and a dent with masks, two stains without; not to be written to."""
    folder = tmp_path_factory.mktemp("bad")
    mask = np.zeros((64, 64), np.uint8)
    mask[28:36, 20:30] = 255
    for number, (name, count) in enumerate({"hole": HOLES, "dent": DENTS, "stain": STAINS}.items()):
        write_images(folder / name, count, seed=50 + number)
        for path in (folder / name).iterdir():
            image = np.array(Image.open(path))
            image[mask > 0] = (10, 200, 10)
            Image.fromarray(image).save(path)
            if name != "stain":
                of_type = folder / "ground_truth" / name
                of_type.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(of_type / f"{path.stem}_mask.png")
    return folder


def run(parts, output, settings, **options):
    return destseg.train(parts, output=output, settings=settings, quiet=True, **options)


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


def same(one, other):
    ours, theirs = weights(one), weights(other)
    return [name for name, value in ours.items() if np.array_equal(value, theirs[name])]


@pytest.fixture(scope="module")
def finished(parts, settings, bad, tmp_path_factory):
    """A model that learned from known defects; not to be written to."""
    folder = tmp_path_factory.mktemp("known") / "whole"
    run(parts, folder, settings, defects=bad)
    return folder


@pytest.fixture(scope="module")
def plain(parts, settings, tmp_path_factory):
    """A model of good images alone; not to be written to."""
    folder = tmp_path_factory.mktemp("plain") / "whole"
    run(parts, folder, settings)
    return folder


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def said(folder):
    return "\n".join(entry.get("text", "") for entry in log_of(folder))


# ---- learning from them


def test_the_bundle_says_what_was_learned_and_what_only_measured(finished, parts, bad):
    facts = load_bundle(finished).training
    assert facts["known_defects"] == {
        "dent": {"learned": 1, "measured": 0},
        "hole": {"learned": 4, "measured": 1},
        "stain": {"learned": 0, "measured": 2},
    }
    names = {path.name for path in parts.iterdir()}
    assert len(facts["trained_on"]) == 9
    assert set(facts["trained_on"]) <= names
    text = said(finished)
    assert "5 known defects to learn from, 3 only to measure" in text
    assert "images without a mask are used for measuring only: of stain" in text
    assert "all of dent are learned" in text


def test_what_would_be_missed_is_what_the_finished_model_misses(finished, bad):
    predictor = destseg.load(finished, device="cpu")
    known = load_known_defects(predictor.bundle)
    assert len(known.defects) == HOLES + DENTS + STAINS
    for each in known.defects:
        assert predictor.predict(bad / each.path).score == pytest.approx(each.score, abs=1e-6)
    missed = known.missed(predictor.calibration)
    assert set(missed) == {"hole", "stain"}  # of dents all are learned
    for name, rate in missed.items():
        own = [e for e in known.defects if e.defect_type == name and not e.learned]
        results = predictor.predict([bad / each.path for each in own])
        assert rate == Rate(sum(not result.is_defective for result in results), len(own))
    content = json.loads((finished / "defects.json").read_text())
    assert content["missed"]["stain"]["total"] == 2
    assert "dent: all learned, so not known" in said(finished)


def test_the_threshold_stays_one_of_good_images(finished, plain):
    names = [json.loads((f / "calibration.json").read_text())["paths"] for f in (finished, plain)]
    assert sorted(names[0]) == sorted(names[1])


def test_teacher_and_student_learn_from_good_images_alone(finished, plain):
    equal = same(finished, plain)
    heads = [name for name in weights(plain) if name.startswith(("head.", "surface."))]
    assert set(weights(plain)) - set(heads) <= set(equal)
    assert not set(heads) <= set(equal)


def test_without_defects_the_fraction_of_them_changes_no_bit(parts, settings, plain, tmp_path):
    run(parts, tmp_path / "run", settings.replace(defect_fraction=0.9))
    assert len(same(tmp_path / "run", plain)) == len(weights(plain))
    assert not (plain / "defects.json").exists()


def test_a_run_with_defects_resumes_to_the_same_weights(
    parts, settings, bad, finished, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    at_call(monkeypatch, SegmentPhase, 2, send(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, settings, defects=bad)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="the same --defects and --from"):
        run(parts, folder, settings, resume=True)
    run(parts, folder, settings, defects=bad, resume=True)
    assert len(same(folder, finished)) == len(weights(finished))
    run(parts, folder, settings, defects=bad, resume=True)  # finished: loaded
    with pytest.raises(TrainingError, match="or other --defects or --from"):
        run(parts, folder, settings, defects=bad / "hole", resume=True)
    with pytest.raises(TrainingError, match="or other --defects or --from"):
        run(parts, folder, settings, resume=True)


def test_a_defect_that_is_also_good_is_refused_before_anything_is_written(
    parts, settings, bad, tmp_path
):
    mixed = tmp_path / "good"
    mixed.mkdir()
    for path in [*parts.glob("*.png"), bad / "hole/000.png"]:
        (mixed / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="expected images of defects that are not among the good"):
        run(mixed, tmp_path / "run", settings, defects=bad)
    assert not (tmp_path / "run/settings.yaml").exists()


# ---- which are measured


def known(name, count, *, marked=True):
    mask = np.ones((2, 2), bool) if marked else None
    sample = Sample(None, name)
    return [Defect(sample, None, mask, f"{name}-{marked}-{number}") for number in range(count)]


def test_one_of_four_of_a_type_is_measured_and_all_without_a_mask():
    defects = [*known("a", 3), *known("b", 4), *known("c", 9), *known("c", 2, marked=False)]
    chosen = list(_measured(defects, 0, (), ()))
    assert sorted(name.rsplit("-", 1)[0] for name in chosen) == [
        "b-True",
        *["c-False"] * 2,
        *["c-True"] * 2,
    ]
    assert list(_measured(defects[::-1], 0, (), ())) != []
    assert set(_measured(defects[::-1], 0, (), ())) == set(chosen)
    assert set(_measured(defects, 1, (), ())) != set(chosen)


def test_what_an_ancestor_learned_is_not_measured_and_what_it_measured_not_learned():
    defects = known("c", 12)
    names = [each.sha256 for each in defects]
    chosen = list(_measured(defects, 0, learned=names[:6], measured=names[6:7]))
    assert len(chosen) == 3
    assert names[6] in chosen
    assert not set(chosen) & set(names[:6])


# ---- going on from a model


def test_only_the_heads_go_on(parts, settings, bad, plain, tmp_path):
    predictor = run(parts, tmp_path / "next", None, defects=bad, ancestor=plain, accept_losses=True)
    heads = {name for name in weights(plain) if name.startswith(("head.", "surface."))}
    assert set(weights(plain)) - heads <= set(same(tmp_path / "next", plain))
    assert not heads <= set(same(tmp_path / "next", plain))
    before = load_bundle(plain)
    assert predictor.bundle.training["ancestor"] == {
        "folder": "whole",
        "weights_sha256": before.weights_sha256,
    }
    assert sorted(predictor.calibration.paths) == sorted(before.calibration.paths)
    assert {e["phase"] for e in log_of(tmp_path / "next") if e["event"] == "step"} == {"segment"}
    assert predictor.bundle.settings.training.lr_head == settings.training.lr_head / 2
    assert not (tmp_path / "next/unfinished").exists()
    assert not (tmp_path / "next/checkpoint.safetensors").exists()
    text = said(tmp_path / "next")
    assert "of 8 known defects" in text
    assert "of 3 calibration images" in text
    known = load_known_defects(predictor.bundle)
    old = destseg.load(plain, device="cpu")
    assert {each.path: each.found_before for each in known.defects} == {
        each.path: old.predict(bad / each.path).is_defective for each in known.defects
    }


def test_a_model_that_loses_a_defect_is_refused_and_its_training_kept(
    parts, bad, plain, tmp_path, monkeypatch
):
    decided = guard.decided
    monkeypatch.setattr(
        guard,
        "decided",
        lambda predictor, scores: dict.fromkeys(scores, predictor.bundle.folder == plain),
    )
    folder = tmp_path / "next"
    with pytest.raises(TrainingError, match=r"loses 8 of 8 known defects .*--accept-losses"):
        run(parts, folder, None, defects=bad, ancestor=plain)
    assert not (folder / "manifest.json").exists()
    assert not (folder / "unfinished").exists()
    monkeypatch.setattr(guard, "decided", decided)
    steps = len(log_of(folder))
    learned = safetensors.numpy.load_file(folder / "checkpoint.safetensors")
    run(parts, folder, None, defects=bad, ancestor=plain, resume=True, accept_losses=True)
    assert load_bundle(folder).training["ancestor"]["folder"] == "whole"
    assert not [e for e in log_of(folder)[steps:] if e["event"] == "step"]
    # And what it is then is the mean of what it was and what was learned.
    old, now = weights(plain), weights(folder)
    for name, value in now.items():
        if value.dtype.kind != "f":  # how often a norm has learned
            continue
        between = (old[name] + learned[f"model/{name}"]) / 2
        np.testing.assert_allclose(value, between, rtol=1e-5, atol=1e-7, err_msg=name)


def test_new_good_images_are_trained_on_and_calibrate(parts, plain, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for path in parts.glob("*.png"):
        (more / path.name).write_bytes(path.read_bytes())
    for path in write_images(tmp_path / "new", 20, seed=9).iterdir():
        (more / f"new-{path.name}").write_bytes(path.read_bytes())
    predictor = run(more, tmp_path / "next", None, ancestor=plain)
    before = load_bundle(plain)
    old, now = set(before.calibration.paths), set(predictor.calibration.paths)
    assert old < now
    assert len(now - old) == 2  # a tenth of the new ones
    assert all(name.startswith("new-") for name in now - old)
    assert not now & set(predictor.bundle.training["trained_on"])
    assert len(predictor.bundle.training["trained_on"]) == 9 + 18


def test_what_an_ancestor_was_trained_on_never_calibrates():
    images = [Seen(name, f"content of {name}") for name in "abcd"]
    silent = Ancestor(None, frozenset("ab"), None, None)
    assert split_like(images, silent) == (["a", "b"], [])
    says = Ancestor(None, frozenset("ab"), frozenset("c"), None)
    assert split_like(images, says) == (["a", "b"], ["d"])
    both = Ancestor(None, frozenset("ab"), frozenset("bc"), None)
    assert split_like(images, both) == (["a"], ["d"])
    contents = [frozenset(f"content of {name}" for name in names) for names in ("ab", "c")]
    assert split_like(images, Ancestor(None, *contents, None)) == (["a", "b"], ["d"])
    renamed = [Seen(other, each.sha256) for other, each in zip("cdab", images, strict=True)]
    assert split_like(renamed, Ancestor(None, *contents, None)) == (["c", "d"], ["b"])


@pytest.fixture(scope="module")
def of_days(settings, tmp_path_factory):
    """Good images of three days, 4 each, and a model of them by days: one calibrates."""
    folder = tmp_path_factory.mktemp("days")
    for number in range(3):
        write_images(folder / f"days/d{number}", 4, seed=number)
    run(folder / "days", folder / "run", settings.replace(group_by="folder"))
    return folder / "days", folder / "run"


def test_a_new_image_goes_where_its_group_is_and_only_new_groups_are_divided(of_days, tmp_path):
    days, model = tmp_path / "days", of_days[1]
    shutil.copytree(of_days[0], days)
    for number in range(3):
        for path in write_images(tmp_path / f"new{number}", 3, seed=50 + number).iterdir():
            path.rename(days / f"d{number}/new-{path.name}")
    (before,) = {*load_bundle(model).calibration.groups}
    for new in (4, 0):
        for number in range(3, 3 + new):
            write_images(days / f"d{number}", 5, seed=number)
        bundle = run(days, tmp_path / f"next{new}", None, ancestor=model, seed=1).bundle
        calibration, facts = bundle.calibration, bundle.training
        trained = {name.partition("/")[0] for name in facts["trained_on"]}
        assert not trained & {*calibration.groups}
        assert calibration.groups.count(before) == 7
        assert {*calibration.groups} - {before} <= {"d3", "d4", "d5", "d6"}
        assert facts["learned_groups"] == {"group_by": "folder", "names": sorted(trained)}


def test_a_group_whose_old_images_are_gone_is_still_known(of_days, tmp_path):
    days, model = tmp_path / "days", of_days[1]
    shutil.copytree(of_days[0], days)
    (before,) = {*load_bundle(model).calibration.groups}
    trained = next(each for each in ("d0", "d1", "d2") if each != before)
    shutil.rmtree(days / trained)
    write_images(days / trained, 4, seed=70)
    bundle = run(days, tmp_path / "next", None, ancestor=model).bundle
    assert {*bundle.calibration.groups} == {before}
    assert trained in bundle.training["learned_groups"]["names"]


def known_by(settings, learned, calibrated):
    """An ancestor whose images are all gone: it knows groups by their names alone."""
    count = len(calibrated)
    names = [f"{group}/old.png" for group in calibrated]
    scores = [0.1] * count
    return Ancestor(
        Bundle(
            folder=Path("model"),
            settings=settings,
            weights_sha256="",
            calibration=Calibration.fit(scores, scores, names, settings, "", groups=calibrated),
            training={
                "learned_groups": {"group_by": settings.data.group_by, "names": sorted(learned)}
            },
        ),
        frozenset(),
        frozenset(),
        None,
    )


def test_a_folder_is_known_as_seen_from_another_place(settings):
    """New images never calibrate where others of their folder were trained on."""

    def divided(learned, calibrated, groups, group_by="folder"):
        ancestor = known_by(settings.replace(group_by=group_by), learned, calibrated)
        return by_groups({group: group for group in groups}, [], groups, ancestor, group_by)

    now = ["cam/mon", "cam/tue", "cam/wed"]
    assert divided(["mon"], ["tue"], now) == (["cam/tue"], ["cam/wed"])
    shorter = divided(["cam/mon"], ["x/cam/tue"], ["mon", "cam/tue", "on", "wed"])
    assert shorter == (["cam/tue"], ["on", "wed"])
    # What has the very name of a group is that one.
    assert divided(["cam/mon"], ["mon"], ["cam/mon", "mon"]) == (["mon"], [])
    # Of days or patterns a part of the name is another group.
    assert divided(["mon"], ["tue"], now, "name:.+") == ([], now)
    with pytest.raises(TrainingError, match=r"got 1 .*: mon\."):
        divided(["a/mon"], ["b/mon"], ["mon", "wed"])


def test_groups_of_which_a_model_knows_both_are_refused(of_days, parts, plain, settings, tmp_path):
    days = tmp_path / "days"
    for number, path in enumerate(sorted(parts.iterdir())):
        (days / f"d{number % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, days / f"d{number % 2}")
    with pytest.raises(
        TrainingError, match=r"folder: .* got 2 of which it was trained .*: d0, d1\. .*by image"
    ):
        run(days, tmp_path / "next", settings.replace(group_by="folder"), ancestor=plain)


def of_content(folder, hashes):
    return {path.name for path in folder.iterdir() if sha256_of(path) in hashes}


def test_images_of_the_same_names_are_others(parts, plain, tmp_path, monkeypatch):
    model, september = tmp_path / "model", tmp_path / "september"
    shutil.copytree(plain, model)
    write_images(september / parts.name, 12, seed=99)
    monkeypatch.chdir(september / parts.name)
    destseg.calibrate(model, sorted(p.name for p in (september / parts.name).iterdir()))
    before = load_bundle(model)
    assert {*before.calibration.paths} & {*before.training["trained_on"]}  # names alone would lie
    predictor = run(parts, tmp_path / "next", None, ancestor=model)
    assert not {*predictor.calibration.image_sha256} & before.learned_sha256
    assert {*predictor.calibration.paths} == {*load_bundle(plain).calibration.paths}


def test_what_was_learned_generations_ago_never_calibrates(parts, plain, tmp_path):
    first = load_bundle(plain)
    small = write_images(tmp_path / "small", 8, seed=77)
    for path in list(small.iterdir()):
        path.rename(small / f"new-{path.name}")
    for name in first.calibration.paths:
        shutil.copy(parts / name, small)
    run(small, tmp_path / "second", None, ancestor=plain)
    whole = tmp_path / "whole"
    shutil.copytree(small, whole)
    for path in parts.iterdir():
        shutil.copy(path, whole)
    third = run(whole, tmp_path / "third", None, ancestor=tmp_path / "second")
    assert len(first.learned_sha256) == 9
    assert first.learned_sha256 < third.bundle.learned_sha256
    assert not {*third.calibration.image_sha256} & third.bundle.learned_sha256
    assert of_content(whole, {*third.calibration.image_sha256}) == {*third.calibration.paths}


def test_a_defect_that_was_learned_generations_ago_is_never_measured(parts, bad, of_few, tmp_path):
    box = few(tmp_path, bad)
    run(parts, tmp_path / "second", None, ancestor=of_few)
    learned = {sha256_of(path) for path in (box / "hole").iterdir()}
    for name in ("003", "004"):
        shutil.copy(bad / f"hole/{name}.png", box / "hole")
        shutil.copy(bad / f"ground_truth/hole/{name}_mask.png", box / "ground_truth/hole")
    for seed in range(3):
        third = run(
            parts,
            tmp_path / f"third-{seed}",
            None,
            ancestor=tmp_path / "second",
            defects=box,
            accept_losses=True,
            seed=seed,
        )
        known = load_known_defects(third.bundle).defects
        assert not {each.sha256 for each in known if not each.learned} & learned


def test_other_networks_images_and_places_are_refused(parts, settings, plain, bad, tmp_path):
    with pytest.raises(TrainingError, match="--head-width: 8 then, 16 now"):
        run(parts, tmp_path / "next", settings.replace(head_width=16), ancestor=plain)
    other = write_images(tmp_path / "other", 12, seed=33)
    for path in list(other.iterdir()):
        path.rename(other / f"x{path.name}")
    with pytest.raises(DataError, match="none of its calibration images"):
        run(other, tmp_path / "next", None, ancestor=plain)
    with pytest.raises(SettingsError, match="not read from"):
        run(parts, plain, None, ancestor=plain, overwrite=True)
    with pytest.raises(SettingsError, match="expected --from BUNDLE with it"):
        destseg.train(parts, output=tmp_path / "next", accept_losses=True)
    with pytest.raises(SettingsError, match="--from and --preset"):
        destseg.train(parts, output=tmp_path / "next", ancestor=plain, preset="fast")
    assert load_bundle(plain)


def test_the_region_of_an_ancestor_may_be_gone_but_not_another(parts, settings, tmp_path):
    region = tmp_path / "roi.png"

    def draw(columns):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, columns] = 255
        Image.fromarray(mask).save(region)

    draw(slice(8, 56))
    run(parts, tmp_path / "old", settings.replace(roi=str(region)))
    draw(slice(0, 30))
    with pytest.raises(TrainingError, match=r"--roi: expected the region .*got another in .*roi"):
        run(parts, tmp_path / "next", None, ancestor=tmp_path / "old")
    assert not (tmp_path / "next/manifest.json").exists()
    region.unlink()
    predictor = run(parts, tmp_path / "next", None, ancestor=tmp_path / "old")
    assert predictor.bundle.roi_sha256 == load_bundle(tmp_path / "old").roi_sha256


# ---- in words


def test_the_guard_names_what_changed():
    changed = guard.compared(
        {"a": True, "b": False, "c": True},
        {"a": False, "b": True, "c": True},
        {"g": True, "h": False},
        {"g": False, "h": True},
    )
    assert (changed.gained, changed.lost, changed.worse) == (("b",), ("a",), ("h",))
    text = "\n".join(changed.lines())
    assert "of 3 known defects 1 more are found and 1 are not found any more" in text
    assert "not found any more: a" in text
    assert "of 2 calibration images 1 were called defective and 1 are now" in text


def test_with_all_learned_nothing_is_claimed(plain):
    calibration = load_bundle(plain).calibration
    every = KnownDefects("x", (KnownDefect("a", "hole", "1", True, 1.0),))
    assert every.missed(calibration) == {}
    assert "is not known" in "\n".join(every.lines(calibration))


def test_known_defects_of_other_weights_or_damaged_are_refused(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    bundle = load_bundle(folder)
    assert load_known_defects(bundle).weights_sha256 == bundle.weights_sha256
    content = json.loads((folder / "defects.json").read_text())
    (folder / "defects.json").write_text(json.dumps({**content, "weights_sha256": "other"}))
    with pytest.raises(BundleError, match="got those of another"):
        load_known_defects(bundle)
    (folder / "defects.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(BundleError, match="expected format 1, got 2"):
        load_known_defects(bundle)
    more = [{**each, "of_a_later_version": 1} for each in content["defects"]]
    (folder / "defects.json").write_text(json.dumps({**content, "defects": more}))
    assert load_known_defects(bundle) is not None
    (folder / "defects.json").write_text("{}")
    with pytest.raises(BundleError, match="expected known defects"):
        load_known_defects(bundle)
    (folder / "defects.json").unlink()
    assert load_known_defects(bundle) is None


def test_what_is_said_of_known_defects_follows_the_threshold(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)

    def written():
        content = json.loads((folder / "defects.json").read_text())
        return content["threshold"], sum(each["count"] for each in content["missed"].values())

    def of(scores, threshold):
        return threshold, sum(score <= threshold for score in scores)

    first = written()
    known = load_known_defects(load_bundle(folder)).defects
    scores = [each.score for each in known if not each.learned]
    assert first == of(scores, load_bundle(folder).calibration.threshold)
    done = destseg.calibrate(folder, max_false_alarm_rate=0.6)
    assert done.calibration.threshold < first[0]
    assert written() == of(scores, done.calibration.threshold)
    assert main(["calibrate", str(folder), "--restore", done.kept.name]) == 0
    assert written() == first
    count, total = first[1], len(scores)
    assert f"not learned, missed: {count} of {total} (95 %" in capsys.readouterr().out
    (folder / "defects.json").write_text("{}")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(BundleError, match="expected known defects"):
        destseg.calibrate(folder, room=0.0)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_report_says_how_many_would_be_missed(finished, tmp_path):
    category = write_category(tmp_path / "category", 0)
    destseg.report(finished, category, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "of known defects that were not learned, missed:" in page
    assert "dent: all learned, so not known" in page


def test_another_model_in_the_folder_does_not_keep_the_known_defects(
    parts, settings, finished, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    run(parts, folder, settings, overwrite=True)
    assert not (folder / "defects.json").exists()


# ---- cross-fitting


def few(tmp_path, bad):
    """Three holes and a dent: too few of each to keep one from learning."""
    folder = tmp_path / "few"
    for place in ("hole", "dent", "ground_truth/hole", "ground_truth/dent"):
        shutil.copytree(bad / place, folder / place)
    for path in (*folder.glob("**/hole/003*"), *folder.glob("**/hole/004*")):
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def box(bad, tmp_path_factory):
    """Few defects; not to be written to."""
    return few(tmp_path_factory.mktemp("box"), bad)


@pytest.fixture(scope="module")
def of_few(parts, settings, box, tmp_path_factory):
    """A model that learned from few defects; not to be written to."""
    folder = tmp_path_factory.mktemp("few") / "whole"
    run(parts, folder, settings, defects=box)
    return folder


@pytest.fixture(scope="module")
def crossed(parts, settings, box, tmp_path_factory):
    """The same, cross-fitted; what its folds' models were asked, and what was told meanwhile."""
    folder, told = tmp_path_factory.mktemp("crossed") / "whole", []
    with pytest.MonkeyPatch.context() as patched:
        asked = watched(patched)
        run(
            parts,
            folder,
            settings.replace(cross_fit=2, room=0.0),
            defects=box,
            on_progress=lambda *progress: told.append(progress),
        )
    return folder, asked, told


def watched(monkeypatch):
    """Return what is told of each model that is asked: by its weights, what it found."""
    asked, decided = {}, guard.decided

    def told(predictor, scores):
        calibration = predictor.calibration  # without room anomalies would change nothing
        assert (calibration.anomalies is None) == (calibration.room == 0)
        asked[predictor.bundle.weights_sha256] = decided(predictor, scores)
        return asked[predictor.bundle.weights_sha256]

    monkeypatch.setattr(cross_fit, "decided", told)
    return asked


def test_defects_of_few_are_asked_of_models_that_learned_without_them(settings, of_few, crossed):
    folder, asked, told = crossed
    assert len(same(folder, of_few)) == len(weights(folder))
    bundle = load_bundle(folder)
    known = load_known_defects(bundle)
    assert [len(found) for found in asked.values()] == [2, 2]
    assert bundle.weights_sha256 not in asked
    found = {name: one for each in asked.values() for name, one in each.items()}
    assert {each.sha256: each.found_left_out for each in known.defects} == found
    missed = known.missed(bundle.calibration)
    assert {name: rate.total for name, rate in missed.items()} == {"dent": 1, "hole": 3}
    text = said(folder)
    assert "by models that learned without them" in text
    assert "--cross-fit" not in text
    assert "--cross-fit 2" in said(of_few)
    steps = settings.training.denoise_steps + 3 * settings.training.segment_steps
    assert told == [(step, steps) for step in range(1, steps + 1)]
    assert not (folder / "unfinished").exists()


def test_a_fold_is_a_training_without_its_defects(parts, settings, box, crossed, tmp_path):
    models = crossed[1]
    assert len(models) == 2
    for number, (sha256, left_out) in enumerate(models.items()):
        rest = tmp_path / f"rest-{number}"
        shutil.copytree(box, rest)
        for path in (path for name in ("hole", "dent") for path in (rest / name).iterdir()):
            if sha256_of(path) in left_out:
                path.unlink()
        alone = run(parts, tmp_path / f"alone-{number}", settings, defects=rest)
        assert alone.bundle.weights_sha256 == sha256


def test_cross_fitting_goes_on_where_it_was(parts, settings, box, crossed, tmp_path, monkeypatch):
    wanted, folder = settings.replace(cross_fit=2), tmp_path / "run"
    whole, expected, _ = crossed
    at_call(
        monkeypatch, SegmentPhase, 2 * settings.training.segment_steps + 1, send(signal.SIGTERM)
    )
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, wanted, defects=box)
    monkeypatch.undo()
    assert (folder / "unfinished/fold-2/checkpoint.safetensors").exists()
    models = watched(monkeypatch)
    run(parts, folder, wanted, defects=box, resume=True)
    assert models == expected
    assert (folder / "defects.json").read_bytes() == (whole / "defects.json").read_bytes()
    assert not (folder / "unfinished").exists()


def test_a_signal_with_the_last_step_stops_before_the_folds(parts, settings, bad, tmp_path):
    box, wanted = few(tmp_path, bad), settings.replace(cross_fit=2)
    own, folder = sum(wanted.steps_of_phases().values()), tmp_path / "run"
    fold = wanted.training.segment_steps

    def stop_at(number):
        return lambda done, _: done == number and os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="phase segment; the state is saved"):
        run(parts, folder, wanted, defects=box, on_progress=stop_at(own))
    assert not (folder / "manifest.json").exists()
    with pytest.raises(TrainingInterrupted, match="phase segment of fold 1; the state is saved"):
        run(parts, folder, wanted, defects=box, resume=True, on_progress=stop_at(own + fold))
    told = []
    run(
        parts, folder, wanted, defects=box, resume=True, on_progress=lambda *each: told.append(each)
    )
    assert told[-1] == (own + 2 * fold, own + 2 * fold)
    assert len(told) == 2 + fold  # where it was, in both, and the second fold


def test_a_model_that_was_kept_is_not_refused_when_its_folds_go_on(
    parts, bad, plain, tmp_path, monkeypatch
):
    box, folder = few(tmp_path, bad), tmp_path / "next"
    options = {"defects": box, "ancestor": plain, "cross_fit": 2}
    monkeypatch.setattr(
        guard,
        "decided",
        lambda predictor, scores: dict.fromkeys(scores, predictor.bundle.folder == plain),
    )
    second = 2 * load_bundle(plain).settings.training.segment_steps
    at_call(monkeypatch, SegmentPhase, second, send(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, None, **options, accept_losses=True)
    kept = load_bundle(folder).weights_sha256
    (folder / "unfinished/fold-1/checkpoint.safetensors").write_bytes(b"damaged")
    told = []
    run(parts, folder, None, **options, resume=True, on_progress=lambda *each: told.append(each))
    assert load_bundle(folder).weights_sha256 == kept
    assert not (folder / "unfinished").exists()
    assert "this fold begins anew: " in said(folder)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_calibration_made_between_the_folds_stays(
    parts, settings, bad, plain, tmp_path, monkeypatch, goes_on
):
    box, folder = few(tmp_path, bad), tmp_path / "run"
    options = {"defects": box, "cross_fit": 2}
    options |= {"ancestor": plain, "accept_losses": True} if goes_on else {}
    wanted = None if goes_on else settings.replace(cross_fit=2)
    own = load_bundle(plain).settings.training.segment_steps if goes_on else 0
    at_call(
        monkeypatch,
        SegmentPhase,
        (own or settings.training.segment_steps) + 1,
        send(signal.SIGTERM),
    )
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, wanted, **options)
    monkeypatch.undo()
    new = write_images(tmp_path / "new", 4, seed=8)
    after = destseg.calibrate(folder, new).calibration
    kept = {path.name: path.read_bytes() for path in folder.glob("calibration*.json")}
    assert len(kept) == 2
    predictor = run(parts, folder, wanted, **options, resume=True)
    assert predictor.calibration == after == load_bundle(folder).calibration
    assert {path.name: path.read_bytes() for path in folder.glob("calibration*.json")} == kept
    known = json.loads((folder / "defects.json").read_bytes())
    assert known["threshold"] == after.threshold


def test_cross_fitting_can_be_asked_for_when_a_run_is_resumed(
    parts, settings, bad, tmp_path, monkeypatch
):
    box, folder = few(tmp_path, bad), tmp_path / "run"
    at_call(monkeypatch, SegmentPhase, 1, send(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, settings, defects=box)
    monkeypatch.undo()
    asked = watched(monkeypatch)
    predictor = run(parts, folder, None, defects=box, resume=True, cross_fit=2)
    assert len(asked) == 2
    assert set(load_known_defects(predictor.bundle).missed(predictor.calibration)) == {
        "dent",
        "hole",
    }


def test_an_image_without_a_mask_does_not_keep_its_type_from_being_cross_fitted(
    parts, settings, bad, tmp_path
):
    box = few(tmp_path, bad)
    (box / "hole/unmarked.png").write_bytes((bad / "stain/000.png").read_bytes())
    predictor = run(parts, tmp_path / "run", settings.replace(cross_fit=2), defects=box)
    missed = load_known_defects(predictor.bundle).missed(predictor.calibration)
    assert {name: rate.total for name, rate in missed.items()} == {"dent": 1, "hole": 4}
    assert (
        ", in part by models that learned without them, at the threshold of the training"
        in said(tmp_path / "run")
    )


def test_cross_fitting_with_nothing_to_do_says_so(parts, settings, bad, tmp_path):
    box = tmp_path / "holes"
    for place in ("hole", "ground_truth/hole"):
        shutil.copytree(bad / place, box / place)
    run(parts, tmp_path / "run", settings.replace(cross_fit=2), defects=box)
    assert "--cross-fit has nothing to do" in said(tmp_path / "run")
    run(parts, tmp_path / "good", settings.replace(cross_fit=2))
    assert "--cross-fit has nothing to do" in said(tmp_path / "good")


def test_a_run_that_replaces_another_begins_its_folds_anew(parts, settings, bad, tmp_path):
    places = [tmp_path / "run/unfinished" / name for name in ("fold-1", "candidate")]
    for place in places:
        place.mkdir(parents=True)
        (place / "checkpoint.safetensors").write_bytes(b"of another run")
    run(
        parts,
        tmp_path / "run",
        settings.replace(cross_fit=2),
        defects=few(tmp_path, bad),
        overwrite=True,
    )
    assert not any(place.exists() for place in places)


def test_what_the_ancestor_learned_is_in_no_fold(parts, bad, box, of_few, tmp_path, monkeypatch):
    new = tmp_path / "new"
    shutil.copytree(box, new)
    (new / "dent/other.png").write_bytes((bad / "hole/004.png").read_bytes())
    mask = new / "ground_truth/dent/000_mask.png"
    (new / "ground_truth/dent/other_mask.png").write_bytes(mask.read_bytes())
    models = watched(monkeypatch)
    ancestor = {"ancestor": of_few, "accept_losses": True}
    predictor = run(parts, tmp_path / "next", None, defects=new, cross_fit=2, **ancestor)
    assert [set(found) for found in models.values()] == [{sha256_of(new / "dent/other.png")}]
    assert load_known_defects(predictor.bundle).missed(predictor.calibration)["dent"].total == 1
    assert predictor.bundle.settings.training.cross_fit == 2
    assert Ancestor.open(tmp_path / "next").settings.training.cross_fit == 0


def test_a_model_goes_on_with_what_its_threshold_was_asked_for_since(parts, bad, plain, tmp_path):
    asked = {"max_false_alarm_rate": 0.5, "confidence": 0.25, "room": 0.0, "group_by": "alike"}
    shutil.copytree(plain, tmp_path / "plain")
    destseg.calibrate(tmp_path / "plain", parts_of(plain, parts, tmp_path / "again"), **asked)
    predictor = run(
        parts, tmp_path / "next", None, defects=bad, ancestor=tmp_path / "plain", accept_losses=True
    )
    settings, now = predictor.bundle.settings.flat(), predictor.calibration
    assert {name: settings[name] for name in asked} == asked
    assert {name: getattr(now, name) for name in asked} == asked


def parts_of(model, parts, folder):
    """Copy the calibration images of a model."""
    folder.mkdir()
    for name in load_bundle(model).calibration.paths:
        shutil.copy(parts / Path(name).name, folder)
    return folder


def test_what_is_said_of_cross_fitting_what_an_ancestor_learned_is_true(
    parts, settings, bad, tmp_path
):
    """Its model forgets nothing, so that to cross-fit would measure nothing."""
    box = tmp_path / "dent"
    for place in ("dent", "ground_truth/dent"):
        shutil.copytree(bad / place, box / place)
    first = run(parts, tmp_path / "first", settings, defects=box)
    known = load_known_defects(first.bundle)
    assert known.lines(first.calibration)[0].endswith("or train with --cross-fit 2")
    folder = tmp_path / "next"
    options = {"ancestor": tmp_path / "first", "cross_fit": 2, "accept_losses": True}
    predictor = run(parts, folder, None, defects=box, **options)
    assert "the model of --from has learned all of dent, and no model forgets" in said(folder)
    (line,) = load_known_defects(predictor.bundle).lines(predictor.calibration)
    assert line.endswith("or train anew, without --from, with --cross-fit 2")
    assert line in said(folder)


def test_folds_are_no_part_of_the_curves_and_delete_nothing_of_others(
    parts, settings, bad, tmp_path
):
    folder = tmp_path / "run"
    (folder / "unfinished").mkdir(parents=True)
    (folder / "unfinished/mine.txt").write_text("kept")
    run(parts, folder, settings.replace(cross_fit=2), defects=few(tmp_path, bad))
    assert [path.name for path in (folder / "unfinished").iterdir()] == ["mine.txt"]
    own = [e for e in log_of(folder) if e["event"] == "step" and "fold" not in e]
    assert len([e for e in log_of(folder) if "fold" in e and e["event"] == "step"]) == 6
    curve = training_curves(folder)["phase 2"]
    assert curve == [(e["step"], e["loss"]) for e in own if e["phase"] == "segment"]


def test_a_state_of_another_run_is_no_fold_of_this(
    parts, settings, box, crossed, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    second = 2 * settings.training.segment_steps + 1
    at_call(monkeypatch, SegmentPhase, second, send(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        run(parts, folder, settings.replace(cross_fit=2, seed=1), defects=box)
    monkeypatch.undo()
    for name in ("manifest.json", "checkpoint.safetensors"):
        (folder / name).unlink()
    models = watched(monkeypatch)
    run(parts, folder, settings.replace(cross_fit=2), defects=box)
    assert models == crossed[1]


def test_going_on_cross_fits_too(parts, bad, plain, tmp_path, monkeypatch):
    models = watched(monkeypatch)
    predictor = run(
        parts,
        tmp_path / "next",
        None,
        defects=few(tmp_path, bad),
        ancestor=plain,
        accept_losses=True,
        cross_fit=2,
    )
    assert len(models) == 2
    known = load_known_defects(predictor.bundle)
    assert None not in [each.found_left_out for each in known.defects]
    heads = {name for name in weights(plain) if name.startswith(("head.", "surface."))}
    assert set(weights(plain)) - heads <= set(same(tmp_path / "next", plain))
