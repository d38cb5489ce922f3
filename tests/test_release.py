"""What is handed over: the wheel and the sdist, their metadata, and what they bring along."""

import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import destseg
from conftest import load_script
from destseg.cli import doctor
from destseg.errors import MissingExtraError, install_line

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = list(PROJECT["optional-dependencies"])


def build(what: str, source: Path, to: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(to)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = to.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, made of the sdist alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return zipfile.ZipFile(build("wheel", source, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def about(wheel):
    """The wheel's METADATA."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return BytesParser().parsebytes(wheel.read(name))


@pytest.fixture
def as_installed(about, monkeypatch):
    """What an installation of this wheel says of itself; the one that runs the tests may be old."""
    monkeypatch.setattr(metadata, "requires", lambda _: about.get_all("Requires-Dist"))


# --- wheel and sdist


def test_the_wheel_is_the_package_whole_and_nothing_else(wheel):
    source = ROOT / "src"
    ours = {
        path.relative_to(source).as_posix()
        for path in (source / "destseg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == ours
    assert "destseg/py.typed" in packed
    for name in packed:
        assert wheel.read(name) == (source / name).read_bytes(), name


def test_the_sdist_has_no_tests_and_is_small(sdist):
    with tarfile.open(sdist) as archive:
        files = [member for member in archive if member.isfile()]
    tops = {Path(member.name).parts[1] for member in files}
    assert tops == {
        *("src", "pyproject.toml", "PKG-INFO", "README.md", ".gitignore"),
        *("LICENSE", "THIRD_PARTY.md", "CHANGELOG.md", "CITATION.cff"),
    }
    assert max(member.size for member in files) < 100_000
    assert sdist.stat().st_size < 1_000_000


# --- metadata


def test_the_metadata_is_complete(about, wheel):
    assert about["Name"] == "destseg"
    assert about["Version"] == destseg.__version__
    assert about["Summary"]
    assert about["Author"] == "The destseg contributors"
    assert about["Author-Email"] is None
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    (licence,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert "anomaly detection" in about["Keywords"]
    assert about["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert about.get_payload(decode=True).decode() == (ROOT / "README.md").read_text("utf-8")
    (scripts,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert b"destseg = destseg.cli.main:main" in wheel.read(scripts)


def test_only_what_was_run_is_claimed(about):
    claimed = [
        each
        for each in about.get_all("Classifier")
        if each.startswith(("Operating System", "Programming Language :: Python :: 3."))
    ]
    assert claimed == [
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
    ]


def test_no_address_is_claimed(about):
    """There is no home page, no tracker and no index that has the package."""
    assert about.get_all("Project-URL") is None
    assert about["Home-Page"] is None
    for name in ("pyproject.toml", "CITATION.cff"):
        assert not re.findall(r"https?://\S+|\S+@\S+\.\S+", (ROOT / name).read_text("utf-8")), name


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == destseg.__version__
    assert citation["license"] == "Apache-2.0"
    assert [each["name"] for each in citation["authors"]] == [PROJECT["authors"][0]["name"]]


def test_the_changelog_has_the_usual_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version)
    usual = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for section in re.split(r"^## .*$", text, flags=re.M)[1:]:
        found = re.findall(r"^### (.*)$", section, re.M)
        assert found == [each for each in usual if each in found]
    entries = re.findall(r"^- (.*(?:\n  .*)*)", text, re.M)
    assert len(entries) > 20
    assert [each for each in entries if len(each) > 400] == []


# --- how to install an extra


def not_installed(name):
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_line_for_an_extra_installs_what_the_metadata_says(extra, about, as_installed):
    pip, install, *words = shlex.split(install_line(extra))
    assert (pip, install) == ("pip", "install")
    wanted = set()
    for requirement in map(Requirement, about.get_all("Requires-Dist")):
        of_extra = requirement.marker and not requirement.marker.evaluate({"extra": ""})
        if of_extra and requirement.marker.evaluate({"extra": extra}):
            wanted.add((requirement.name, requirement.specifier, *requirement.extras))
    given = [Requirement(word) for word in words]
    # What is left of a marker is for pip to judge.
    assert all(each.marker is None or each.marker.evaluate() for each in given)
    assert {(each.name, each.specifier, *each.extras) for each in given} == wanted
    assert wanted


def test_a_missing_extra_says_the_line(as_installed):
    error = MissingExtraError("openvino", "predicting", "openvino")
    assert str(error) == (
        "predicting needs the package 'openvino', which is not installed. "
        "Install the extra 'openvino' with: pip install 'openvino>=2026.4'"
    )


def test_without_an_installation_the_line_is_for_the_sources(monkeypatch):
    monkeypatch.setattr(metadata, "requires", not_installed)
    assert "pip install '.[onnx]'" in install_line("onnx")


def test_the_doctor_says_the_same_lines_whole(as_installed, monkeypatch, capsys):
    monkeypatch.setattr("destseg.inference.backends.installed", lambda _: False)
    monkeypatch.setattr(metadata, "version", not_installed)
    monkeypatch.setenv("COLUMNS", "60")
    assert doctor.run([]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"torch: {install_line('train')}" in out
    assert f"onnx: {install_line('onnx')}" in out
    assert f"destseg export and destseg quantize: {install_line('export')}" in out


def test_no_message_installs_destseg_from_an_index():
    """It is in none; what has its name there would be somebody else's."""
    texts = [
        *(ROOT / "src").rglob("*.py"),
        *ROOT.glob("README*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
    for path in texts:
        for line in re.findall(r"pip install[^\n]*", path.read_text(encoding="utf-8")):
            assert not re.search(r"destseg(?!-[\d.]+-py3)", line.partition(", in the folder")[0]), (
                path
            )


# --- third-party packages


@pytest.fixture(scope="module")
def third_party():
    return load_script(ROOT / "docs" / "make_third_party.py")


def listed(part: int) -> dict[str, tuple[str, str, str, str]]:
    """Return the rows of the page's first or second table, by package."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").split("\n## ")[part]
    rows = [
        [cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.*)\|$", text, re.M)
    ]
    return {name: tuple(others) for name, *others in rows[2:]}


def test_every_declared_package_is_listed_with_what_it_is_for(third_party):
    purposes: dict[str, list[str]] = {}
    for extra, requirements in third_party.declared().items():
        for requirement in requirements:
            name = canonicalize_name(Requirement(requirement).name)
            purposes.setdefault(name, []).append(extra)
    assert {name: row[0] for name, row in listed(1).items()} == {
        name: ", ".join(extras) for name, extras in purposes.items()
    }


def test_no_licence_has_changed(third_party):
    """Older versions than those that were read (the lowest that are allowed) may state another."""
    rows = listed(1) | listed(2)
    read = {name: row for name, row in rows.items() if is_there(name, Version(row[1]))}
    changed = {
        name: (" | ".join(row[2:]), " | ".join(third_party.licence(name)))
        for name, row in read.items()
        if row[2:] != third_party.licence(name)
    }
    assert changed == {}, "look at what is new, then run: python docs/make_third_party.py"


def is_there(name: str, at_least: Version) -> bool:
    try:
        return Version(metadata.version(name)) >= at_least
    except metadata.PackageNotFoundError:
        return False


def test_what_is_new_among_what_is_brought_is_free(third_party):
    requirements = [each for one in third_party.declared().values() for each in one]
    known = {*listed(1), *listed(2)}
    free = r"MIT|BSD|Apache|ISC|PSF|Python Software|Zlib|MPL|Mozilla|Unlicense|CC0"
    others = {name: third_party.licence(name)[0] for name in third_party.brought(requirements)}
    strange = {
        name: licence
        for name, licence in others.items()
        if name not in known and not re.search(free, licence)
    }
    assert strange == {}, "read its licence, then run: python docs/make_third_party.py"


def test_a_licence_read_by_hand_still_is_where_it_was_read(third_party, monkeypatch):
    by_hand = third_party.BY_HAND
    monkeypatch.setattr(third_party, "BY_HAND", {})
    for name, (licence, _) in by_hand.items():
        assert third_party.licence(name) == ("not stated", "")
        (path,) = [each for each in metadata.files(name) if each.name == "LICENSE"]
        assert licence == "Apache-2.0"
        assert "Apache License, Version 2.0" in path.read_text()


# --- the lock


def test_the_lock_has_a_version_of_everything_that_is_declared_with_hashes():
    text = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    # An index has its place on each machine.
    assert not re.search(r"https?:|index-url|find-links|file:", text)
    locked = {}
    for entry in re.findall(r"^\w.*(?:\n    .*)*", text, re.M):
        requirement, *hashes = re.split(r" *\\\n +", entry)
        pinned = Requirement(requirement)
        assert hashes, entry
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), entry
        locked[canonicalize_name(pinned.name)] = str(pinned.specifier).removeprefix("==")
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    declared = [Requirement(each) for one in lists for each in one]
    stale = [
        str(each)
        for each in declared
        if each.name != "destseg"
        and not each.specifier.contains(locked.get(canonicalize_name(each.name), "0"))
    ]
    assert stale == [], "run: make lock"
