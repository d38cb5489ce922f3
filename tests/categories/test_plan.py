import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

import destseg
from conftest import write_images
from destseg.categories import plan
from destseg.categories.plan import find_categories, make_jobs, settings_by_category
from destseg.config import Settings
from destseg.data.contents import contents_of, fingerprint, textures_fingerprint
from destseg.data.roi import read_roi
from destseg.data.samples import good_samples
from destseg.errors import DataError, SettingsError, TrainingError
from destseg.training import claim


def names(categories):
    return [category.name for category in categories]


def jobs_in(root, output, settings=None, seeds=(0,), own=None):
    return make_jobs(find_categories(root, output), settings or Settings(), seeds, output, own)


# ---- categories


def test_every_folder_is_a_category_but_hidden_ones_and_the_output(categories, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for path in categories.iterdir():
        (root / path.name).symlink_to(path)
    (root / "runs").mkdir()
    assert names(find_categories(root, root / "runs")) == ["bolt", "nut", "worn"]
    assert names(find_categories(root, root / "elsewhere")) == ["bolt", "nut", "runs", "worn"]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("missing", "no such folder"),
        ("bolt", "got one category"),
        ("worn", "got no folder in it"),
    ],
)
def test_what_is_no_folder_of_categories_is_refused(where, reason, categories, tmp_path):
    with pytest.raises(DataError, match=reason):
        find_categories(categories / where, tmp_path)


@pytest.mark.parametrize("inside", ["train/OK", "Train/good", "good", "normal", "test/NG"])
def test_one_category_is_known_by_any_spelling(inside, tmp_path):
    (tmp_path / "data" / inside).mkdir(parents=True)
    (tmp_path / "data" / "other").mkdir()
    with pytest.raises(DataError, match="got one category"):
        find_categories(tmp_path / "data", tmp_path / "out")


# ---- jobs


def test_jobs_are_categories_times_seeds_with_their_own_settings(categories, tmp_path):
    own = {"nut": {"rotation": 10, "batch_size": 4}}
    jobs = jobs_in(categories, tmp_path / "out", Settings().replace(rotation=5), (3, 1, 3), own)
    assert [(job.name, job.settings.data.rotation) for job in jobs] == [
        *(("bolt, seed 3", 5), ("bolt, seed 1", 5)),
        *(("nut, seed 3", 10), ("nut, seed 1", 10)),
        *(("worn, seed 3", 5), ("worn, seed 1", 5)),
    ]
    assert [job.settings.training.batch_size for job in jobs] == [8, 8, 4, 4, 8, 8]
    assert jobs[1].folder == tmp_path / "out/bolt/seed-1"
    assert jobs[1].category.data == categories / "bolt"


def test_settings_that_do_not_fit_are_named_with_their_categories(categories, tmp_path):
    own = {"bolt": {"batch_size": 0}, "nut": {"rotaton": 5}}
    with pytest.raises(SettingsError) as caught:
        jobs_in(categories, tmp_path, own=own)
    assert "bolt: --batch-size: expected at least 2" in str(caught.value)
    assert "nut: unknown setting 'rotaton'; did you mean 'rotation'?" in str(caught.value)


def test_the_file_of_categories_has_flags_without_dashes(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("bolt: {rotation: 10, lr-head: 1e-3}\nnut: {opacity: [0.1, 0.9]}\n", "utf-8")
    assert settings_by_category(file, ["bolt", "nut", "worn"]) == {
        "bolt": {"rotation": 10, "lr_head": 1e-3},
        "nut": {"opacity": [0.1, 0.9]},
    }


def test_names_of_categories_that_look_like_numbers_are_text(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("2024: {rotation: 10}\n007: {fit: pad}\nno: {rotation: 5}\n", "utf-8")
    names = ["2024", "007", "no"]
    assert list(settings_by_category(file, names)) == names
    with pytest.raises(SettingsError, match="expected a category, got '2024' of bolt"):
        settings_by_category(file, ["bolt"])


@pytest.mark.parametrize("as_file", [True, False])
def test_settings_by_category_are_checked_as_a_whole(as_file, tmp_path):
    given = tmp_path / "own.yaml"
    given.write_text("bolts: {rotation: 5}\nnut: turn\nworn: {seed: 3}\n2: {}\n", encoding="utf-8")
    if not as_file:
        given = {"bolts": {"rotation": 5}, "nut": "turn", "worn": {"seed": 3}, 2: {}}
    with pytest.raises(SettingsError) as caught:
        settings_by_category(given, ["bolt", "nut", "worn"])
    told = str(caught.value)
    assert told.startswith(f"{given if as_file else 'per_category'}:")
    assert "expected a category, got 'bolts'; did you mean 'bolt'?" in told
    assert "nut: expected settings such as {rotation: 5}, got 'turn'" in told
    assert "worn: expected no seed, got 3" in told
    assert "expected a category, got '2'" in told


def test_settings_by_category_from_python_are_checked_as_those_of_a_file(categories, tmp_path):
    for own, told in [
        ({"bolts": {}}, "got 'bolts'"),
        ({"bolt": {"seed": 3}}, "expected no seed"),
        ({"nut": {"lr-head": -1}}, "--lr-head"),
    ]:
        with pytest.raises(SettingsError, match=told):
            destseg.train_many(categories, output=tmp_path / "out", per_category=own)


def test_only_some_categories(categories, tmp_path):
    jobs = jobs_in(categories, tmp_path, seeds=(0, 1))
    assert plan.only(jobs, None) == jobs
    assert [job.name for job in plan.only(jobs, ["nut"])] == ["nut, seed 0", "nut, seed 1"]
    with pytest.raises(SettingsError, match="got 'nuts'; did you mean 'nut'"):
        plan.only(jobs, ["nuts", "bolt"])


# ---- what earlier calls left


def leave(job, *names, settings=None):
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (job.folder / name).write_text("{}", encoding="utf-8")
    (job.folder / "settings.yaml").write_text((settings or job.settings).to_yaml(), "utf-8")


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ([], "new"),
        (["log.jsonl"], "new"),
        (["checkpoint.safetensors"], "begun"),
        (["manifest.json"], "begun"),
        (["manifest.json", "result.json"], "finished"),
    ],
)
def test_the_state_of_a_job_is_read_from_its_folder(files, state, categories, tmp_path):
    job, *_ = jobs_in(categories, tmp_path)
    leave(job, *files)
    assert job.state == state


def test_the_state_that_makes_a_job_begun_is_trainings():
    assert plan.CHECKPOINT == claim.CHECKPOINT


def test_models_of_other_settings_are_not_taken_for_these(categories, tmp_path):
    jobs = jobs_in(categories, tmp_path, Settings().replace(rotation=5))
    leave(jobs[0], "result.json", "manifest.json", settings=jobs[0].settings)
    leave(jobs[1], "checkpoint.safetensors", settings=jobs[1].settings.replace(batch_size=4))
    leave(jobs[2], "result.json", "manifest.json", settings=jobs[2].settings.replace(lr_head=1))
    with pytest.raises(TrainingError) as caught:
        plan.require_same_runs(jobs)
    told = str(caught.value)
    assert "bolt" not in told
    assert "--batch-size: 4 then, 8 now" in told
    assert "--lr-head: 1 then, 0.002 now" in told
    assert "--overwrite" in told


def test_a_preset_is_no_wish_for_what_a_model_of_before_did_not_know(categories, tmp_path):
    job, *_ = jobs_in(categories, tmp_path)
    leave(job, "manifest.json", "result.json", settings=job.settings.replace(consensus=0.0))
    with pytest.raises(TrainingError, match="--consensus"):
        plan.require_same_runs([job])
    written = yaml.safe_load((job.folder / "settings.yaml").read_text())
    del written["model"]["consensus"]
    (job.folder / "settings.yaml").write_text(yaml.safe_dump(written))
    plan.require_same_runs([job])


@pytest.mark.parametrize(
    ("name", "value", "begun", "finished"),
    [("cache_gib", 1.0, True, True), ("max_false_alarm_rate", 0.2, True, False)],
)
def test_settings_that_weights_do_not_hang_on_may_change(
    name, value, begun, finished, categories, tmp_path
):
    for files, may in ((["checkpoint.safetensors"], begun), (["manifest.json"], finished)):
        job, *_ = jobs_in(categories, tmp_path / files[0])
        leave(job, *files, settings=job.settings.replace(**{name: value}))
        if may:
            plan.require_same_runs([job])
        else:
            with pytest.raises(TrainingError, match="max-false-alarm-rate"):
                plan.require_same_runs([job])


def told_by(job, name, data):
    facts = {"data_sha256": data}
    content = {"training": facts} if name == "manifest.json" else facts
    (job.folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("by", ["result.json", "manifest.json"])
def test_a_finished_model_of_other_images_is_not_taken_for_these(by, categories, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(categories, root)
    jobs = jobs_in(root, tmp_path / "out", seeds=(0, 1))[:4]
    for job in jobs:
        leave(job, "result.json", "manifest.json")
        good = good_samples(job.category.data)
        told_by(job, by, fingerprint(job.category.data, contents_of(each.path for each in good)))
    plan.require_same_runs(jobs)
    assert not caplog.records
    first = good_samples(root / "nut")[0].path
    first.write_bytes(good_samples(root / "bolt")[1].path.read_bytes())
    with pytest.raises(TrainingError) as caught:
        plan.require_same_runs(jobs)
    told = str(caught.value)
    assert "bolt" not in told
    assert told.count("nut: other images than then") == 2
    assert "--overwrite" in told
    shutil.rmtree(root / "bolt/train")
    with pytest.raises(TrainingError, match="bolt"):
        plan.require_same_runs(jobs)


def test_a_finished_model_of_other_textures_or_another_region_is_not_taken_for_these(
    categories, tmp_path
):
    textures = write_images(tmp_path / "textures", 3)
    region, whole = tmp_path / "region.png", np.full((8, 8), 255, np.uint8)
    Image.fromarray(whole).save(region)
    settings = Settings().replace(textures=str(textures), roi=str(region))
    jobs = jobs_in(categories, tmp_path / "out", settings)[:2]
    laid_over = {"textures_sha256": textures_fingerprint(str(textures))}
    for job, own in zip(jobs, (laid_over, {}), strict=True):
        leave(job, "result.json")
        good = contents_of(each.path for each in good_samples(job.category.data))
        facts = {"data_sha256": fingerprint(job.category.data, good), **own}
        (job.folder / "manifest.json").write_text(json.dumps({"training": facts}), "utf-8")
        (job.folder / "roi.png").write_bytes(read_roi(region).to_png())
    plan.require_same_runs(jobs)
    kept = region.read_bytes()
    whole[:4] = 0
    Image.fromarray(whole).save(region)
    with pytest.raises(TrainingError) as caught:
        plan.require_same_runs(jobs)
    assert str(caught.value).count(f"--roi {region}: another region than then") == 2
    region.write_bytes(kept)
    shutil.copy(textures / "000.png", textures / "001.png")
    with pytest.raises(TrainingError) as caught:
        plan.require_same_runs(jobs)
    told = str(caught.value)
    assert f"--textures {textures}: other images than then" in told
    assert "nut" not in told  # it does not say which it had
    assert "--roi" not in told
    region.unlink()
    shutil.rmtree(textures)  # what is not there any more is no other
    plan.require_same_runs(jobs)


def test_results_that_do_not_say_what_they_are_of_are_taken_with_a_note(
    categories, tmp_path, caplog
):
    jobs = jobs_in(categories, tmp_path)[:2]
    for job in jobs:
        leave(job, "result.json", "manifest.json")
    plan.require_same_runs(jobs)
    (record,) = caplog.records
    assert "not known which images" in record.getMessage()
    assert all(str(job.folder) in record.getMessage() for job in jobs)


def test_a_forgotten_job_is_new(categories, tmp_path):
    job, *_ = jobs_in(categories, tmp_path)
    plan.forget([job])
    leave(job, *plan.LEFT_BY_A_RUN, "metrics.json", "report.html", "error.txt", "log.jsonl")
    leave(job, "mine.txt")
    plan.forget([job])
    assert job.state == "new"
    assert [path.name for path in job.folder.iterdir()] == ["mine.txt"]


def test_forgetting_leaves_a_folder_in_which_nothing_was_trained(categories, tmp_path):
    job, *_ = jobs_in(categories, tmp_path)
    leave(job, "metrics.json", "report.html")
    plan.forget([job])
    names = {"metrics.json", "report.html", "settings.yaml"}
    assert {path.name for path in job.folder.iterdir()} == names
