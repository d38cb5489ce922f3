"""One second is one look; a file settles in 2 and is given up after 20."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import destseg
from destseg.errors import DataError, SettingsError
from destseg.inference.result import Failure
from destseg.watching.moving import Mover
from destseg.watching.watch import Timing, watch_folder
from watching.watched import Line, brightness, drop, lines_of, make_predictor, png

KINDS = ["jsonl", "db"]


@pytest.fixture(params=KINDS)
def line(request, tmp_path: Path) -> Line:
    return Line(tmp_path, request.param)


@pytest.fixture
def moving(tmp_path: Path) -> Line:
    return Line(tmp_path, move=True)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- what is inspected, and when


def test_an_image_gives_what_the_predictor_says_of_it_and_what_it_was(line):
    reds = {"a.png": 20, "deep/b.png": 200, "deep/er/c.PNG": 90}
    for name, red in reds.items():
        drop(line.folder / name, red)
    rows = line.run()
    assert sorted(row["file"] for row in rows) == sorted(reds)
    for row in rows:
        path = line.folder / row["file"]
        said = make_predictor().predict(path).to_json()
        assert {name: row[name] for name in said} == said
        assert row["score"] == pytest.approx(reds[row["file"]] / 255)
        assert (row["size"], row["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert row["weights_sha256"] == "abc"
        assert row["moved_to"] is None
        inspected = datetime.fromisoformat(row["inspected"])
        assert inspected.utcoffset() == timedelta(0)
        assert abs(inspected - datetime.now(UTC)) < timedelta(minutes=1)
    assert line.said == []
    assert line.run(end=20) == rows  # after a restart nothing is new


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_may_be_asked_and_closed_in_any_thread(tmp_path, kind):
    for name in ("a.png", "b.png"):
        drop(tmp_path / "in" / name, 20)
    output, move = tmp_path / f"results.{kind}", tmp_path / "done"
    watch = destseg.watch(make_predictor(), tmp_path / "in", output, move=move, settle=0)

    def elsewhere(call):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result(60)

    first, second = (Path(elsewhere(lambda: next(watch)).path).name for _ in range(2))
    assert {first, second} == {"a.png", "b.png"}
    elsewhere(watch.close)
    # Nothing is held any more.
    again = destseg.watch(make_predictor(), tmp_path / "in", output, move=move, settle=0, once=True)
    assert list(again) == []
    assert len(lines_of(output)) == 2


def test_a_watch_that_is_stopped_while_its_model_is_loaded_looks_at_nothing(tmp_path):
    stop = threading.Event()

    def open_predictor():
        stop.set()
        return make_predictor()

    drop(tmp_path / "in/a.png", 20)
    said: list[str] = []
    words = {"move": None, "timing": Timing(settle=0), "once": True, "say": said.append}
    output = tmp_path / "results.jsonl"
    assert list(watch_folder(tmp_path / "in", open_predictor, output, **words, stop=stop)) == []
    stop = threading.Event()
    answers = list(watch_folder(tmp_path / "in", make_predictor, output, **words, stop=stop))
    assert len(answers) == 1


def test_images_that_come_later_are_seen_when_they_have_settled(line):
    line.at = {3: lambda: drop(line.folder / "a.png", 1), 7: lambda: drop(line.folder / "b.png", 2)}
    assert [row["file"] for row in line.run(20)] == ["a.png", "b.png"]
    assert line.times == {"a.png": 5, "b.png": 9}


def test_the_oldest_is_inspected_first(line):
    for name, age in {"b": 2, "a": 2, "c": 3, "0": 1}.items():
        path = drop(line.folder / f"{name}.png", 1)
        os.utime(path, (1000 - age, 1000 - age))
    assert [row["file"] for row in line.run()] == ["c.png", "a.png", "b.png", "0.png"]


def test_an_image_that_grows_is_inspected_when_it_is_whole(line):
    path, content = line.folder / "a.png", png(150)
    for second in range(8):
        share = content[: len(content) * (second + 1) // 8]
        line.at[second + 1] = lambda share=share: path.write_bytes(share)
    (row,) = line.run(20)
    assert row["score"] == pytest.approx(150 / 255)
    assert line.times == {"a.png": 10}


def test_a_writer_that_makes_pauses_is_waited_for(line):
    """Twice it has settled half-written; it is tried again and nothing is said of it."""
    path, content = line.folder / "a.png", png(150)
    cuts = {1: content[:50], 9: content[:-30], 17: content}
    line.at = {at: lambda part=part: path.write_bytes(part) for at, part in cuts.items()}
    (row,) = line.run(40)
    assert row["score"] == pytest.approx(150 / 255)
    assert row.get("error") is None


def test_what_was_never_finished_is_an_error_once_and_an_image_when_it_is(line):
    path = line.folder / "a.png"
    path.write_bytes(png(150)[:-30])
    drop(line.folder / "b.png", 9)
    line.at = {50: lambda: drop(path, 150)}
    rows = line.run(70)
    assert [row["file"] for row in rows] == ["b.png", "a.png", "a.png"]
    assert "expected a JPEG, PNG, BMP, TIFF or WebP image" in rows[1]["error"]
    assert rows[1].get("score") is None
    assert rows[2]["score"] == pytest.approx(150 / 255)
    assert isinstance(line.answers[1], Failure)
    assert len(lines_of(line.results)) == len(line.run(140))  # nor after a restart


def test_temporary_names_wait_for_their_rename_which_can_be_taken_at_once(line):
    names = {".a.png": "a.png", "b.png.part": "b.png", "c.tmp.png": "c.png"}
    for second, (name, final) in enumerate(names.items(), 4):
        path = drop(line.folder / name, 30)
        line.at[second] = lambda path=path, final=final: path.rename(path.with_name(final))
    assert len(line.run(10, settle=0)) == 3
    assert sorted(line.times.values()) == [4, 5, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_name_and_time_in_another_folder_is_not_done(tmp_path, kind):
    first, second = (drop(tmp_path / name / "7.png", 20) for name in ("camA", "camB"))
    second.write_bytes(first.read_bytes())
    for each in (first, second):
        os.utime(each, ns=(10**18, 10**18))
    results = tmp_path / f"results.{kind}"

    def watch(folder):
        return list(destseg.watch(make_predictor(), folder, results, settle=0, once=True))

    assert len(watch(tmp_path / "camA")) == 1
    with pytest.raises(DataError, match=r"expected results of .*camB, got those of .*camA"):
        watch(tmp_path / "camB")
    assert watch(tmp_path / "camA") == []


def test_a_name_that_is_used_again_is_a_new_image(line):
    path = line.folder / "latest.png"
    reds = [10, 200, 90]
    line.at = {1 + 5 * i: lambda red=red: drop(path, red) for i, red in enumerate(reds)}
    rows = line.run(20)
    assert [row["score"] for row in rows] == pytest.approx([red / 255 for red in reds])


def test_an_image_written_anew_while_it_is_inspected_is_never_taken_for_the_other(line):
    path = drop(line.folder / "a.png", 10)
    calls = []

    def backend(images):
        if not calls:
            drop(path, 200)
        calls.append(len(images))
        return brightness(images)

    (row,) = line.run(10, backend=backend)
    assert calls == [1, 1]
    assert row["score"] == pytest.approx(200 / 255)
    assert row["mtime_ns"] == path.stat().st_mtime_ns


def test_nothing_is_said_of_an_image_that_is_taken_away_meanwhile(line):
    path = drop(line.folder / "a.png", 10)

    def backend(images):
        path.unlink(missing_ok=True)
        return brightness(images)

    assert line.run(10, backend=backend) == []
    assert line.said == []


def test_what_is_done_stays_done_where_another_model_goes_on(line, monkeypatch):
    drop(line.folder / "a.png", 10)
    first = line.run()
    drop(line.folder / "b.png", 20)
    other = make_predictor()
    object.__setattr__(other.calibration, "weights_sha256", "def")
    monkeypatch.setattr("watching.watched.make_predictor", lambda _: other)
    rows = line.run(20)
    assert rows[0] == first[0]
    assert [row["weights_sha256"] for row in rows] == ["abc", "def"]


def test_it_can_be_ended_between_images_that_cannot_be_read(line):
    for number in range(50):
        (line.folder / f"{number}.png").write_bytes(b"no image")
    asked = []

    def end_after_the_third(seconds: float, end: float) -> bool:
        line.now += seconds
        asked.append(seconds)
        return asked[-3:] == [0, 0, 0]

    line._pass = end_after_the_third
    assert line.run() == []
    assert asked == [1, 1, 0, 0, 0]


# --- once


def test_once_ends_when_what_was_there_is_done(line):
    drop(line.folder / "a.png", 10)
    (line.folder / "broken.png").write_bytes(b"no image")
    line.at = {15: lambda: drop(line.folder / "late.png", 10), 21: lambda: pytest.fail("goes on")}
    rows = line.run(1000, once=True)
    # It is given up at 20; what came meanwhile and was ready is done too.
    assert [row["file"] for row in rows] == ["a.png", "late.png", "broken.png"]
    assert line.now == 20


def test_once_ends_at_once_where_there_is_nothing_to_do(line):
    drop(line.folder / "a.png", 10)
    line.run(5)
    assert len(line.run(1000, once=True)) == 1
    assert line.now == 5


def test_once_waits_for_what_still_grows_but_not_for_what_goes_away(line):
    path, content = line.folder / "a.png", png(10)
    gone = drop(line.folder / "gone.png", 10)
    path.write_bytes(content[:30])
    line.at = {1: gone.unlink, 15: lambda: path.write_bytes(content)}
    assert [row["file"] for row in line.run(1000, once=True)] == ["a.png"]


# --- a folder that goes away


def test_a_folder_that_goes_away_is_said_once_and_gone_on_with(line):
    away = line.folder.with_name("away")
    drop(line.folder / "a.png", 10)
    line.at = {5: lambda: line.folder.rename(away), 6: lambda: drop(away / "b.png", 20)}
    line.at |= {50: lambda: away.rename(line.folder), 60: lambda: line.folder.rename(away)}
    line.at |= {70: lambda: away.rename(line.folder)}
    rows = line.run(100)
    assert [row["file"] for row in rows] == ["a.png", "b.png"]
    assert line.times["b.png"] == 52
    assert len(line.said) == 4
    assert "No such file" in line.said[0]
    assert str(line.folder) in line.said[0]
    assert line.said[1] == f"{line.folder}: is back"


def test_a_folder_that_was_never_there_is_an_error(line):
    line.folder.rmdir()
    with pytest.raises(DataError, match=f"{line.folder}: expected a folder that can be read"):
        line.run()


def test_a_folder_inside_that_cannot_be_read_holds_up_no_other(line, monkeypatch):
    drop(line.folder / "a.png", 10)
    drop(line.folder / "shut/b.png", 10)
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "shut" and line.now < 8:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [row["file"] for row in line.run(20)] == ["a.png", "shut/b.png"]
    assert len(line.said) == 1
    assert "shut" in line.said[0]


# --- moving


def test_images_are_moved_to_what_they_are(moving):
    for name, red in {"a.png": 20, "deep/b.png": 200}.items():
        drop(moving.folder / name, red)
    (moving.folder / "c.png").write_bytes(b"no image")
    drop(moving.folder / "later.png.part", 3)
    rows = moving.run(30)
    assert {row["file"]: row["moved_to"] for row in rows} == {
        "a.png": "good/a.png",
        "deep/b.png": "defective/deep/b.png",
        "c.png": "failed/c.png",
    }
    assert set(tree(moving.folder)) == {"later.png.part"}
    assert tree(moving.moved) == {
        "good/a.png": png(20),
        "defective/deep/b.png": png(200),
        "failed/c.png": b"no image",
    }


def test_a_name_that_was_used_before_is_told_apart_by_its_time(moving):
    path = moving.folder / "latest.png"
    moving.at = {1 + 5 * i: lambda red=red: drop(path, red) for i, red in enumerate([1, 2, 3])}
    rows = moving.run(20)
    assert len(rows) == 3
    for row in rows[1:]:
        assert row["moved_to"] == f"good/latest-{row['mtime_ns']}.png"
    assert [tree(moving.moved)[row["moved_to"]] for row in rows] == [png(1), png(2), png(3)]


@pytest.mark.parametrize("letter", ["x", "é", "漢", os.fsdecode(b"\xfc")])
def test_a_long_name_that_was_used_before_is_told_apart_too(moving, letter):
    name = letter * (251 // len(os.fsencode(letter))) + ".png"
    moving.at = {1 + 5 * i: lambda i=i: drop(moving.folder / name, i) for i in range(3)}
    rows = moving.run(20)
    assert moving.said == []
    assert tree(moving.folder) == {}
    for row in rows[1:]:
        kept, _, end = row["moved_to"].removeprefix("good/").rpartition("-")
        assert end == f"{row['mtime_ns']}.png"
        assert kept == letter * (231 // len(os.fsencode(letter)))
    assert [tree(moving.moved)[row["moved_to"]] for row in rows] == [png(0), png(1), png(2)]


def test_a_link_is_moved_only_where_it_still_leads_to_its_image(moving):
    store = drop(moving.folder.parent / "store/7.png", 200)
    (moving.folder / "relative.png").symlink_to("../store/7.png")
    (moving.folder / "whole.png").symlink_to(store)
    rows = moving.run(20)
    assert {row["file"]: row["moved_to"] for row in rows} == {
        "relative.png": None,
        "whole.png": "defective/whole.png",
    }
    assert tree(moving.folder) == {"relative.png": png(200)}
    assert tree(moving.moved) == {"defective/whole.png": png(200)}
    (said,) = moving.said
    assert said.startswith("relative.png: is recorded and stays: a relative link")
    assert moving.run(40) == rows
    assert moving.said == [said]


def test_a_folder_to_move_to_may_lie_in_the_watched_one(moving):
    moving.moved = moving.folder / "done"
    drop(moving.folder / "a.png", 20)
    assert len(moving.run(20)) == 1
    assert set(tree(moving.folder)) == {"done/good/a.png"}


def test_a_move_that_fails_is_said_once_and_made_up_for(moving):
    drop(moving.folder / "a.png", 20)
    rename = Path.rename

    def refusing(self, target):
        if moving.now < 8:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", refusing)
        (row,) = moving.run(20)
    assert len(moving.said) == 1
    assert "a.png" in moving.said[0]
    assert "Permission denied" in moving.said[0]
    assert set(tree(moving.moved)) == {row["moved_to"]}


def test_what_was_recorded_and_not_moved_is_moved_after_a_restart(moving):
    drop(moving.folder / "a.png", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            moving.run()
    (row,) = lines_of(moving.results)
    assert set(tree(moving.folder)) == {"a.png"}
    assert moving.run(20) == [row]
    assert tree(moving.moved) == {"good/a.png": png(20)}


def test_what_was_recorded_without_moving_stays(moving):
    target, moving.moved = moving.moved, None
    drop(moving.folder / "a.png", 20)
    moving.run()
    moving.moved = target
    moving.run(20)
    assert set(tree(moving.folder)) == {"a.png"}


def test_nothing_is_moved_over_what_others_put_there(moving):
    path = drop(moving.folder / "a.png", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            moving.run()
    other = drop(moving.moved / "good/a.png", 77)
    moving.run(20)
    assert (path.read_bytes(), other.read_bytes()) == (png(20), png(77))
    assert len(moving.said) == 1
    assert "is in the way" in moving.said[0]


def test_an_image_that_comes_while_another_of_its_name_is_moved_is_inspected(moving):
    path = drop(moving.folder / "a.png", 20)
    rename, replaced = Path.rename, []

    def replacing(self, target):
        if not replaced:
            replaced.append(drop(path, 200))
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", replacing)
        rows = moving.run(20)
    assert [row["score"] for row in rows] == pytest.approx([20 / 255, 200 / 255])
    assert tree(moving.moved) == {"defective/a.png": png(200)}
    assert moving.said == []


def test_an_image_that_comes_while_another_of_its_name_is_recorded_stays(moving, monkeypatch):
    """Also on a file system without hard links, where what was moved cannot be put back."""
    path = drop(moving.folder / "a.png", 20)
    sync, replaced = os.fsync, []

    def replacing(handle):
        sync(handle)
        if moving.now and not replaced:
            replaced.append(drop(path, 200))

    def without_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", replacing)
    monkeypatch.setattr(Path, "hardlink_to", without_links)
    rows = moving.run(20)
    assert [row["score"] for row in rows] == pytest.approx([20 / 255, 200 / 255])
    assert tree(moving.moved) == {"defective/a.png": png(200)}
    assert moving.said == []


def test_two_cannot_move_to_one_folder(moving, tmp_path):
    mover = Mover(moving.folder, moving.moved)
    with pytest.raises(DataError, match="expected to be the only destseg watch"):
        Mover(moving.folder, moving.moved)
    mover.close()
    Mover(moving.folder, moving.moved).close()


def test_a_folder_that_would_be_found_again_or_cannot_be_is_refused(moving, tmp_path):
    for target in (moving.folder, moving.folder.parent):
        with pytest.raises(SettingsError, match="would be found again"):
            Mover(moving.folder, target)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="expected a folder to move images to"):
        Mover(moving.folder, tmp_path / "file/x")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system")
def test_another_file_system_is_refused(moving):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == moving.folder.stat().st_dev:
            pytest.skip("there is no second file system")
        with pytest.raises(DataError, match="expected a folder on the same file system"):
            Mover(moving.folder, Path(other))


# --- timing


def test_wrong_times_are_named_all_at_once():
    with pytest.raises(SettingsError) as wrong:
        Timing(interval=0, settle=-1, give_up=float("nan"))
    assert [text.split(":")[0] for text in str(wrong.value).splitlines()] == [
        *("--interval", "--settle", "--give-up")
    ]


def test_looking_takes_at_most_a_fifth_of_the_time(line, monkeypatch):
    """A look at a full folder can take longer than the interval."""
    from destseg.watching.arrivals import Scanner

    looks = []

    def slow(*_):
        looks.append(line.now)
        line.now += 10
        return iter(())

    monkeypatch.setattr(Scanner, "scan", slow)
    line.run(200)
    assert looks == [0, 50, 100, 150]
