"""One word for one thing, in names and in prose: what we do not say, and where it is right."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("src", "tests", "docs", "deploy", "benchmarks", ".ci")
SUFFIXES = {".py", ".js", ".html", ".css", ".md", ".ipynb", ".yaml", ".yml", ".toml", ".cff", ""}
SUFFIXES |= {".service"}
FILES = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in SUFFIXES]
FILES += [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file()]
FILES = sorted(
    path for path in FILES if path.suffix in SUFFIXES and path.name not in ("LICENSE", ".git")
)

# What is not said (a pattern for a line, whatever its letters' case), and what is said instead.
FORBIDDEN = {
    r"picture": "image",
    r"held[ _-]?out|hold[ _-]?out": "calibration images",
    r"promis": "guaranteed, e.g. guaranteed_false_alarm_rate",
    r"shortfall": "guaranteed_false_alarm_rate",
    r"\bproducts?\b": "category",
    r"\bkinds? of (a )?defects?|\bdefect[ _]kinds?|/KIND\b|<kind>": "defect type",
    r"\bshares? (of|in|that)\b": "fraction (of an area or a set), probability",
    r"damage sheet|destseg damage": "synthetic anomaly, destseg preview",
    r"transplant": "CutPaste-style region",
    r"\btilt|--rotation turn|rotation: turn": "degrees, quarter turns",
    r"留出|图片": "校准图像, 图像",
}

ANY = re.compile("|".join(f"(?:{pattern})" for pattern in FORBIDDEN), re.IGNORECASE)

# Where one of them is the right word, and why.
ALLOWED = {
    r"new Promise\(|Promise\.resolve": "JavaScript's",
    r"itertools\.product|import product|\bproduct\(": "Python's",
    r"(matrix|outer|dot|8-bit dot|inner) products?\b": "of numbers",
    r"products? of (the )?features|beside (the|their) product|a product says nothing": "of numbers",
    r"two products|one is one product|undoing a turn is one product": "of numbers",
    r"^ *product, of what the tiles' rows": "an outer product",
    r"products = compare|for similar in products": "of numbers",
    r"product / best|: product$|product, convolution": "of numbers",
    r"(its|own|each|equal|smaller|process's) share of (the|it\b|a)|its own share of": "a process's",
    r"share of one\b": "a part of a GPU",
    r"network shares?": "folders on another machine",
}
# A process's share of a batch is the subject of the second, and what folders of users are called
# that of the first.
ALLOWED_IN = {
    r"picture": {"data/names.py", "data/test_samples.py"},
    r"\bshares? (of|in|that)\b": {
        *("synthesis/batches.py", "training/processes.py", "training/train.py"),
        *("training/shares.py", "synthesis/test_batches.py", "training/test_processes.py"),
    },
}


def forbidden(line: str, name: str = "") -> list[str]:
    """Return what a line of a file says that has another word here."""
    if ANY.search(line) is None:  # most lines
        return []
    for right in ALLOWED:
        line = re.sub(right, "", line, flags=re.IGNORECASE)
    return [
        f"{found.group()!r}: say {instead}"
        for pattern, instead in FORBIDDEN.items()
        if not name.endswith(tuple(ALLOWED_IN.get(pattern, ["\0"])))
        if (found := re.search(pattern, line, re.IGNORECASE)) is not None
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_one_word_is_said_for_one_thing(path):
    if path == Path(__file__):
        return  # names them all
    name = path.relative_to(ROOT).as_posix()
    # The name of a file is a text too.
    lines = [name, *path.read_text(encoding="utf-8").splitlines()]
    wrong = [
        f"{name}:{n}: {each}" for n, line in enumerate(lines) for each in forbidden(line, name)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "def read_picture(path): ...",
        "the held-out images",
        'HELD_OUT = ("002.png",)',
        "the promised rate",
        "promised_false_alarm_rate: float",
        "a model for each of many products",
        "images of each kind of defect",
        "test/KIND",
        "the share of good parts that may be flagged",
        "训练时留出百分之十的图片",
    ],
)
def test_a_word_that_is_not_said_here_is_found(line):
    assert forbidden(line, "src/destseg/data/images.py")


@pytest.mark.parametrize(
    "line",
    [
        "return new Promise(resolve => canvas.toBlob(resolve))",
        "for y, x in itertools.product((1, 2), repeat=2):",
        "an outer product",
        "each process makes its share of the same batch",
        "what the phases share: the frozen features",
        "this kind of image",
    ],
)
def test_the_right_uses_of_such_words_are_not(line):
    assert not forbidden(line, "src/destseg/data/images.py")
