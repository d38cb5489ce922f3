import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from destseg.cli.flags import add_settings_flags, base_settings, settings_options
from destseg.cli.main import main
from destseg.config import GROUPS, PRESETS, Settings, flag
from destseg.errors import SettingsError

FIELDS = [
    (group, item) for group in GROUPS for item in dataclasses.fields(getattr(Settings(), group))
]


def by_name(value: object) -> str:
    return getattr(value, "name", str(value))


def read(*words: str, fallback: Path | None = None) -> Settings:
    """What the words of a command line mean."""
    base = base_settings(words, fallback)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_settings_flags(parser, base)
    return base.replace(**settings_options(parser.parse_args(words)))


@pytest.fixture
def helps(monkeypatch, capsys):
    """Returns the help of every flag of a command, each in one line."""

    def get(*words: str) -> dict[str, str]:
        monkeypatch.setenv("COLUMNS", "2000")
        assert main([*words, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        # A long flag has its help in the next line.
        text = "\n".join(lines).replace("\n                        ", "  ")
        return dict(re.findall(r"^  (--[\w-]+)(.*)$", text, re.MULTILINE))

    return get


def same(shown: str, value: Any) -> bool:
    if isinstance(value, tuple):
        return [float(part) for part in shown.split()] == pytest.approx(list(value))
    if isinstance(value, float):
        return float(shown) == pytest.approx(value, rel=1e-5)
    return shown == str(value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_has_a_flag_whose_help_says_its_meaning_and_default(preset, helps):
    listed = helps("train", "--preset", preset)
    values = Settings.from_preset(preset)
    for group, item in FIELDS:
        text = listed[flag(item.name)]
        assert item.metadata["help"].rstrip(".") in text
        default = getattr(getattr(values, group), item.name)
        shown = re.findall(r"\(default: (.*?)\)", text)
        if default is None:
            assert shown == []
        else:
            assert len(shown) == 1, text
            assert same(shown[0], default), text


def test_the_preview_command_has_the_flags_that_matter_to_it(helps):
    listed = set(helps("preview"))
    for group, item in FIELDS:
        wanted = group in ("data", "variation", "synthesis") or item.name == "seed"
        assert (flag(item.name) in listed) == wanted


# Every kind of value, as people write them.
WRITTEN = [
    ("image_size", ["128"], 128),
    ("image_size", ["64x96"], (64, 96)),
    ("image_size", ["auto"], "auto"),
    ("max_pixels", ["1000"], 1000),
    ("lr_student", ["1e-3"], 0.001),
    ("lr_student", ["3"], 3.0),
    ("rotation", ["10"], 10.0),
    ("teacher", ["resnet18"], "resnet18"),
    ("teacher_weights", ["some file.pth"], "some file.pth"),
    ("teacher_weights", ["123"], "123"),
    ("textures", ["1e5"], "1e5"),
    ("opacity", ["0.1", "0.9"], (0.1, 0.9)),
    ("perlin_octaves", ["1", "3"], (1, 3)),
    ("head_dilations", ["2"], (2,)),
    ("head_dilations", ["1", "2", "3", "4"], (1, 2, 3, 4)),
    ("seed", ["0"], 0),
]


@pytest.mark.parametrize(("name", "written", "value"), WRITTEN)
def test_a_flag_changes_its_setting_and_no_other(name, written, value):
    assert read(flag(name), *written) == Settings.from_preset(**{name: value})
    assert read("--preset", "paper", flag(name), *written) == Settings.from_preset(
        "paper", **{name: value}
    )


@pytest.mark.parametrize("name", ["skip_unreadable", "tensorboard", "gradient_checkpointing"])
def test_switches_turn_on_and_off(name):
    assert read(flag(name)).flat()[name] is True
    assert read("--no-" + flag(name)[2:]).flat()[name] is False


def test_no_flags_are_the_preset():
    assert read() == Settings()
    assert read("--preset", "fast") == Settings()
    assert read("--preset", "paper") == Settings.from_preset("paper")


def test_flags_win_over_the_file_and_the_file_over_its_preset(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("preset: paper\ntraining: {batch_size: 8, seed: 3}\n", encoding="utf-8")
    settings = read("--seed", "5", "--settings", str(path), "--lr-head", "0.5")
    assert settings == Settings.from_preset("paper", batch_size=8, seed=5, lr_head=0.5)


def test_what_training_writes_can_be_used_again(tmp_path):
    for preset in PRESETS:
        settings = Settings.from_preset(preset, opacity=(0.5, 0.6), teacher_weights="x.pth")
        (tmp_path / "settings.yaml").write_text(settings.to_yaml(), encoding="utf-8")
        assert read("--settings", str(tmp_path / "settings.yaml")) == settings


def test_a_fallback_file_counts_only_where_nothing_else_is_said(tmp_path):
    path = tmp_path / "earlier.yaml"
    path.write_text("data: {image_size: 96}\n", encoding="utf-8")
    assert read(fallback=path).data.image_size == 96
    assert read("--image-size", "64", fallback=path).data.image_size == 64
    assert read("--preset", "fast", fallback=path) == Settings()
    assert read(fallback=tmp_path / "nothing.yaml") == Settings()


def test_a_preset_and_a_file_at_once_are_refused(tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text("preset: paper\n", encoding="utf-8")
    words = ["--preset", "fast", "--settings", str(path)]
    assert main(["train", "data", "--output", str(tmp_path / "model"), *words]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_an_unknown_preset_is_refused(tmp_path, capsys):
    assert main(["train", "data", "--output", "model", "--preset", "papr"]) == 2
    err = capsys.readouterr().err
    assert "papr" in err
    assert "paper" in err


@pytest.mark.parametrize("content", ["data: {image_sise: 64}\n", "data: {image_size: 65}\n", "- 1"])
def test_a_file_that_does_not_fit_is_refused_by_name(content, tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    assert main(["train", "data", "--output", "model", "--settings", str(path)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert "Traceback" not in err


def test_a_missing_file_is_refused_by_name(tmp_path, capsys):
    words = ["--settings", str(tmp_path / "nothing.yaml")]
    assert main(["train", "data", "--output", "model", *words]) == 2
    assert str(tmp_path / "nothing.yaml") in capsys.readouterr().err


def test_all_wrong_flags_are_told_at_once(tmp_path, capsys):
    wrong = {
        "--image-size": ["65"],
        "--batch-size": ["many"],
        "--lr-student": ["nan"],
        "--weight-decay": ["inf"],
        "--rotation": ["sideways"],
        "--opacity": ["0.9", "0.1"],
        "--head-dilations": ["6", "twelve"],
        "--max-false-alarm-rate": ["2%"],
    }
    words = [word for name, values in wrong.items() for word in (name, *values)]
    assert main(["train", str(tmp_path), "--output", str(tmp_path / "model"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for name in wrong:
        assert f"{name}: expected" in err
    assert err.count("expected") == len(wrong)
    assert not (tmp_path / "model").exists()


def test_a_flag_of_scripts_from_before_is_taken_and_told_to_do_nothing(capsys, monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr("destseg.training.train.train", lambda *a, **k: given.append((a, k)))
    words = ["train", "parts", "--output", "model"]
    assert (main([*words, "--surface-steps", "5"]), main(words)) == (0, 0)
    assert given[0] == given[1]
    said = capsys.readouterr().err
    assert said.count("--surface-steps does nothing any more: both heads learn in --segment") == 1
    assert main(["train", "--help"]) == 0
    assert "surface-steps" not in capsys.readouterr().out


def test_a_file_of_settings_from_before_is_read_and_a_call_says_what_is_gone():
    read_back = Settings.from_dict({"training": {"surface_steps": 800, "seed": 3}})
    assert read_back == Settings.from_preset(seed=3)
    with pytest.raises(SettingsError, match=r"no setting any more: both heads .* leave it out"):
        Settings.from_preset("fast", surface_steps=800)


def test_the_messages_say_the_words_that_were_written():
    for words in (["--batch-size", "16.5"], ["--seed", "0x10"], ["--perlin-units", "none"]):
        with pytest.raises(SettingsError, match=re.escape(repr(words[1]))):
            read(*words)


def test_the_train_command_hands_everything_on(tmp_path, monkeypatch):
    calls: list[Any] = []
    monkeypatch.setattr("destseg.training.train.train", lambda *a, **k: calls.append((a, k)))
    words = ["train", "parts", "--output", "model", "--preset", "paper", "--seed", "4"]
    assert main(words) == 0
    assert main([*words, "--overwrite", "--quiet"]) == 0
    plain = {
        "output": Path("model"),
        "settings": Settings.from_preset("paper", seed=4),
        "defects": None,
        "ancestor": None,
        "accept_losses": False,
        "resume": False,
        "overwrite": False,
        "quiet": False,
    }
    for (places, given), changes in zip(
        calls, [{}, {"overwrite": True, "quiet": True}], strict=True
    ):
        del given["on_progress"]
        assert (places, given) == ((Path("parts"),), plain | changes)


def test_a_resumed_run_goes_on_with_its_own_settings(tmp_path, monkeypatch):
    calls: list[Any] = []
    train = "destseg.training.train.train"
    monkeypatch.setattr(train, lambda _, **k: calls.append(k["settings"]))
    earlier = Settings.from_preset("paper", batch_size=8)
    (tmp_path / "settings.yaml").write_text(earlier.to_yaml(), encoding="utf-8")
    words = ["train", "parts", "--output", str(tmp_path)]
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--resume", "--log-every", "1"]) == 0
    assert main(words) == 0
    assert calls == [earlier, earlier.replace(log_every=1), Settings()]


def test_a_size_is_shown_as_it_is_given(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("data: {image_size: [64, 96]}\n", encoding="utf-8")
    assert main(["train", "--settings", str(path), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--image-size SIZE" in shown
    assert "(default: 64x96)" in shown
