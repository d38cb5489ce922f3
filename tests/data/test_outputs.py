import errno
import os
from pathlib import Path

import pytest

from destseg.data.outputs import require_apart, require_file, require_files, require_folder
from destseg.errors import DataError, SettingsError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "part.png"
    path.parent.mkdir()
    path.write_bytes(b"pixels")
    return path


def other_names(source: Path) -> dict[str, Path]:
    folder = source.parent.parent
    (folder / "link.png").symlink_to(source)
    (folder / "linked").symlink_to(source.parent)
    (folder / "hard.png").hardlink_to(source)
    return {
        "itself": source,
        "relative": Path(os.path.relpath(source)),
        "dots": source.parent / ".." / "in" / source.name,
        "a link": folder / "link.png",
        "a linked folder": folder / "linked" / source.name,
        "a hard link": folder / "hard.png",
    }


@pytest.mark.parametrize(
    "name", ["itself", "relative", "dots", "a link", "a linked folder", "a hard link"]
)
@pytest.mark.parametrize("turned", [False, True])
def test_an_output_that_is_an_input_is_refused_by_whatever_name(name, turned, source):
    pair = [other_names(source)[name], source]
    output, read = reversed(pair) if turned else pair
    with pytest.raises(SettingsError) as caught:
        require_apart([Path("new.png"), output], [Path("missing.png"), read])
    assert str(output) in str(caught.value)
    assert str(read) in str(caught.value)
    assert "Choose another place" in str(caught.value)


def test_other_files_and_those_that_are_not_there_are_no_inputs(source):
    earlier = source.with_name("earlier.png")
    earlier.write_bytes(b"")
    require_apart([earlier, source.with_name("new.png")], [source, source.with_name("new.png")])


def test_spellings_that_the_file_system_takes_for_the_same_are_seen(source, monkeypatch):
    """As on Windows and macOS, where PART.PNG is part.png."""
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self: stat(self.with_name(self.name.lower())))
    with pytest.raises(SettingsError, match=r"PART\.PNG"):
        require_apart([source.with_name("PART.PNG")], [source])


@pytest.mark.parametrize("there", [False, True])
def test_two_outputs_of_one_file_are_refused(there, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "linked").symlink_to(folder)
    if there:
        (folder / "rows.csv").touch()
    for other in (folder / "rows.csv", tmp_path / "linked" / "rows.csv"):
        with pytest.raises(SettingsError, match=r"expected two files .*rows\.csv"):
            require_apart([folder / "rows.csv", folder / "metrics.json", other], [])


def test_a_place_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    require_files([tmp_path / "a/b/file.json", tmp_path / "a/old"], [])
    require_folder(tmp_path / "c")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert names == ["a", "a/b", "c"]


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    wrong = {"a folder": tmp_path, "a device or a pipe": tmp_path / "pipe"}
    for what, path in wrong.items():
        with pytest.raises(DataError, match=f"expected a file to write to, got {what}"):
            require_file(path)
    for device in ("/dev/null", "/dev/stdout", "/dev/new"):
        with pytest.raises(DataError, match=f"{device}: expected a file .* a device"):
            require_file(Path(device))
    with pytest.raises(DataError, match=r"file/deep/x\.json: expected a file to write to, got: "):
        require_file(tmp_path / "file/deep/x.json")
    with pytest.raises(DataError, match=r"file: expected a folder to write to, got: "):
        require_folder(tmp_path / "file")


def test_it_is_tried_whether_a_file_can_be_made(tmp_path, monkeypatch):
    """Root may write whatever the bits say, and nobody may on a read-only file system."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(DataError, match=r"x\.json: expected a file .*Read-only file system"):
        require_file(tmp_path / "x.json")
