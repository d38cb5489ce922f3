import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from destseg.config import GROUPS, PRESETS, Settings, flag
from destseg.errors import SettingsError

FIELDS = [
    (group, item) for group in GROUPS for item in dataclasses.fields(getattr(Settings(), group))
]

# The published recipe, written down from the paper (section 4.1) and the table of the design.
PAPER = {
    "data": {"image_size": 256, "filter_noise": False},
    "model": {
        "teacher": "resnet18.tv_in1k",
        "student": "resnet18",
        "head": "aspp",
        "head_width": 256,
        "head_dilations": (6, 12, 18),
        "surface_width": 0,
    },
    "synthesis": {
        "perlin_units": "cells",
        "perlin_octaves": (0, 5),
        "perlin_threshold": 0.5,
        "opacity": (0.2, 1.0),  # 1 - beta, beta from 0 to 0.8
        "anomaly_probability": 1.0,
        "line_probability": 0.0,
        "cutpaste_probability": 0.0,
    },
    "training": {
        "batch_size": 32,
        "denoise_steps": 1000,
        "segment_steps": 4000,
        "optimizer": "sgd",
        "lr_student": 0.4,
        "lr_head_blocks": 0.1,
        "lr_head": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "constant",
        "warmup_steps": 0,
        "denoise_loss": "cosine",
        "denoise_loss_scale": 32.0,
        "segment_loss": "focal_l1",
        "focal_gamma": 4.0,
    },
    "variation": {
        "light": 0.0,
        "white_balance": 0.0,
        "ramp": 0.0,
        "noise": 0.0,
        "defocus": 0.0,
        "jpeg_quality": 100,
        "shift": 0.0,
    },
    "decision": {"score_fraction": 100 / 256**2, "room": 0.0},
}

# One value a field that is not its default and fits.
OTHER: dict[str, Any] = {
    "image_size": 128,
    "fit": "pad",
    "crop_size": 0,
    "tile": True,
    "tile_overlap": 0.5,
    "roi": "roi.png",
    "max_pixels": 5,
    "bit_depth": 12,
    "filter_noise": False,
    "skip_unreadable": True,
    "rotation": 10.0,
    "quarter_turns": True,
    "light": 0.1,
    "white_balance": 0.1,
    "ramp": 0.1,
    "noise": 1.0,
    "defocus": 0.5,
    "jpeg_quality": 80,
    "shift": 0.01,
    "cache_gib": 0.25,
    "calibration_fraction": 0.3,
    "calibration_minimum": 3,
    "group_by": "folder",
    "teacher": "resnet18.tv_in1k",
    "teacher_weights": "teacher.safetensors",
    "student": "resnet18",
    "student_width": 64,
    "head": "aspp",
    "head_width": 32,
    "head_dilations": (1, 2),
    "surface_width": 16,
    "consensus": 0.5,
    "textures": "some/folder",
    "perlin_units": "pixels",
    "perlin_octaves": (1, 3),
    "perlin_threshold": 0.4,
    "perlin_scale": (3.5, 9.0),
    "anomaly_area": (0.01, 0.02),
    "opacity": (0.5, 0.75),
    "anomaly_probability": 0.5,
    "line_probability": 0.4,
    "cutpaste_probability": 0.7,
    "defect_fraction": 0.6,
    "batch_size": 4,
    "denoise_steps": 7,
    "segment_steps": 8,
    "optimizer": "sgd",
    "lr_student": 1e-5,
    "lr_head_blocks": 1e-06,
    "lr_head": 3e-7,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "eta_min": 0.05,
    "denoise_loss": "mse",
    "denoise_loss_scale": 2.0,
    "segment_loss": "bce",
    "focal_gamma": 2.0,
    "precision": "bf16",
    "gradient_checkpointing": True,
    "device": "cpu",
    "seed": 11,
    "cross_fit": 2,
    "checkpoint_every": 9,
    "log_every": 3,
    "tensorboard": True,
    "score_fraction": 0.1,
    "confidence": 0.9,
    "room": 0.25,
    "max_false_alarm_rate": 0.05,
}


def refusal(**changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_preset(**changes)
    return str(caught.value)


@pytest.mark.parametrize(("group", "item"), FIELDS, ids=lambda value: getattr(value, "name", value))
def test_every_setting_is_documented(group, item):
    text = item.metadata["help"]
    assert len(text) > 10
    assert text.endswith(".")


def test_names_are_unique_over_all_groups_and_cannot_be_taken_for_a_group_or_a_preset():
    names = [item.name for _, item in FIELDS]
    assert len(set(names)) == len(names) > 40
    assert len({flag(name) for name in names}) == len(names)
    assert not set(names) & {"preset", "settings", "output", "resume", "overwrite", "quiet", "data"}


def test_settings_are_frozen():
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.preset = "paper"  # type: ignore[misc]
    for group, item in FIELDS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(getattr(settings, group), item.name, 1)
    assert hash(settings) == hash(Settings())


@pytest.mark.parametrize("group", GROUPS)
def test_the_preset_paper_is_the_published_recipe(group):
    values = dataclasses.asdict(getattr(Settings.from_preset("paper"), group))
    assert {name: values[name] for name in PAPER[group]} == PAPER[group]


def test_the_paper_turns_nothing_and_flattens_no_rate_unless_asked():
    paper = Settings.from_preset("paper")
    assert paper.data.rotation == 0
    assert paper.training.precision == "fp32"
    assert not paper.training.gradient_checkpointing


def test_fast_is_the_default_and_differs_from_paper():
    assert Settings.from_preset("fast") == Settings.from_preset() == Settings()
    assert Settings.from_preset("paper") != Settings()
    assert Settings().model.teacher == "tf_efficientnet_lite0"
    assert set(PRESETS) == {"fast", "paper"}
    assert Settings.from_preset("paper").preset == "paper"


def test_both_presets_score_the_same_share_of_the_map():
    for preset in PRESETS:
        assert Settings.from_preset(preset).decision.score_fraction * 256**2 == 100


def test_every_field_can_be_changed_and_only_it_changes():
    assert set(OTHER) == {item.name for _, item in FIELDS}
    for group, item in FIELDS:
        before = dataclasses.asdict(Settings())
        after = dataclasses.asdict(Settings.from_preset(**{item.name: OTHER[item.name]}))
        assert after[group][item.name] == OTHER[item.name] != before[group][item.name]
        after[group][item.name] = before[group][item.name]
        assert after == before


def test_all_problems_are_listed_at_once_with_their_flags():
    message = refusal(
        image_size=65, batch_size="many", lr_student=-1.0, rotation="sideways", opacity=(0.9, 0.1)
    )
    flags = ("--image-size", "--batch-size", "--lr-student", "--rotation", "--opacity")
    assert sorted(line.split(":")[0] for line in message.splitlines()) == sorted(flags)
    for line in message.splitlines():
        assert "expected" in line
        assert "got" in line
    assert "'many'" in message
    assert "expected a finite number, got 'sideways'" in message


@pytest.mark.parametrize("value", ["64x96", [64, 96], (np.int64(64), 96)])
def test_an_image_size_is_height_and_width(value):
    data = Settings.from_preset(image_size=value).data
    assert data.image_size == data.size == (64, 96)


def test_a_square_is_one_number_and_auto_is_square_until_there_are_images():
    assert Settings.from_preset(image_size=(64, 64)) == Settings.from_preset(image_size=64)
    assert Settings.from_preset(image_size="64x64").data.size == (64, 64)
    assert Settings().data.size == (256, 256)


@pytest.mark.parametrize(
    ("changes", "crop"),
    [
        ({}, None),
        ({"image_size": (160, 416)}, None),
        ({"image_size": 288}, None),
        ({"image_size": (320, 800)}, (256, 256)),
        ({"image_size": 512}, (256, 256)),
        ({"image_size": 512, "crop_size": 0}, None),
        ({"image_size": 512, "crop_size": 384}, (384, 384)),
        ({"image_size": (128, 2048)}, (128, 512)),
        ({"image_size": (2048, 128)}, (512, 128)),
        ({"image_size": (96, 1120)}, (96, 672)),
        ({"image_size": 512, "tile": True}, (512, 512)),
    ],
)
def test_training_sees_crops_of_large_images_with_the_area_of_a_square(changes, crop):
    assert Settings.from_preset(**changes).data.crop == crop


def test_the_paper_trains_on_whole_images():
    assert Settings.from_preset("paper", image_size=512).data.crop is None


def test_tiles_are_square():
    assert "--image-size: expected one number with --tile" in refusal(
        tile=True, image_size=(64, 96)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 256.0),
        ("image_size", "256"),
        ("image_size", "256x"),
        ("image_size", (64, 100)),
        ("image_size", (64, 64, 64)),
        ("image_size", "big"),
        ("image_size", True),
        ("image_size", None),
        ("image_size", 0),
        ("image_size", 32),
        ("image_size", 100),
        ("image_size", -64),
        ("batch_size", True),
        ("batch_size", 1),
        ("seed", -1),
        ("seed", 1.0),
        ("skip_unreadable", 1),
        ("skip_unreadable", "yes"),
        ("tensorboard", None),
        ("rotation", None),
        ("rotation", "ten"),
        ("rotation", -1.0),
        ("rotation", 181.0),
        ("quarter_turns", 1),
        ("teacher", 18),
        ("teacher", None),
        ("teacher_weights", 3),
        ("head_dilations", ()),
        ("head_dilations", (0,)),
        ("head_dilations", (6, 12.0)),
        ("head_dilations", 6),
        ("perlin_octaves", (0,)),
        ("perlin_octaves", (0, 1, 2)),
        ("perlin_octaves", (0.0, 5.0)),
        ("perlin_octaves", (5, 0)),
        ("perlin_octaves", (-1, 5)),
        ("perlin_octaves", (0, 30)),
        ("perlin_octaves", (False, True)),
        ("perlin_scale", (50.0,)),
        ("perlin_scale", (0.0, 10.0)),
        ("perlin_scale", (1.0, float("inf"))),
        ("anomaly_area", (0.0, 0.5)),
        ("anomaly_area", (0.5, 1.5)),
        ("anomaly_area", (float("nan"), 0.5)),
        ("anomaly_area", (0.5, float("nan"))),
        ("opacity", (0.2, float("inf"))),
        ("opacity", ("0.2", "1")),
        ("opacity", (0.0, 0.0)),
        ("anomaly_probability", 0.0),
        ("anomaly_probability", 1.01),
        ("perlin_threshold", -0.1),
        ("perlin_threshold", 1.0),
        ("momentum", 1.5),
        ("eta_min", 2.0),
        ("calibration_fraction", 1.1),
        ("calibration_minimum", 0),
        ("denoise_steps", 0),
        ("segment_steps", 0),
        ("warmup_steps", -1),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("head_width", 1),
        ("max_pixels", 0),
        ("cache_gib", -1.0),
        ("weight_decay", -1e-9),
        ("focal_gamma", -1.0),
        ("lr_student", 0.0),
        ("denoise_loss_scale", 0),
        ("score_fraction", 0.0),
        ("score_fraction", 1.5),
        ("max_false_alarm_rate", 0.0),
        ("max_false_alarm_rate", 1.0001),
        ("precision", "fp64"),
        ("optimizer", ["sgd"]),
    ],
)
def test_values_that_do_not_fit_are_refused_by_flag(name, value):
    message = refusal(**{name: value})
    assert message.startswith(f"{flag(name)}: expected ")
    assert message.count("\n") == 0
    assert repr(value) in message


@pytest.mark.parametrize(
    "name", [item.name for group, item in FIELDS if isinstance(item.default, float)]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), True, "0.1", None])
def test_no_number_may_be_infinite_nan_or_another_type(name, value):
    assert refusal(**{name: value}).startswith(f"{flag(name)}: expected ")


def test_whole_numbers_too_large_for_a_float_are_refused_or_taken_but_never_a_trace():
    assert "--momentum" in refusal(momentum=10**400)
    assert Settings.from_preset(max_pixels=10**400).data.max_pixels == 10**400


@pytest.mark.parametrize("name", ["lr_student", "cache_gib", "momentum", "score_fraction"])
def test_a_whole_number_is_taken_for_a_number(name):
    assert Settings.from_preset(**{name: 1}).flat()[name] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calibration_fraction", 0.0),
        ("max_false_alarm_rate", 1.0),
        ("eta_min", 0.0),
        ("weight_decay", 0.0),
        ("cache_gib", 0.0),
        ("perlin_octaves", (3, 3)),
        ("opacity", (0.0, 1.0)),
        ("perlin_threshold", 0.0),
        ("anomaly_area", (1.0, 1.0)),
        ("teacher_weights", None),
        ("head_dilations", (1,)),
        ("image_size", 64),
        ("batch_size", 2),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert Settings.from_preset(**{name: value}).flat()[name] == value


def test_unknown_names_are_refused_with_the_nearest_known_one():
    message = refusal(image_sise=128, completely_else=1)
    assert "'image_sise'; did you mean 'image_size'?" in message
    assert "'completely_else'" in message
    with pytest.raises(SettingsError, match="did you mean 'data'"):
        Settings.from_dict({"dta": {}})
    with pytest.raises(SettingsError, match=r"did you mean 'training\.batch_size'"):
        Settings.from_dict({"training": {"batchsize": 3}})
    with pytest.raises(SettingsError, match=r"'data\.batch_size'"):
        Settings.from_dict({"data": {"batch_size": 3}})


def test_an_unknown_preset_is_refused_with_the_known_ones():
    for wrong in ("papr", "", None, 3, ["fast"], {"fast": 1}):
        with pytest.raises(SettingsError, match="--preset: expected one of fast, paper, got"):
            Settings.from_preset(wrong)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="--preset"):
            Settings.from_dict({"preset": wrong})


def test_a_preset_can_be_changed_in_the_same_call():
    changed = Settings.from_preset("paper", batch_size=8)
    assert changed.training.batch_size == 8
    assert changed.replace(batch_size=32) == Settings.from_preset("paper")
    assert changed.model == Settings.from_preset("paper").model


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_yaml_gives_equal_settings_back(preset, tmp_path):
    for settings in (Settings.from_preset(preset), Settings.from_preset(preset, **OTHER)):
        path = tmp_path / "settings.yaml"
        path.write_text(settings.to_yaml(), encoding="utf-8")
        assert Settings.from_yaml(path) == settings
        assert Settings.from_yaml(str(path)) == settings
        assert yaml.safe_load(settings.to_yaml())["preset"] == preset


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_plain_values_go_through_json(preset):
    settings = Settings.from_preset(preset, **OTHER)
    text = json.dumps(settings.to_dict(), allow_nan=False)
    assert Settings.from_dict(json.loads(text)) == settings


numbers = st.floats(1e-12, 1, exclude_min=True)
sides = st.integers(2, 64).map(lambda k: 32 * k)
pairs = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))


@how(max_examples=50)
@given(
    preset=st.sampled_from(["fast", "paper"]),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "lr_student": st.floats(1e-300, 1e300),
            "score_fraction": numbers,
            "weight_decay": st.floats(0, 1e10),
            "opacity": pairs,
            "anomaly_area": pairs,
            "head_dilations": st.lists(st.integers(1, 99), min_size=1).map(tuple),
            "seed": st.integers(0, 2**63),
            "image_size": sides | st.tuples(sides, sides) | st.just("auto"),
            "textures": st.text(min_size=1, max_size=20),
            "teacher_weights": st.none() | st.text(min_size=1, max_size=20),
            "rotation": st.floats(0, 180),
            "quarter_turns": st.booleans(),
            "tensorboard": st.booleans(),
        },
    ),
)
def test_any_settings_survive_yaml_and_json(preset, changes):
    settings = Settings.from_preset(preset, **changes)
    assert Settings.from_dict(yaml.safe_load(settings.to_yaml())) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_yaml_file_needs_to_say_only_what_differs(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("preset: paper\ntraining: {batch_size: 8}\n", encoding="utf-8")
    assert Settings.from_yaml(path) == Settings.from_preset("paper", batch_size=8)
    path.write_text("data: {image_size: 128}\n", encoding="utf-8")
    assert Settings.from_yaml(path) == Settings.from_preset("fast", image_size=128)
    path.write_text("synthesis: {opacity: [0.1, 0.2]}\n", encoding="utf-8")
    assert Settings.from_yaml(path).synthesis.opacity == (0.1, 0.2)


def test_numbers_may_be_written_as_people_write_them(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("training: {lr_student: 2e-3, weight_decay: 1E-4}\n", encoding="utf-8")
    training = Settings.from_yaml(path).training
    assert (training.lr_student, training.weight_decay) == (0.002, 0.0001)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("data: {image_sise: 64}\n", "did you mean 'data.image_size'"),
        ("image_size: 64\n", "unknown setting 'image_size'"),
        ("data: 64\n", "data: expected a group of settings, got 64"),
        ("data:\n", "data: expected a group of settings, got None"),
        ("data: {image_size: 65}\ntraining: {seed: -1}\n", "--seed"),
        ("data: {1: 2}\n", "unknown setting 'data.1'"),
        ("1: 2\n", "unknown setting"),
        ("[]\n", "expected groups of settings, got []"),
        ("", "expected groups of settings"),
        ("just words\n", "expected groups of settings"),
        ("data: {image_size: 64\n", "expected YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "expected YAML"),
        (b"\xff\xfe\x00data", "expected YAML"),
    ],
)
def test_a_bad_yaml_file_is_named_with_what_is_wrong(content, said, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        Settings.from_yaml(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_yaml_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SettingsError) as caught:
            Settings.from_yaml(path)
        assert str(path) in str(caught.value)
        assert "expected a YAML file" in str(caught.value)


def test_numpy_lists_and_paths_are_taken_and_kept_as_plain_values(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    given = Settings.from_preset(
        image_size=np.int64(128),
        weight_decay=np.float32(0.5),
        skip_unreadable=np.bool_(True),
        opacity=[np.float64(0.25), 1],
        head_dilations=[1, np.int32(2)],
        textures=Path("dtd"),
        roi="~/roi.png",
    )
    plain = Settings.from_preset(
        image_size=128,
        weight_decay=0.5,
        skip_unreadable=True,
        opacity=(0.25, 1),
        head_dilations=(1, 2),
        textures="dtd",
        roi="/home/ada/roi.png",
    )
    assert given == plain
    for then, now in zip(given.flat().values(), plain.flat().values(), strict=True):
        assert type(then) is type(now)
    assert [type(item) for item in (*given.synthesis.opacity, *given.model.head_dilations)] == [
        float,
        int,
        int,
        int,
    ]
    with pytest.raises(SettingsError, match=r"--batch-size: expected a whole number, got 2\.5"):
        Settings.from_preset(batch_size=np.float64(2.5))
