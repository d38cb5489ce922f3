"""The README's commands and code run, and the pages written from the source are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.cli.main import COMMANDS, main
from destseg.config import PRESETS, flag, settings_fields

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"denoise_steps": 1, "segment_steps": 1}
TINY = {"image_size": 64, "batch_size": 2, **STEPS}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the images that the README speaks of."""
    random = np.random.default_rng(0)
    names = [f"data/bottle/train/good/{i}.png" for i in range(6)]
    names += [f"data/bottle/test/{name}/{i}.png" for name in ("good", "dent") for i in range(2)]
    names += [f"data/bottle/ground_truth/dent/{i}_mask.png" for i in range(2)]
    for name in [*names, "incoming/7.png", "part.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(image // 128 * 255 if "mask" in name else image).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_commands_run(workplace: Path) -> None:
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("destseg")]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert [words[0] for words in commands] == [
        *("preview", "train", "train", "predict", "drift", "evaluate", "report")
    ]
    tiny = [word for name, value in TINY.items() for word in (flag(name), str(value))]
    for words in commands:
        extra = {"train": [*tiny, "--calibration-minimum", "2"], "preview": ["--count", "2"]}
        # After one step the part may be above the threshold: then drift compares nothing.
        codes = (0, 1) if words[0] == "drift" else (0,)
        assert main([*words, *extra.get(words[0], [])]) in codes, words
    answers = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    documented = json.loads(blocks("README.md", "json")[0])
    assert [answer.keys() for answer in answers] == [documented.keys()]
    assert answers[0]["path"] == documented["path"]
    assert (workplace / "preview.png").is_file()
    assert (workplace / "line1.json").is_file()
    assert (workplace / "overlays" / "7.png").is_file()


def test_readme_json_names_every_field_of_a_region() -> None:
    region = json.loads(blocks("README.md", "json")[0])["regions"][0]
    assert set(region) == set(destseg.Region.__dataclass_fields__)


def test_readme_python_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is printed; only the preset that it trains by default is made small."""
    monkeypatch.setitem(PRESETS, "fast", {**TINY, "calibration_minimum": 2})
    (code,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    result = names["result"]
    assert isinstance(result, destseg.Result)
    assert destseg.load("runs/bottle").predict("part.png").score == result.score


def test_readmes_have_the_same_code() -> None:
    for language in ("sh", "python", "json"):
        english, chinese = (
            [re.sub(r" *# .*", "", block) for block in blocks(page, language)]
            for page in ("README.md", "README.zh-CN.md")
        )
        assert english == chinese


def test_readme_flags_and_commands_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {flag(item.name) for _, item in settings_fields()}
    known |= {"--output", "--resume", "--overlays", "--preset", "--help", "--settings", "--state"}
    known |= {"--defects", "--from"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
    assert set(re.findall(r"^destseg (\w+)", text, re.M)) <= set(COMMANDS)


PAGES = ["README.md", "README.zh-CN.md", "ARCHITECTURE.md"]
PAGES += [page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_flags_exist(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    # Also those in the running text.
    lines += re.findall(r"`(destseg [^`]+)`", (ROOT / page).read_text(encoding="utf-8"))
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[:1] == ["destseg"] and len(words) > 1 and words[1].islower():
            assert words[1] in COMMANDS, words
            assert main([words[1], "--help"]) == 0
            described = capsys.readouterr().out
            flags = [word for word in words[2:] if word.startswith("--")]
            assert [each for each in flags if each not in described] == [], words


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert links or page not in ("README.md", "README.zh-CN.md")
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_settings_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == module.render(), "run: python docs/make_settings.py"
