import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from destseg.errors import DataError, SettingsError
from destseg.watching.arrivals import Arrival
from destseg.watching.journal import open_journal
from watching.watched import lines_of

KINDS = ["jsonl", "db"]
RESULT = {"score": 0.25, "p_value": 0.5, "is_defective": False, "threshold": 0.3}
RESULT |= {"width": 3, "height": 2, "regions": [{"x": 1, "peak": 0.5}]}


def line(file: str, number: int = 1, moved_to: str | None = None, **more: object) -> dict:
    found = {"error": "damaged"} if more.get("error") else RESULT
    stamp = {"file": file, "size": number, "mtime_ns": 10**18 + number}
    when = {"inspected": "2026-01-02T03:04:05.678+00:00", "weights_sha256": "abc"}
    return {"path": f"in/{file}", **found, **stamp, **when, "moved_to": moved_to}


def arrival(file: str, number: int = 1) -> Arrival:
    return Arrival(file, number, 10**18 + number)


@pytest.fixture(params=KINDS)
def path(request, tmp_path: Path) -> Path:
    return tmp_path / "deep" / f"results.{request.param}"


def test_what_was_added_is_done_also_after_it_is_opened_again(path):
    lines = [line("a.png"), line("b.png", error=True), line("a.png", 2, "good/a-2.png")]
    journal = open_journal(path)
    assert len(journal) == 0
    for each in lines:
        journal.add(each)
    journal.close()
    assert [{k: v for k, v in row.items() if k in each} for row, each in
            zip(lines_of(path), lines, strict=True)] == lines  # fmt: skip
    for _ in range(2):
        journal = open_journal(path)
        assert len(journal) == 3
        assert arrival("a.png") in journal
        assert arrival("a.png", 2) in journal
        assert arrival("a.png", 3) not in journal
        assert arrival("c.png") not in journal
        assert journal.destination(arrival("a.png")) is None
        assert journal.destination(arrival("a.png", 2)) == "good/a-2.png"
        journal.close()


def test_nothing_is_lost_where_the_process_dies_without_closing(path):
    code = """
import json, os, sys
from destseg.watching.journal import open_journal
journal = open_journal(sys.argv[1])
for text in sys.argv[2:]:
    journal.add(json.loads(text))
os.kill(os.getpid(), 9)
"""
    lines = [line("a.png"), line("b.png")]
    done = subprocess.run([sys.executable, "-c", code, path, *map(json.dumps, lines)])
    assert done.returncode == -9
    assert [row["file"] for row in lines_of(path)] == ["a.png", "b.png"]
    journal = open_journal(path)  # its lock went with it
    assert arrival("b.png") in journal
    journal.close()


def test_a_file_that_is_reached_by_a_link_is_held_too(path, tmp_path):
    link = tmp_path / f"link{path.suffix}"
    path.parent.mkdir()
    link.symlink_to(path)
    for first, second in [(path, link), (link, path), (link, link)]:
        journal = open_journal(first)
        with pytest.raises(DataError, match="expected to be the only destseg watch"):
            open_journal(second)
        journal.close()


def test_a_line_is_whole_and_on_disk_when_add_returns(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    journal = open_journal(path)
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(path.read_bytes())))
    journal.add(line("a.png"))
    journal.close()
    assert [json.loads(each) for each in synced] == [line("a.png")]


def test_a_line_torn_at_any_byte_is_cut_off(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = open_journal(path)
    journal.add(line("a.png"))
    first = path.stat().st_size
    journal.add(line("b.png"))
    journal.close()
    whole = path.read_bytes()
    torn = [whole[:end] for end in range(first, len(whole))]
    # As a power failure can leave it: parts are zeros, also where the end is there.
    torn += [whole[:first] + bytes(count) for count in (1, 50)]
    torn += [whole[:start] + bytes(40) + whole[start + 40 :] for start in (first, first + 9)]
    for content in torn:
        path.write_bytes(content)
        journal = open_journal(path)
        assert path.read_bytes() == whole[:first]
        assert arrival("a.png") in journal
        assert arrival("b.png") not in journal
        journal.add(line("b.png"))
        journal.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"notes without an end",
        b"notes\n",
        b'{"path": "a.png", "score": 0.5}\n',  # as destseg predict writes it
        b'{"path": "a.png", "file": "a.png", "size": "1", "mtime_ns": 1, "moved_to": null}\n',
        b"[1]\n",
        b"SQLite format 3\0\x10\0",
    ],
)
def test_lines_of_others_are_refused_and_left_as_they_are(content, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="line 1: expected a line of destseg watch"):
        open_journal(path)
    assert path.read_bytes() == content


def test_databases_of_others_and_of_later_forms_are_refused(tmp_path):
    path = tmp_path / "results.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE results (id)")
    database.close()
    with pytest.raises(DataError, match="got another database"):
        open_journal(path)
    path.unlink()
    open_journal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(DataError, match="in form 1, got form 2"):
        open_journal(path)
    path.write_bytes(b"no database at all, but long enough to be looked at as one" * 10)
    with pytest.raises(DataError, match="file is not a database"):
        open_journal(path)


@pytest.mark.parametrize("name", ["results.json", "results", "results.csv", ".jsonl"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(SettingsError, match=r"--output: expected a name that ends in \.jsonl"):
        open_journal(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_second_one_is_refused_until_the_first_lets_go(path):
    first = open_journal(path)
    with pytest.raises(DataError, match="expected to be the only destseg watch"):
        open_journal(path)
    code = (
        "import sys; from destseg.watching.journal import open_journal; open_journal(sys.argv[1])"
    )
    other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "expected to be the only destseg watch" in other.stderr
    first.add(line("a.png"))
    first.close()
    second = open_journal(path)
    assert arrival("a.png") in second
    second.close()


def test_what_cannot_be_written_to_is_an_error_that_names_it(tmp_path, path):
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="results"):
        open_journal(path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file"):
        open_journal(tmp_path / "file" / path.name)


LIMITED = """
import json, resource, sys
from pathlib import Path
from destseg.errors import DataError
from destseg.watching.journal import open_journal
path = Path(sys.argv[1])
journal = open_journal(path)
before = path.read_bytes()
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limit[1]))
try:
    journal.add(json.loads(sys.argv[2]))
except DataError as error:
    assert path.read_bytes() == before, "torn"
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
journal.add(json.loads(sys.argv[3]))
journal.close()
"""


def test_a_disk_that_is_full_in_the_middle_of_a_line_loses_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = open_journal(path)
    journal.add(line("a.png"))
    journal.close()
    words = [json.dumps(line(name)) for name in ("b.png", "c.png")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{path}: expected to write a result, got [Errno {errno.EFBIG}]" in done.stdout
    assert "is kept" in done.stdout
    assert [row["file"] for row in lines_of(path)] == ["a.png", "c.png"]


def test_a_database_that_is_full_loses_nothing(tmp_path):
    path = tmp_path / "results.db"
    journal = open_journal(path)
    journal.add(line("a.png"))
    journal._database.execute("PRAGMA max_page_count = 1")
    big = line("b.png") | {"regions": [{"x": 1}] * 10_000}
    with pytest.raises(DataError, match="expected to write a result, got database or disk is full"):
        journal.add(big)
    assert arrival("b.png") not in journal
    journal.add(line("c.png"))
    journal.close()
    assert [row["file"] for row in lines_of(path)] == ["a.png", "c.png"]


def test_names_that_are_no_unicode_are_kept(path):
    name = os.fsdecode(b"pr\xfcf.png")
    journal = open_journal(path)
    journal.add(line(name, moved_to=f"good/{name}"))
    journal.close()
    journal = open_journal(path)
    assert arrival(name) in journal
    assert journal.destination(arrival(name)) == f"good/{name}"
    journal.close()


def test_a_database_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "results.db"
    journal = open_journal(path)
    journal.add(line("a.png"))
    reader = sqlite3.connect(path)
    rows = reader.execute("SELECT file FROM results")
    assert next(rows) == ("a.png",)
    journal.add(line("b.png"))  # with the reader in the middle of its query
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (2,)
    reader.close()
    journal.close()


def test_what_is_done_is_held_in_little_memory(path):
    journal = open_journal(path)
    names = [f"2026-01-02/camera-1/{number:08}.png" for number in range(5_000)]
    tracemalloc.start()
    for name in names:
        journal._note(line(name, moved_to=None), 7)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    journal.close()
    assert held / len(names) < 150


def recorded(path: Path, *folders: Path | str) -> None:
    journal = open_journal(path)
    for number, folder in enumerate(folders):
        file = "deep/a.png"
        journal.add(line(file, number) | {"path": str(Path(folder, file))})
    journal.close()


def require(path: Path, folder: Path | str) -> None:
    with contextlib.closing(open_journal(path)) as journal:
        journal.require_folder(Path(folder))


@pytest.mark.parametrize("given", ["camA", "./camA", "../line/camA", "link", "{here}/camA"])
@pytest.mark.parametrize("before", ["camA", "link", "{here}/camA", "{here}/../line/camA"])
def test_a_folder_is_known_by_any_name(before, given, path, tmp_path, monkeypatch):
    here = tmp_path / "line"
    (here / "camA").mkdir(parents=True)
    (here / "link").symlink_to("camA")
    monkeypatch.chdir(here)
    recorded(path, before.format(here=here))
    require(path, given.format(here=here))


def test_the_folder_that_it_is_started_in_is_known(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded(path, ".")
    require(path, tmp_path)
    require(path, ".")


@pytest.mark.parametrize("given", ["camB", "{here}/camB", "other/camA", ".", "camA/deep"])
@pytest.mark.parametrize("before", [["camA"], ["{here}/camA"], ["camB", "camA"], ["camA", "camB"]])
def test_results_of_another_folder_are_refused_and_kept(before, given, path, tmp_path, monkeypatch):
    for name in ("camA/deep", "camB", "other/camA"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recorded(path, *(each.format(here=tmp_path) for each in before))
    rows = lines_of(path)
    with pytest.raises(DataError, match=r"expected results of .*, got those of .*cam[AB]/?\."):
        require(path, given.format(here=tmp_path))
    assert lines_of(path) == rows


def test_a_folder_that_was_moved_is_refused_until_a_link_leads_to_it(path, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    recorded(path, old)
    with pytest.raises(DataError, match=r"let a link lead from .*old/? to it"):
        require(path, new)
    old.symlink_to(new)
    require(path, new)


def test_a_relative_folder_is_known_from_another_place_by_its_end(path, tmp_path, monkeypatch):
    for name in ("data/camA", "data/camB", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")
    recorded(path, "camA", "../data/camA")
    monkeypatch.chdir(tmp_path / "elsewhere")
    require(path, tmp_path / "data" / "camA")
    with pytest.raises(DataError, match="got those of"):
        require(path, tmp_path / "data" / "camB")
