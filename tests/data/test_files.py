import itertools
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from destseg.data.files import LinesFile, replace_folder, write_atomically
from destseg.errors import DataError


@pytest.mark.parametrize("content", [b"", b"\x00\xff\r\n", "words\n", "größer\n", ""])
def test_what_is_written_is_there(content, tmp_path):
    write_atomically(tmp_path / "file", content)
    write_atomically(str(tmp_path / "text"), content)
    raw = content if isinstance(content, bytes) else content.encode("utf-8")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "text").read_bytes() == raw


def test_folders_are_made_and_old_content_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"long content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def forbid(name: str):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, f"no space left: {name}")

    return fail


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_failure_at_any_step_leaves_the_old_content_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", forbid(step))
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", forbid(step))
    else:
        opened = Path.open

        def broken(self, mode="r", *arguments, **options):
            file = opened(self, mode, *arguments, **options)
            if "w" in mode:
                file.close()
            return file

        monkeypatch.setattr(Path, "open", broken)
    with pytest.raises((DataError, ValueError), match=r"file: .*no space left|closed file"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_interruption_leaves_the_old_content_too(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("fsync"), fsync(fd))[1])

    def renamed(self, target):
        steps.append("replace")
        assert self.read_bytes() == b"new"
        assert self.parent == target.parent
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", b"new")
    assert steps == ["fsync", "replace"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_permissions_are_those_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_reader_sees_the_old_or_the_new_and_never_a_part(tmp_path):
    path = tmp_path / "file"
    whole = {bytes([digit]) * 200_000 for digit in range(3)}
    write_atomically(path, min(whole))
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            for content in whole:
                write_atomically(path, content)
    finally:
        stop.set()
        reader.join()
    assert seen <= whole


def test_several_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    path = tmp_path / "file" / "below.json"
    with pytest.raises(DataError, match=r"below\.json: expected a file that can be written, got: "):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_name_may_be_as_long_as_the_file_system_takes_it(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")  # 255 bytes
    write_atomically(path, b"new")
    lines = LinesFile(path)
    lines.add("line\n")
    lines.finish()
    assert path.read_bytes() == b"line\n"
    assert list(tmp_path.iterdir()) == [path]


# --- lines


def test_lines_take_the_name_when_they_are_all_there(tmp_path):
    path = tmp_path / "lines"
    path.write_text("old")
    lines = LinesFile(path)
    lines.add("one\n")
    lines.add("zwölf\n")
    assert path.read_text() == "old"
    lines.finish()
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_writers_the_last_to_finish_wins_whole(killed, tmp_path):
    path = tmp_path / "lines"
    if killed:
        LinesFile(path)._file.close()  # a third, that left its part behind
    first, second = LinesFile(path), LinesFile(path)
    for number in range(100):
        first.add(f"first {number}\n")
        second.add(f"second {number}\n")
    second.finish()
    assert path.read_text() == "".join(f"second {number}\n" for number in range(100))
    first.add("first 100\n")
    first.finish()
    assert path.read_text() == "".join(f"first {number}\n" for number in range(101))
    assert len(list(tmp_path.iterdir())) == 1 + killed


def test_lines_that_are_not_all_are_kept_under_another_name(tmp_path):
    path = tmp_path / "lines"
    path.write_text("old")
    kept = set()
    for number in range(2):
        lines = LinesFile(path)
        lines.add(f"{number}\n")
        kept.add(lines.keep())
        assert path.read_text() == "old"
    empty = LinesFile(path)
    assert empty.keep() is None
    assert {each.read_text() for each in kept} == {"0\n", "1\n"}
    assert set(tmp_path.iterdir()) == {path, *kept}
    assert all(each.name.startswith("lines.") for each in kept)  # not hidden


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_leaves_whole_lines(tmp_path, disk_of):
    lines = LinesFile(tmp_path / "lines")
    lines.add("ten bytes\n")
    lines.add("ten bytes\n")
    with disk_of(25), pytest.raises(DataError, match="lines: expected a file that can be written"):
        lines.add("ten bytes\n")
    kept = lines.keep()
    assert kept is not None
    assert kept.read_text() == "ten bytes\n" * 2
    assert lines.lines == 2


def test_lines_that_cannot_take_the_name_can_still_be_kept(tmp_path):
    path = tmp_path / "lines"
    lines = LinesFile(path)
    lines.add("one\n")
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(DataError, match="lines: expected a file that can be written"):
        lines.finish()
    kept = lines.keep()
    assert kept is not None
    assert kept.read_text() == "one\n"


# --- folders


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    for content in ("first", "second"):
        new = tmp_path / "new"
        write_atomically(new / content, content)
        replace_folder(folder, new)
        assert [path.name for path in folder.iterdir()] == [content]
    with pytest.raises(FileNotFoundError):
        replace_folder(folder, tmp_path / "nothing")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "second"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("step", [1, 2])
def test_a_signal_while_a_folder_is_replaced_leaves_the_new_one_and_no_other(
    step, tmp_path, monkeypatch
):
    folder, new = tmp_path / "folder", tmp_path / "new"
    for each in (folder, new):
        write_atomically(each / "file", each.name)
    rename, steps = Path.rename, itertools.count(1)

    def renamed(self, target):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, new)
    assert (folder / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]
