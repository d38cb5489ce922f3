"""What the pages show runs, and what they name exists: commands, flags, names, files."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from conftest import load_script
from destseg.cli.main import COMMANDS, main
from destseg.config import PRESETS, flag

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"denoise_steps": 1, "segment_steps": 1}
TINY = {"image_size": 64, "batch_size": 2, **STEPS}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the images that the pages speak of."""
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


def test_the_commands_of_the_command_line_page_run(workplace: Path) -> None:
    lines = [line for block in blocks("docs/commands.md", "sh") for line in block.splitlines()]
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
    documented = json.loads(blocks("docs/commands.md", "json")[0])
    assert [answer.keys() for answer in answers] == [documented.keys()]
    assert answers[0]["path"] == documented["path"]
    assert (workplace / "preview.png").is_file()
    assert (workplace / "line1.json").is_file()
    assert (workplace / "overlays" / "7.png").is_file()


def test_the_json_of_a_result_names_every_field_of_a_region() -> None:
    region = json.loads(blocks("docs/commands.md", "json")[0])["regions"][0]
    assert set(region) == set(destseg.Region.__dataclass_fields__)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """As it is printed; only the preset that it trains by default is made small."""
    monkeypatch.setitem(PRESETS, "fast", {**TINY, "calibration_minimum": 2})
    Path("1.png").write_bytes(Path("part.png").read_bytes())
    Path("broken.png").write_bytes(b"no image")
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(code, names)
    result = names["result"]
    assert isinstance(result, destseg.Result)
    assert destseg.load("runs/bottle").predict("part.png").score == result.score
    if page != "README.md":
        assert [each is None for each in names["results"]] == [False, True]  # type: ignore[attr-defined]


def test_readmes_have_the_same_code() -> None:
    for language in ("sh", "python", "json"):
        english, chinese = (
            [re.sub(r" *# .*", "", block) for block in blocks(page, language)]
            for page in ("README.md", "README.zh-CN.md")
        )
        assert english == chinese


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 100] == []


# The notes and the changelog are of their time: what they name may be gone.
PAGES = ["README.md", "README.zh-CN.md", "ARCHITECTURE.md"]
PAGES += [page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))]
# Flags of programs that are not ours, where they stand by themselves in a sentence.
OTHERS = {
    *("--no-index", "--find-links", "--shutdown-timeout", "--cpu", "--num_processes"),
    *("--multi_gpu", "--build-arg", "--training.batch_size"),
}


@functools.cache
def flags_of(command: str) -> frozenset[str]:
    """Return the flags of a command of ours, as its parser knows them."""
    with contextlib.redirect_stdout(io.StringIO()) as described:
        assert main([command, "--help"]) == 0
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w-]*", described.getvalue()))


def inline(page: str) -> list[str]:
    """Return the code in the sentences of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]


def shown(page: str) -> list[list[str]]:
    """Return the words of each command of a page, in blocks and in sentences."""
    text = "\n".join(re.sub(r"\\\n", " ", each) for each in blocks(page, "sh"))
    lines = [*text.splitlines(), *inline(page)]
    commands = []
    for line in lines:
        if re.search(r"(?:^|[\s/])(destseg|python|make|torchrun|accelerate) ", line):
            commands += [shlex.split(each, comments=True) for each in line.split(" && ")]
    return commands


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_flags_exist(page: str) -> None:
    for words in shown(page):
        if "destseg" in (ours := [Path(word).name for word in words]):
            words = words[ours.index("destseg") + 1 :]
            if words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
                assert words[0] in COMMANDS, words
                flags = [word.split("=")[0] for word in words if word.startswith("--")]
                assert [flag for flag in flags if flag not in flags_of(words[0])] == [], words


@pytest.mark.parametrize("page", PAGES)
def test_scripts_targets_and_their_flags_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    settings = flags_of("train")
    for words in shown(page):
        if words[:1] == ["make"]:
            assert words[1] in targets, words
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            known = set(re.findall(r'"(--[a-z][\w-]*)"', source))
            known |= settings if "add_settings_flags" in source else set()
            flags = [word for word in words if word.startswith("--")]
            assert [each for each in flags if each not in known] == [], words


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_sentences_exist(page: str) -> None:
    known = OTHERS.union(*(flags_of(command) for command in COMMANDS))
    words = {re.split("[ =:]", code)[0] for code in inline(page) if code.startswith("--")}
    assert words - known == set()


def exists(dotted: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of what comes before."""
    thing: object = destseg
    for depth, name in enumerate(names := dotted.split("."), 1):
        if depth > 1 and not hasattr(thing, name):
            fields = getattr(thing, "__annotations__", {})
            try:
                thing = importlib.import_module(".".join(names[:depth]))
            except ImportError:
                return name in fields
        elif depth > 1:
            thing = getattr(thing, name)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles_and_its_names_exist(page: str) -> None:
    named = {each for code in inline(page) for each in re.findall(r"^destseg(?:\.\w+)+", code)}
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("destseg"):
                named |= {f"{node.module}.{each.name}" for each in node.names}
        named |= set(re.findall(r"(?<![\w./-])destseg(?:\.\w+)+", code))
    named |= set(re.findall(r"^::: (destseg[\w.]*)", (ROOT / page).read_text("utf-8"), re.M))
    named = {each for each in named if not re.search(r"\.(service|env|yaml|py)$", each)}
    assert [each for each in sorted(named) if not exists(each)] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_project_exist(page: str) -> None:
    pattern = r"(?:src|tests|docs|benchmarks|deploy)/[\w./-]+"
    named = [code for code in inline(page) if re.fullmatch(pattern, code) and "NAME" not in code]
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize(
    "name", ["destseg.trainn", "destseg.Result.scor", "destseg.monitoring.drft"]
)
def test_a_name_that_does_not_exist_is_one(name: str) -> None:
    assert not exists(name)


def test_settings_page_is_up_to_date() -> None:
    module = load_script(ROOT / "docs" / "make_settings.py")
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == module.render(), "run: python docs/make_settings.py"
