"""The notebooks run from the first cell to the last, and are kept without what they show."""

import ast
import inspect
import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import destseg
from destseg.cli.main import COMMANDS, main

FOLDER = Path(__file__).resolve().parents[1] / "docs/notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
STEPS = re.compile(r"((?:denoise|segment)_steps ?= ?)\d+", re.IGNORECASE)
SETTINGS = set(destseg.Settings().flat())


def test_there_are_two():
    assert [path.name for path in PATHS] == ["from-folder-to-line.ipynb", "paper-to-figures.ipynb"]


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_it_is_kept_as_written(notebook):
    """Outputs make every diff unreadable; the site and whoever runs it make their own."""
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.metadata, cell.id
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_its_code_compiles(code):
    for source in code:
        compile(source, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_its_names_exist(code):
    for node in ast.walk(ast.parse("\n".join(code))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "destseg":
            assert node.attr in destseg.__all__


def test_its_keywords_exist(code, text):
    # What the text tells to call counts too.
    spoken = [call for call in re.findall(r"`(destseg\.[^`]+\))`", text) if "..." not in call]
    checked = 0
    for call in ast.walk(ast.parse("\n".join([*code, *spoken]))):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if name.startswith("destseg."):
            known = SETTINGS | {"preset"}
            if "." not in name.removeprefix("destseg."):
                called = getattr(destseg, name.removeprefix("destseg."))
                known |= set(inspect.signature(called).parameters)
            given = {each.arg for each in call.keywords if each.arg}
            assert given <= known, name
            checked += len(given)
    assert checked
    # And single settings, with a value.
    for setting in re.findall(r"`(\w+)=[^`()]+`", text):
        assert setting in SETTINGS


def test_commands_and_their_flags_exist(text, capsys):
    for words in map(shlex.split, re.findall(r"`(destseg [^`]+)`", text)):
        assert words[1] in COMMANDS, words
        assert main([words[1], "--help"]) == 0
        described = capsys.readouterr().out
        flags = [word for word in words[2:] if word.startswith("--")]
        assert [each for each in flags if each not in described] == [], words


def test_links_lead_somewhere(text):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    links += [f"../../{name}" for name in re.findall(r"`(benchmarks/[^`]+)`", text)]
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.slow
def test_it_runs_and_leaves_nothing_behind(path, notebook, tmp_path, monkeypatch):
    places = {name: tmp_path / name for name in ("here", "home", "temporary", "jupyter")}
    for place in places.values():
        place.mkdir()
    # What Jupyter writes for itself is none of the notebook's; neither is a user's own kernel.
    for name in ("RUNTIME", "CONFIG", "DATA"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(places["jupyter"]))
    kernel = {
        **os.environ,
        "IPYTHONDIR": str(places["jupyter"]),
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        # PyTorch makes this folder, empty, when a model is exported.
        "TORCHINDUCTOR_CACHE_DIR": str(places["jupyter"] / "inductor"),
    }
    shortened = 0
    for cell in notebook.cells:  # all steps are run where the site is made
        cell.source, count = STEPS.subn(r"\g<1>5", cell.source)
        shortened += count
    assert shortened == 2
    client = NotebookClient(
        notebook,
        timeout=1800,  # seconds a cell; the machine may have other work
        kernel_name="python3",
        resources={"metadata": {"path": str(places["here"])}},
    )
    client.execute(env=kernel)  # raises what a cell raises
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    # No warning that a reader would stumble over.
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    del places["jupyter"]
    left = [each for place in places.values() for each in place.rglob("*")]
    assert left == [], path.name
