"""What the Dockerfiles copy is there and reaches the builder."""

import importlib.util
import json
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*Dockerfile")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def instructions(dockerfile):
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.partition(" ")[::2] for line in joined.splitlines() if line.strip()]


def ignored(path, patterns):
    """Say whether a path is kept from the builder: the last pattern that fits it or a parent."""
    parts = PurePosixPath(path).parts
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    out = False
    for pattern in patterns:
        wanted = pattern.lstrip("!").strip("/")
        # "**" is any number of folders, "*" anything within a name.
        expression = re.escape(wanted).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, each) for each in above):
            out = not pattern.startswith("!")
    return out


def patterns_for(dockerfile):
    own = ROOT / f"{dockerfile}.dockerignore"
    lines = (own if own.is_file() else ROOT / ".dockerignore").read_text(encoding="utf-8")
    return [line.strip() for line in lines.splitlines() if line.strip() and line[0] != "#"]


@pytest.mark.parametrize(
    ("path", "patterns", "out"),
    [
        ("src/a.py", ["*", "!src"], False),
        ("tests/a.py", ["*", "!src"], True),
        ("src/x/__pycache__/a.pyc", ["*", "!src", "**/__pycache__"], True),
        ("runs/bottle", ["runs/*"], True),
        ("runs", ["runs/*"], False),
    ],
)
def test_the_rule_of_what_is_ignored(path, patterns, out):
    assert ignored(path, patterns) == out


def test_there_are_dockerfiles():
    assert {"Dockerfile", "deploy/kuberay/Dockerfile"} <= set(DOCKERFILES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_is_there_and_not_ignored(dockerfile):
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.M)
    copied = []
    for name, words in instructions(dockerfile):
        if name not in ("COPY", "ADD"):
            continue
        *sources, _ = [word for word in shlex.split(words) if not word.startswith("--")]
        origin = re.search(r"--from=(\S+)", words)
        if origin:
            # Another stage, or a context that the way to build it names.
            assert origin[1] in stages or f"--build-context {origin[1]}=" in text
            continue
        for source in sources:
            path = ROOT / source
            assert path.exists(), source
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            reach = [not ignored(f.relative_to(ROOT), patterns_for(dockerfile)) for f in files]
            assert reach
            assert all(reach), source
        copied += sources
    # What the package is built from.
    assert {"pyproject.toml", "README.md", "LICENSE", "src"} <= set(copied)


def test_the_health_check_is_a_module_that_is_there():
    (words,) = [words for name, words in instructions("Dockerfile") if name == "HEALTHCHECK"]
    command = json.loads(words[words.index("[") :])
    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2]) is not None
    # The port that the server is told.
    (entry,) = [words for name, words in instructions("Dockerfile") if name == "ENTRYPOINT"]
    assert command[3] == json.loads(entry)[-1]
