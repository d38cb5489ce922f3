import os
from pathlib import Path

import pytest

from destseg.watching.arrivals import Arrival, Arrivals, is_picture, look_at, scan


def never(error):
    raise error


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.mark.parametrize("name", ["7.png", "7.JPG", "7.tiff", "part.final.bmp", "a~b.webp"])
def test_pictures_are_taken(name):
    assert is_picture(name)


@pytest.mark.parametrize(
    "name",
    [
        *("7.png.tmp", "7.png.part", "7.png~", ".7.png", "~7.png", "~$7.png"),
        *("7.tmp.png", "7.PART.png", "7.partial.jpg", "7.txt", "png", ".png", "7.png.filepart"),
    ],
)
def test_hidden_temporary_and_other_files_are_left_alone(name):
    assert not is_picture(name)


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
    found = {arrival.file for arrival in scan(tmp_path / "in", never)}
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
    arrivals = Arrivals(2, 20)
    sizes = {0: 1, 1: 2, 2: 3, 3: 3, 4: 3, 5: 3}
    due = {t: arrivals.look([Arrival("a.png", size, 0)], t) for t, size in sizes.items()}
    assert [t for t, found in due.items() if found] == [4, 5]


def test_without_settling_a_file_is_due_at_once():
    assert Arrivals(0, 20).look([Arrival("a.png", 1, 0)], 0) == [Arrival("a.png", 1, 0)]


def test_a_new_time_alone_begins_anew_and_so_does_a_file_that_was_away():
    arrivals = Arrivals(2, 20)
    one, other = Arrival("a.png", 1, 0), Arrival("a.png", 1, 1)
    seen = {0: [one], 1: [other], 2: [other], 3: [], 4: [other], 5: [other], 6: [other]}
    assert [t for t, there in seen.items() if arrivals.look(there, t)] == [6]


def test_the_oldest_is_first_and_names_decide_among_equals():
    arrivals = Arrivals(0, 20)
    there = [Arrival(name, 1, time) for name, time in [("b", 2), ("c", 1), ("a", 2), ("0", 3)]]
    assert [each.file for each in arrivals.look(there, 0)] == ["c", "a", "b", "0"]


def test_what_cannot_be_read_is_tried_after_twice_the_time_and_then_given_up():
    arrivals = Arrivals(2, 20)
    picture = Arrival("a.png", 1, 0)
    tried = []
    for now in range(40):
        for due in arrivals.look([picture], now):
            tried.append(now)
            if arrivals.unreadable(due, now):
                arrivals.done(due)
                assert arrivals.files == set()
                break
        if tried and not arrivals.files:
            break
    assert tried == [2, 4, 8, 16, 20]


def test_a_change_after_a_failure_begins_anew():
    arrivals = Arrivals(2, 20)
    arrivals.look([Arrival("a.png", 1, 0)], 0)
    (due,) = arrivals.look([Arrival("a.png", 1, 0)], 19)
    assert not arrivals.unreadable(due, 19)
    assert arrivals.look([Arrival("a.png", 2, 0)], 20) == []
    (due,) = arrivals.look([Arrival("a.png", 2, 0)], 22)
    assert not arrivals.unreadable(due, 22)
