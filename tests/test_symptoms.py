"""The symptoms' page quotes messages that exist, and flags that exist."""

import ast
import re
from pathlib import Path

import pytest

from destseg.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "symptoms.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.+)$", PAGE, re.M)
# Not ours: the system's, PyTorch's, and names of files and commands.
OTHERS = {"Killed", "CUDA out of memory", "watch", "-"}
QUOTED = [
    each for heading in HEADINGS for each in re.findall(r"`([^`]+)`", heading) if each not in OTHERS
]


def texts():
    """Return all texts of the source; what is put into one stands as a NUL."""
    found = []
    for path in (ROOT / "src" / "destseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                )
                found.append("".join(map(str, parts)))
    return found


@pytest.fixture(scope="module")
def source():
    return texts()


def is_said(message, source):
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
    pattern = re.compile(".*".join(pieces), re.S)
    return any(pattern.search(text) for text in source)


def test_there_are_symptoms():
    assert len(HEADINGS) > 60
    assert len(QUOTED) > 40
    assert len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_is_one_of_ours(message, source):
    assert is_said(message, source)


def test_a_message_that_nobody_says_is_found(source):
    assert not is_said("expected a trained model in ..., got a sandwich", source)


def test_each_symptom_says_what_to_do():
    entries = re.split(r"^### ", PAGE.partition("\n## ")[2], flags=re.M)[1:]
    assert [entry.splitlines()[0] for entry in entries if "*Do*" not in entry] == []


def test_flags_are_of_some_command(capsys):
    known = set()
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) > 40
    assert named - known == set()
