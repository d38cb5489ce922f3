"""The files that the commands write are as docs/formats.md and docs/schemas say."""

import copy
import dataclasses
import json
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from PIL import Image
from referencing import Registry, Resource

from conftest import load_script, write_images, write_red
from destseg.cli.main import main
from destseg.config import PRESETS, Settings, settings_fields
from destseg.errors import SettingsError
from destseg.evaluation.outcomes import ImageRecord
from destseg.watching import journal
from qualification.qualification_model import SIDE, off_level, save_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMAS = {path.stem: json.loads(path.read_bytes()) for path in (DOCS / "schemas").glob("*.json")}
REGISTRY = Registry().with_resources(
    [(f"{name}.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()]
)
# Objects whose keys are names that users choose, or may be more in time.
MAPS = {"known_defects", "versions", "missed", "defect_types", "reasons", "families"}


def validator(name):
    return Draft202012Validator(SCHEMAS[name], registry=REGISTRY)


def wrong_in(name, document):
    return [f"{each.json_path}: {each.message}" for each in validator(name).iter_errors(document)]


def spoilt(value, where=(), in_map=False):
    """Yield (where, new) of every change that makes a file wrong: a value of another type, a
    key too many; of a list the first entry stands for all."""
    if isinstance(value, dict):
        if not in_map:
            yield (*where, "no_such_key"), 1
        for key, each in value.items():
            yield from spoilt(each, (*where, key), key in MAPS)
    elif isinstance(value, list) and value:
        yield where, {"wrong": 1}
        yield from spoilt(value[0], (*where, 0))
    else:
        yield where, {"wrong": 1}


def with_change(document, where, value):
    changed = copy.deepcopy(document)
    inside = changed
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = value
    return changed


LATER = ("image_sha256", "room", "anomalies")
"""What calibrations of before do not have, and fit all the same."""


def require_fits(name, document, optional=()):
    """The file fits its schema, and with anything in it spoilt, or taken out, it does not."""
    assert wrong_in(name, document) == []
    accepted = [
        where
        for where, new in spoilt(document)
        if not wrong_in(name, with_change(document, where, new))
    ]
    assert accepted == []
    missing = [key for key in document if key not in optional]
    assert [
        key
        for key in missing
        if not wrong_in(name, {other: document[other] for other in document if other != key})
    ] == []


def read(path):
    return json.loads(path.read_bytes())


# ---- settings


def make_schemas():
    return load_script(DOCS / "make_schemas.py")


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_and_on_the_page(name):
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert f"(schemas/{name}.json)" in (DOCS / "formats.md").read_text(encoding="utf-8")


def test_the_schema_of_settings_follows_from_their_definitions():
    written = (DOCS / "schemas" / "settings.json").read_text(encoding="utf-8")
    assert written == make_schemas().render(), "run: python docs/make_schemas.py"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_the_schema(preset):
    settings = Settings.from_preset(preset, image_size=(160, 416))
    assert wrong_in("settings", settings.to_dict()) == []
    assert wrong_in("settings", yaml.safe_load(settings.to_yaml())) == []
    for group in settings.to_dict():
        assert wrong_in("settings", {**settings.to_dict(), group: 7})


PROBES = [
    *(None, True, "x", "auto", "day", "fast", "name:[0-9]+", "column:day", "column:", "160x416"),
    *(-1, 0, 0.5, 0.99, 1, 1.5, 2, 7, 8, 16, 17, 63, 64, 80, 96, 10**9),
    *([], [0, 5], [1, 1, 1], [0.1, 0.2], [-1, 5], [64, 96], [64, 80], [50, 2_000_000], ["a", "b"]),
]
# What JSON Schema cannot say.
ONLY_SETTINGS_KNOW = {"name:[": "group_by", "160x417": "image_size", (5, 1): "perlin_octaves"}


@pytest.mark.parametrize("name", [item.name for _, item in settings_fields()])
def test_the_schema_takes_what_the_settings_take(name):
    group = next(group for group, item in settings_fields() if item.name == name)
    for probe in PROBES:
        try:
            Settings.from_dict({group: {name: probe}})
            fits = True
        except SettingsError:
            fits = False
        document = {group: {name: probe}}
        assert (wrong_in("settings", document) == []) == fits, (name, probe)


@pytest.mark.parametrize("probe", ONLY_SETTINGS_KNOW)
def test_what_the_schema_cannot_say_is_what_its_comment_says(probe):
    name = ONLY_SETTINGS_KNOW[probe]
    group = next(group for group, item in settings_fields() if item.name == name)
    document = {group: {name: list(probe) if isinstance(probe, tuple) else probe}}
    assert wrong_in("settings", document) == []
    with pytest.raises(SettingsError):
        Settings.from_dict(document)


# ---- files of real commands


@pytest.fixture(scope="module")
def learned(tmp_path_factory, parts, settings_file, trained):
    """A model that went on from another with known defects."""
    place = tmp_path_factory.mktemp("formats")
    mask = np.zeros((64, 64), np.uint8)
    mask[28:36, 20:30] = 255
    for number in range(5):
        path = place / f"bad/hole/{number}.png"
        write_images(path.parent / "all", 1, seed=number).joinpath("000.png").replace(path)
        image = np.array(Image.open(path))
        image[mask > 0] = (10, 200, 10)
        Image.fromarray(image).save(path)
        Image.fromarray(mask).save(path.with_name(f"{number}_mask.png"))
    (place / "bad/hole/all").rmdir()
    words = ["train", str(parts), "--output", str(place / "model"), "--from", str(trained)]
    words += ["--defects", str(place / "bad"), "--accept-losses", "--quiet"]
    assert main(words) == 0
    return place / "model"


def test_a_trained_model(trained, learned):
    for folder in (trained, learned):
        manifest = read(folder / "manifest.json")
        require_fits("manifest", manifest)
        require_fits("calibration", read(folder / "calibration.json"), LATER)
        settings = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        assert wrong_in("settings", settings) == []
        assert settings == manifest["settings"]
    assert {"ancestor", "known_defects"} <= read(learned / "manifest.json")["training"].keys()
    require_fits("defects", read(learned / "defects.json"))
    assert read(learned / "defects.json")["missed"]["hole"]["total"] == 1


def test_a_model_trained_by_groups(parts, settings_file, tmp_path):
    for number, path in enumerate(sorted(parts.iterdir())):
        (tmp_path / f"days/d{number % 3}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / f"days/d{number % 3}")
    words = ["train", str(tmp_path / "days"), "--output", str(tmp_path / "model"), "--quiet"]
    assert main([*words, "--settings", str(settings_file), "--group-by", "folder"]) == 0
    manifest = read(tmp_path / "model/manifest.json")
    assert len(manifest["training"]["learned_groups"]["names"]) == 2
    require_fits("manifest", manifest)


def test_a_calibration_by_groups(brightness_model, tmp_path, capsys):
    for day in ("monday", "tuesday"):
        for number in range(3):
            red = 20 * number + (day == "monday")  # no copies
            write_red(tmp_path / f"days/{day}/{number}.png", red)
    words = ["calibrate", str(brightness_model), str(tmp_path / "days"), "--group-by", "folder"]
    assert main([*words, "--confidence", "0.9"]) == 0
    (kept,) = brightness_model.glob("calibration.until-*.json")
    require_fits("calibration", read(kept), LATER)
    calibration = read(brightness_model / "calibration.json")
    assert len(calibration["image_sha256"]) == 6
    require_fits("calibration", calibration, LATER)


@pytest.fixture
def results(brightness_model, tmp_path, capsys):
    """Lines of ``predict``: a good image, a defective one, and one that cannot be read."""
    incoming = tmp_path / "incoming"
    for name, red in (("1.png", 20), ("2.png", 200)):
        write_red(incoming / name, red)
    (incoming / "3.png").write_bytes(b"no image")
    output = tmp_path / "results.jsonl"
    assert main(["predict", str(brightness_model), str(incoming), "--output", str(output)]) == 1
    return output


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_of_predict(results):
    good, defective, unreadable = lines_of(results)
    for line in (good, defective, unreadable):
        require_fits("result", line)
    assert defective["regions"]
    assert wrong_in("result", good | {"error": "both"})
    assert wrong_in("result", {**unreadable, "score": 0.5})
    assert wrong_in("result", {"path": "neither.png"})
    assert wrong_in("result", good | {"score": 1.5})


def test_lines_of_watch(brightness_model, results, tmp_path, capsys):
    output = tmp_path / "watched.jsonl"
    words = ["watch", str(brightness_model), str(tmp_path / "incoming"), "--output", str(output)]
    assert main([*words, "--once", "--settle", "0", "--give-up", "0.1"]) == 1
    assert len(lines_of(output)) == 3
    for line in lines_of(output):
        require_fits("result", line)


def test_metrics_of_evaluate(brightness_model, tmp_path, capsys):
    data = tmp_path / "data"
    for number in range(2):
        write_red(data / f"test/good/{number}.png", 10 * number)
        write_red(data / f"test/hole/{number}.png", 90 * number)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9] = 255
    (data / "ground_truth/hole").mkdir(parents=True)
    Image.fromarray(mask).save(data / "ground_truth/hole/0_mask.png")
    (data / "test/hole/9.png").write_bytes(b"no image")
    metrics = tmp_path / "metrics.json"
    table = tmp_path / "images.csv"
    words = ["evaluate", str(brightness_model), str(data), "--output", str(metrics)]
    assert main([*words, "--by-image", str(table)]) == 1
    values = read(metrics)
    require_fits("metrics", values)
    assert values["failures"]
    assert values["defect_types"]["good"]["image"]["reasons"]
    header = table.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == columns_told("rows of `evaluate --by-image`")
    assert header == [*(each.name for each in dataclasses.fields(ImageRecord)), "outcome"]


def test_a_state_of_drift(brightness_model, results, tmp_path, capsys):
    state = tmp_path / "line.json"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:2]))
    assert main(["drift", str(brightness_model), str(results), "--state", str(state)]) == 0
    require_fits("drift-state", read(state))
    assert wrong_in("drift-state", read(state) | {"format": 2})


def test_a_qualification(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: off_level)
    model = save_model(tmp_path / "model")
    random = np.random.default_rng(0)
    for number in range(4):
        level = random.integers(117, 124, (SIDE, SIDE, 1), np.uint8).repeat(3, axis=2)
        for path in (f"good/{number}.png", f"again/{number % 2}/{number}.png"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(level).save(tmp_path / path)
    words = ["qualify", str(model), str(tmp_path / "good"), "--output", str(tmp_path / "q.html")]
    words += ["--repeats", str(tmp_path / "again"), "--sizes", "4", "16", "--contrasts", "60"]
    assert main([*words, "--trials", "2"]) == 0
    require_fits("qualification", read(tmp_path / "q.json"))


# ---- tables


def columns_told(what):
    """Return the names in the first column of the table below a heading of the page."""
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    section = page.partition(f"## Columns: {what}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return re.findall(r"`([^`]+)`", " ".join(rows))


def test_the_columns_of_sqlite():
    database = sqlite3.connect(":memory:")
    database.execute(journal.SCHEMA)
    there = [row[1] for row in database.execute("PRAGMA table_info(results)")]
    assert columns_told("`results.db` of `watch`") == there


def test_the_columns_of_parquet():
    schema = pytest.importorskip("destseg.batch_inspection.schema", reason="pyarrow is missing")
    assert columns_told("Parquet of `batch`") == schema.SCHEMA.names
