import os
from pathlib import Path

import pytest

from destseg.watching import arrivals
from destseg.watching.arrivals import Arrival, Arrivals, Scanner, is_finished, look_at


def never(error):
    raise error


def scan(folder, refused, leave=None):
    return Scanner(folder, refused, leave).scan()


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.mark.parametrize("name", ["7.png", "7.JPG", "7.tiff", "part.final.bmp", "a~b.webp"])
def test_finished_images_are_taken(name, tmp_path):
    assert is_finished(name)
    touch(tmp_path / name)
    assert [arrival.file for arrival in scan(tmp_path, never)] == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("7.png.tmp", "7.png.part", "7.png~", ".7.png", "~7.png", "~$7.png"),
        *("7.tmp.png", "7.PART.png", "7.partial.jpg", "7.txt", "png", ".png", "7.png.filepart"),
        *("7.png.upload", "7.jpg.1f3a", "Thumbs.db"),
    ],
)
@pytest.mark.parametrize("content", [b"x", b"\x89PNG\r\n\x1a\n and more than 16 bytes"])
def test_hidden_temporary_and_other_files_are_left_alone(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert [arrival.file for arrival in scan(tmp_path, never)] == ["png"] * (
        name == "png" and len(content) > 1
    )


def test_a_name_that_says_nothing_is_looked_into_once_a_state(tmp_path, monkeypatch):
    looked = []
    head_of = arrivals.head_of
    monkeypatch.setattr(arrivals, "head_of", lambda path: looked.append(path) or head_of(path))
    scanner = Scanner(tmp_path, never)

    def seen() -> list[str]:
        return [arrival.file for arrival in scanner.scan()]

    path = tmp_path / "camera-0001"
    # As its writer makes room, and fills it without a change of size or, in one tick, of time.
    path.write_bytes(bytes(100))
    os.utime(path, ns=(0, 10**18))
    assert seen() == []
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(96))
    os.utime(path, ns=(0, 10**18))
    assert seen() == ["camera-0001"]
    count = len(looked)
    assert seen() == seen() == ["camera-0001"]
    assert len(looked) == count
    path.write_bytes(b"words" * 20)
    assert seen() == seen() == []
    assert len(looked) == count + 1


def test_images_of_kinds_that_are_not_read_are_seen_and_links_to_nothing_are_told(tmp_path):
    touch(tmp_path / "a.heic")
    touch(tmp_path / "b.JFIF")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    refused = []
    found = {arrival.file for arrival in scan(tmp_path, refused.append)}
    assert found == {"a.heic", "b.JFIF"}
    assert [Path(error.filename).name for error in refused] == ["c.png"]


def test_a_scan_finds_what_a_walk_finds_with_size_and_time(tmp_path):
    names = ["b.png", "a.png", "deep/er/c.png", "deep/d.png", "ü/e.png"]
    for number, name in enumerate(names):
        touch(tmp_path / name)
        (tmp_path / name).write_bytes(b"x" * number)
        os.utime(tmp_path / name, ns=(0, 10**18 + number))
    for name in (".hidden/x.png", "deep/.x.png", "deep/x.png.tmp", "out/good/y.png"):
        touch(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    found = list(scan(tmp_path, never, tmp_path / "out"))
    assert sorted(found) == sorted(Arrival(name, i, 10**18 + i) for i, name in enumerate(names))
    assert {look_at(tmp_path, name) for name in names} == set(found)


def test_folders_that_are_linked_are_looked_at_once(tmp_path):
    touch(tmp_path / "in/real/a.png")
    touch(tmp_path / "elsewhere/b.png")
    (tmp_path / "in/a-link").symlink_to(tmp_path / "in/real")
    (tmp_path / "in/circle").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/broken.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "in/real/a.png")
    found = {arrival.file for arrival in scan(tmp_path / "in", [].append)}
    assert found == {"real/a.png", "out/b.png", "link.png"}


def test_only_the_folder_itself_must_be_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        list(scan(tmp_path / "nothing", never))
    touch(tmp_path / "good/a.png")
    touch(tmp_path / "bad/b.png")
    touch(tmp_path / "gone/c.png")
    scandir = os.scandir

    def refusing(path):
        errors = {"bad": PermissionError, "gone": FileNotFoundError}
        if Path(path).name in errors:
            raise errors[Path(path).name](13, "no", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused = []
    assert [arrival.file for arrival in scan(tmp_path, refused.append)] == ["good/a.png"]
    assert [Path(error.filename) for error in refused] == [tmp_path / "bad"]


def test_identities_differ_where_name_size_or_time_do():
    several = [Arrival(f, s, t) for f in ("a", "b", "1 a") for s in (1, 11) for t in (1, 11)]
    assert len({each.identity for each in several}) == len(several)
    assert {len(each.identity) for each in several} == {16}
    assert Arrival("a", 1, 2).identity == Arrival("a", 1, 2).identity


# --- what is due, with a settling time of 2 and 20 to give up


def test_a_file_is_due_when_it_stayed_the_same():
    waiting = Arrivals(2, 20)
    sizes = {0: 1, 1: 2, 2: 3, 3: 3, 4: 3, 5: 3}
    due = {t: waiting.look([Arrival("a.png", size, 0)], t) for t, size in sizes.items()}
    assert [t for t, found in due.items() if found] == [4, 5]


def test_without_settling_a_file_is_due_at_once():
    assert Arrivals(0, 20).look([Arrival("a.png", 1, 0)], 0) == [Arrival("a.png", 1, 0)]


def test_a_new_time_alone_begins_anew_and_so_does_a_file_that_was_away():
    waiting = Arrivals(2, 20)
    one, other = Arrival("a.png", 1, 0), Arrival("a.png", 1, 1)
    seen = {0: [one], 1: [other], 2: [other], 3: [], 4: [other], 5: [other], 6: [other]}
    assert [t for t, there in seen.items() if waiting.look(there, t)] == [6]


def test_the_oldest_is_first_and_names_decide_among_equals():
    waiting = Arrivals(0, 20)
    there = [Arrival(name, 1, time) for name, time in [("b", 2), ("c", 1), ("a", 2), ("0", 3)]]
    assert [each.file for each in waiting.look(there, 0)] == ["c", "a", "b", "0"]


def test_what_cannot_be_read_is_tried_after_twice_the_time_and_then_given_up():
    waiting = Arrivals(2, 20)
    image = Arrival("a.png", 1, 0)
    tried = []
    for now in range(40):
        for due in waiting.look([image], now):
            tried.append(now)
            if waiting.unreadable(due, now):
                waiting.done(due)
                assert waiting.files == set()
                break
        if tried and not waiting.files:
            break
    assert tried == [2, 4, 8, 16, 20]


def test_a_change_after_a_failure_begins_anew():
    waiting = Arrivals(2, 20)
    waiting.look([Arrival("a.png", 1, 0)], 0)
    (due,) = waiting.look([Arrival("a.png", 1, 0)], 19)
    assert not waiting.unreadable(due, 19)
    assert waiting.look([Arrival("a.png", 2, 0)], 20) == []
    (due,) = waiting.look([Arrival("a.png", 2, 0)], 22)
    assert not waiting.unreadable(due, 22)
