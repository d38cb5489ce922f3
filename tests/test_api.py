"""The public functions: what they are called, take and give back."""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import threading
import typing
from pathlib import Path

import numpy as np
import pytest

import destseg
from conftest import write_images, write_red
from destseg import errors
from destseg.cli.main import main
from destseg.config import Settings, field_types, settings_fields
from destseg.data.samples import Sample
from destseg.inference.bundle import load_bundle, save_bundle, save_calibration
from destseg.inference.calibration import Calibration
from destseg.keywords import RUNTIME, RuntimeKeywords, SettingsKeywords
from destseg.validation import PATH
from public_names import listed

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in destseg.__all__ if inspect.isfunction(getattr(destseg, name))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, with a model whose map is the red channel; its threshold is 0.3."""
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25)
    saved = save_bundle(tmp_path / "model", settings, {}, {})
    scores = [0.1, 0.2, 0.3]
    fitted = Calibration.fit(scores, scores, ["a", "b", "c"], settings, saved.weights_sha256)
    save_calibration(saved, fitted)

    def open_backend(*_):
        return lambda images: images[..., 0].astype(np.float32) / 255

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    return tmp_path


# --- names and signatures


def test_names_and_signatures_are_those_of_the_written_list():
    written = (ROOT / "tests/public_names.txt").read_text(encoding="utf-8")
    how = "if this is meant: python tests/public_names.py > tests/public_names.txt"
    assert listed().splitlines() == written.splitlines(), how


def test_every_error_is_public():
    classes = {name for name, thing in vars(errors).items() if inspect.isclass(thing)}
    ours = {name for name in classes if issubclass(getattr(errors, name), errors.DestsegError)}
    assert ours <= set(destseg.__all__)


def test_functions_stay_functions_whatever_is_imported():
    for module in pkgutil.walk_packages(destseg.__path__, "destseg."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert len(FUNCTIONS) >= 14
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(destseg, name)), name
        assert name not in {module.name for module in pkgutil.iter_modules(destseg.__path__)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_help_tells_of_every_argument_and_error(name):
    function = getattr(destseg, name)
    said = inspect.getdoc(function)
    assert "Raises:" in said
    for argument in inspect.signature(inspect.unwrap(function)).parameters:
        known = {*SettingsKeywords.__annotations__, *RuntimeKeywords.__annotations__}
        assert f"    {argument}: " in said or argument in known


def test_every_setting_is_a_keyword_of_its_type():
    keywords = typing.get_type_hints(SettingsKeywords)
    fields = {
        item.name: (field_types(getattr(Settings, group))[item.name], item.metadata["rule"])
        for group, item in settings_fields()
    }
    assert list(keywords) == list(fields)
    for name, (expected, rule) in fields.items():
        also = os.PathLike[str] if rule is PATH else expected
        assert keywords[name] == expected | also if rule is PATH else keywords[name] == expected


def test_what_runs_a_model_is_the_keywords_of_load():
    own = {
        name: each.default
        for name, each in inspect.signature(destseg.load).parameters.items()
        if each.kind is each.KEYWORD_ONLY
    }
    assert own == RUNTIME
    assert list(RuntimeKeywords.__annotations__) == list(RUNTIME)


@pytest.mark.parametrize("name", ["train", "train_many", "preview"])
def test_help_shows_every_setting_with_its_default(name):
    shown = inspect.signature(getattr(destseg, name)).parameters
    for setting, default in Settings().flat().items():
        assert shown[setting].default == default


@pytest.mark.slow
def test_the_wheel_alone_tells_type_checkers_what_there_is(tmp_path):
    """Installed without what it depends on, and checked as any project that uses it is."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, *built], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    put = ["install", "--no-deps", "--target", str(packages), str(wheel)]
    subprocess.run([*pip, *put], check=True, timeout=300)
    (tmp_path / "consumer.py").write_text(CONSUMER, encoding="utf-8")
    python = environment / "bin/python"
    # Nothing of this checkout may be found beside what was installed.
    own = {name: value for name, value in os.environ.items() if not name.endswith("PYTHONPATH")}
    words = ["--strict", "--python-executable", str(python), "consumer.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        cwd=tmp_path,
        env=own,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


CONSUMER = """
from pathlib import Path
from typing import assert_type

import destseg

predictor = destseg.train(Path("data"), output="model", image_size=128, preset="paper")
assert_type(predictor, destseg.Predictor)
assert_type(predictor.predict("part.png"), destseg.Result)
assert_type(destseg.evaluate(predictor, "data").false_alarms, destseg.Rate)
assert_type(destseg.calibrate("model", "good", threads=2).calibration, destseg.Calibration)
destseg.train("data", output="model", image_sizes=128)  # type: ignore[call-arg]
destseg.export("model", "tensorrt")  # type: ignore[arg-type]
try:
    destseg.quantize("model", "data", on_step=print)
except destseg.MissingExtraError as error:
    print(error.extra)
"""


# --- paths, numbers and objects


def test_paths_begin_at_home_and_numbers_may_be_numpys(home):
    write_red(home / "part.png", 255)
    predictor = destseg.load("~/model", batch_size=np.int64(2), threads=np.int32(1))
    assert type(predictor.batch_size) is int
    assert predictor.predict(home / "part.png").is_defective
    done = destseg.calibrate(Path("~/model"), max_false_alarm_rate=np.float64(0.5))
    assert done.before["fp32"].max_false_alarm_rate == 0.25
    assert type(done.calibration.max_false_alarm_rate) is float
    assert load_bundle(home / "model").calibration == done.calibration
    assert destseg.calibrate("~/model", restore=done.kept.name).calibration == done.before["fp32"]


def test_an_empty_text_is_no_path(home, monkeypatch, capsys):
    """As ``Path`` it would be the current folder, which has images and a model here."""
    write_red(home / "part.png", 255)
    monkeypatch.chdir(home)
    predictor = destseg.load("model")
    for call in (
        lambda: destseg.load(""),
        lambda: predictor.predict(""),
        lambda: list(predictor.stream("")),
        lambda: destseg.calibrate("model", ""),
        lambda: destseg.calibrate("model", ["part.png", ""]),
        lambda: destseg.evaluate("model", ""),
        lambda: destseg.drift("model", ""),
        lambda: destseg.train("", output="new"),
        lambda: destseg.train("model", output=""),
        lambda: destseg.watch("model", "", "results.jsonl"),
        lambda: destseg.batch("model", "", "results"),
    ):
        with pytest.raises(destseg.DataError, match="expected a path, got an empty text"):
            call()
    for words in (
        ["predict", "model", ""],
        ["predict", "", "part.png"],
        ["calibrate", "model", ""],
        ["predict", "model", "part.png", "--output", ""],
        ["predict", "model", "part.png", "--overlays", ""],
        ["serve", "model", "--certificate", "", "--key", ""],
    ):
        assert main(words) == 1
        assert "expected a path, got an empty text" in capsys.readouterr().err
    with pytest.raises(destseg.SettingsError, match="--textures: expected"):
        destseg.Settings.from_preset(textures="")


def test_good_images_may_be_a_list_and_progress_is_told(home):
    paths = [write_red(home / f"new/{i}.png", 20 * i) for i in range(3)]
    told = []
    done = destseg.calibrate("~/model", paths, on_progress=lambda *each: told.append(each))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert done.calibration.paths == tuple(map(str, paths))


def test_samples_or_a_folder_are_measured_and_files_are_written(home):
    good = write_red(home / "data/test/good/0.png", 0)
    bad = write_red(home / "data/test/hole/0.png", 255)
    told = []
    predictor = destseg.load("~/model")
    written = {"output": "~/metrics.json", "by_image": "~/images.csv"}
    found = destseg.evaluate(
        predictor, "~/data", on_progress=lambda *each: told.append(each), **written
    )
    assert told == [(1, 2), (2, 2)]
    assert json.loads((home / "metrics.json").read_bytes()) == found.to_json()
    assert len((home / "images.csv").read_text("utf-8").splitlines()) == 3
    again = destseg.evaluate("~/model", [Sample(good, "good"), Sample(bad, "hole")])
    assert again.image == found.image
    for given, got in ((str(good), "got '.*0.png' among"), (Sample(good, "OK"), r"got 'OK' \(1\)")):
        with pytest.raises(destseg.DataError, match=rf"^data: expected .*{got}"):
            destseg.evaluate("~/model", [given, Sample(bad, "hole")])
    assert destseg.report("~/model", "~/data").image == found.image
    assert (home / "model/report.html").is_file()
    with pytest.raises(destseg.SettingsError, match=r"^threads: expected the folder of a model"):
        destseg.evaluate(predictor, "~/data", threads=2)


def test_no_images_and_half_a_seed_are_errors_of_ours(home):
    for measure in (destseg.evaluate, destseg.report):
        with pytest.raises(destseg.DataError, match="got no images"):
            measure("~/model", [])
    write_red(home / "in/0.png", 10)
    for state in (None, "~/state.json", "~/state.json"):
        with pytest.raises(destseg.SettingsError, match="--seed: expected a whole number"):
            destseg.drift("~/model", "~/in", state=state, seed=1.5)
        destseg.drift("~/model", "~/in", state="~/state.json", seed=1)
    for call in (
        lambda: destseg.compare("~/model", "~/in", limit=1.5),
        lambda: destseg.preview("~/in", count=1.5),
        lambda: destseg.qualify("~/model", "~/in", trials=1.5),
        lambda: destseg.qualify("~/model", "~/in", seed=1.5),
        lambda: destseg.quantize("~/model", "~/in", to="onnx", images=2.5),
    ):
        with pytest.raises(destseg.SettingsError, match="expected a whole number"):
            call()


def test_what_cannot_be_written_costs_no_result(home):
    write_red(home / "in/0.png", 10)
    predictor = destseg.load("~/model")
    measure = predictor.measure

    def spoil(images):
        (home / "out.jsonl").mkdir()
        return measure(images)

    predictor.measure = spoil
    with pytest.raises(destseg.NotWrittenError, match=r"out\.jsonl") as caught:
        destseg.drift(predictor, "~/in", output="~/out.jsonl", state="~/state.json")
    assert caught.value.result.compared == 1
    assert list(caught.value.failures) == [home / "out.jsonl"]
    assert not (home / "state.json").exists()


def test_drift_goes_on_from_its_state(home):
    paths = [write_red(home / f"in/{i}.png", 10 + i) for i in range(4)]
    first = destseg.drift("~/model", paths[:2], state="~/state.json")
    then = destseg.drift("~/model", paths[2:], state="~/state.json")
    assert then.before == first.after
    assert then.after == destseg.drift("~/model", "~/in").after
    assert not then.is_alarm
    assert then.alarm_at is None


def test_a_watch_ends_by_its_loop_or_by_an_event(home):
    for i in range(3):
        write_red(home / f"in/{i}.png", 10)
    timing = {"interval": 0.01, "settle": 0}
    watch = destseg.watch("~/model", "~/in", "~/results.jsonl", **timing)
    assert next(watch).score == pytest.approx(10 / 255)
    watch.close()
    stop = threading.Event()
    for _ in destseg.watch("~/model", "~/in", "~/results.jsonl", stop=stop, **timing):
        stop.set()
    assert len((home / "results.jsonl").read_text("utf-8").splitlines()) == 2
    assert not list(destseg.watch("~/model", "~/in", "~/results.jsonl", stop=stop, **timing))
    with pytest.raises(destseg.DataError, match="expected a folder to watch"):
        destseg.watch("~/model", "~/nowhere", "~/results.jsonl")


def test_settings_are_changed_by_keywords_and_presets_are_not_mixed_with_them(
    parts, tiny_settings, tiny_teacher_weights, tmp_path
):
    told = []
    destseg.train(
        parts,
        output=tmp_path / "model",
        settings=tiny_settings,
        teacher_weights=tiny_teacher_weights,
        denoise_steps=np.int64(2),
        quiet=True,
        on_progress=lambda *each: told.append(each),
    )
    used = load_bundle(tmp_path / "model").settings
    changes = {"teacher_weights": str(tiny_teacher_weights), "denoise_steps": 2}
    assert used == tiny_settings.replace(**changes)
    assert told == [(step, 5) for step in range(1, 6)]
    with pytest.raises(destseg.SettingsError, match="unknown setting 'image_sizes'; did you mean"):
        destseg.train(parts, output=tmp_path / "other", image_sizes=64)
    with pytest.raises(destseg.SettingsError, match="expected settings or a preset"):
        destseg.train(parts, output=tmp_path / "other", settings=used, preset="paper")


def test_a_run_does_not_write_over_the_file_its_settings_are_read_from(tiny_settings, tmp_path):
    (tmp_path / "settings.yaml").write_text(tiny_settings.to_yaml(), encoding="utf-8")
    with pytest.raises(destseg.SettingsError, match="one of the inputs"):
        destseg.train(tmp_path, output=tmp_path, settings=tmp_path / "settings.yaml")


def test_a_preview_is_an_array_and_a_file(tiny_settings, tmp_path):
    good = write_images(tmp_path / "good", 3)
    sheet = destseg.preview(good, tmp_path / "sheet.png", settings=tiny_settings, count=2)
    assert sheet.dtype == np.uint8
    assert (tmp_path / "sheet.png").is_file()
    assert np.array_equal(destseg.preview(good, settings=tiny_settings, count=2), sheet)


def test_an_app_serves_folders_predictors_and_openers(home):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    predictor = destseg.load("~/model")
    for models, names in (
        ("~/model", ["model"]),
        (predictor, ["model"]),
        ([Path("~/model")], ["model"]),
        ({"a": "~/model", "b": predictor, "c": lambda: predictor}, ["a", "b", "c"]),
    ):
        app = destseg.create_app(models)
        assert app.state.service.models.names() == names
        app.state.service.models.close()
