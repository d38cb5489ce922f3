import os
import stat
import threading
from pathlib import Path

import pytest

from destseg.data.files import write_atomically


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
    with pytest.raises((OSError, ValueError), match=r"no space left|closed file"):
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
