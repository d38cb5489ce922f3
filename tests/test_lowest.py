"""``constraints-lowest.txt`` has the lowest version of everything that pyproject.toml names."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# They check the sources, or make pages of them, and have no part in what runs.
CHECKERS = {"ruff", "mypy", "types-PyYAML"}
CHECKERS |= {"mkdocs", "mkdocs-material", "mkdocs-static-i18n", "mkdocstrings", "nbconvert"}


def declared():
    """Return the minimum of every requirement, by name; each is written name>=version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = {}
    for requirement in [each for one in lists for each in one]:
        name, _, rest = re.match(r"([\w-]+)(\[[\w,]+\])?(.*)", requirement).groups()
        if name in CHECKERS or name == "destseg":
            continue
        (least,) = re.findall(r"^>=([\d.]+)", rest)
        assert found.setdefault(name, least) == least, requirement
    return found


def held():
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    ours = "\n".join(lines).partition("\n# Not named")[0].splitlines()
    return dict(line.split("==") for line in ours if line and not line.startswith("#"))


def numbers(version):
    # 6 is 6.0 is 6.0.0.
    return re.sub(r"(\.0)+$", "", version)


def test_the_lowest_versions_are_those_declared():
    assert {name: numbers(version) for name, version in held().items()} == {
        name: numbers(version) for name, version in declared().items()
    }
