import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from conftest import write_red as write
from destseg.cli.main import main
from destseg.data.images import read_image
from destseg.data.sources import named_images


@pytest.fixture
def predict(brightness_model, capsys):
    """Runs the command; returns the exit code, its JSON lines and what it said beside them."""

    def run(*words: object) -> tuple[int, list[dict], str]:
        capsys.readouterr()
        code = main(["predict", str(brightness_model), *map(str, words)])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


def test_one_image_is_one_line(predict, tmp_path):
    path = write(tmp_path / "part.png", red=255)
    code, (line,), err = predict(path)
    assert (code, err) == (0, "")
    assert line["path"] == str(path)
    assert line["score"] == 1
    assert line["is_defective"] is True
    assert line["p_value"] == 0.25
    assert (line["width"], line["height"]) == (30, 20)
    assert line["regions"][0]["area"] == 600


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_lines_come_in_the_order_of_the_input(batch_size, predict, tmp_path):
    reds = [200, 10, 90, 30, 250, 0, 120]
    paths = [write(tmp_path / f"{index}.png", red) for index, red in enumerate(reds)]
    order = [3, 0, 6, 2, 5, 1, 4]
    words = [paths[index] for index in order]
    code, lines, _ = predict(*words, "--batch-size", batch_size)
    assert code == 0
    assert [line["path"] for line in lines] == [str(paths[index]) for index in order]
    assert [line["score"] for line in lines] == pytest.approx([reds[i] / 255 for i in order])


def test_folders_lists_and_images_can_be_mixed(predict, tmp_path):
    folder = tmp_path / "folder"
    paths = [write(folder / name) for name in ("10.png", "2.png", "deep/1.bmp")]
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (tmp_path / "list.txt").write_text("# two\nfolder/10.png\n\nfolder/2.png\n", encoding="utf-8")
    (tmp_path / "list.csv").write_text("path\nfolder/deep/1.bmp\n", encoding="utf-8")
    code, lines, _ = predict(paths[0], folder, tmp_path / "list.txt", tmp_path / "list.csv")
    assert code == 0
    names = [Path(line["path"]).name for line in lines]
    assert names == ["10.png", "2.png", "10.png", "1.bmp", "10.png", "2.png", "1.bmp"]


def test_a_folder_in_mvtecs_layout_means_its_test_images(predict, tmp_path):
    for name in ("train/good/0.png", "test/good/0.png", "test/hole/0.png", "test/hole/1.png"):
        write(tmp_path / "data" / name)
    write(tmp_path / "data/ground_truth/hole/0_mask.png")
    code, lines, _ = predict(tmp_path / "data", "--overlays", tmp_path / "overlays")
    assert code == 0
    expected = ["test/good/0.png", "test/hole/0.png", "test/hole/1.png"]
    assert [line["path"] for line in lines] == [str(tmp_path / "data" / n) for n in expected]
    drawn = [path.relative_to(tmp_path / "overlays") for path in files(tmp_path / "overlays")]
    assert [path.as_posix() for path in drawn] == expected


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_unreadable_image_is_a_line_and_the_others_are_done(predict, tmp_path):
    good = [write(tmp_path / f"{index}.png", 100) for index in range(5)]
    good[1].write_bytes(b"words")
    missing = tmp_path / "nothing there.png"
    words = [good[0], good[1], missing, *good[2:]]
    code, lines, err = predict(*words, "--batch-size", 2, "--overlays", tmp_path / "overlays")
    assert code == 1
    assert [line["path"] for line in lines] == [str(word) for word in words]
    assert [set(line) == {"path", "error"} for line in lines] == [
        word in (good[1], missing) for word in words
    ]
    assert "got a file that starts with b'words'" in lines[1]["error"]
    assert "nothing there" in lines[2]["error"]
    assert str(good[1]) in err
    assert "2 of 6 images could not be read" in err
    assert "Traceback" not in err
    assert len(files(tmp_path / "overlays")) == 4


def test_nothing_readable_is_a_failure_too(predict, tmp_path):
    code, lines, _ = predict(tmp_path / "a.png", tmp_path / "b")
    assert code == 1
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["empty", "list.txt"])
def test_a_source_without_images_is_an_error(name, predict, tmp_path):
    (tmp_path / "empty").mkdir()
    code, lines, err = predict(tmp_path / name)
    assert (code, lines) == (1, [])
    assert str(tmp_path / name) in err


# --- the output file


def test_the_output_file_appears_only_when_it_is_complete(predict, tmp_path, monkeypatch):
    target = tmp_path / "deep" / "results.jsonl"
    paths = [write(tmp_path / f"{index}.png", 10 * index) for index in range(4)]
    there = []

    def open_backend(*_):
        def run(images):
            there.append(target.exists())
            return images[..., 0].astype(np.float32) / 255

        return run

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    words = [*paths, "--output", target, "--batch-size", 1]
    code, lines, _ = predict(*words)
    assert (code, lines) == (0, [])
    assert there == [False] * 4
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line["path"] for line in written] == [str(path) for path in paths]
    assert files(tmp_path / "deep") == [target]
    # The same again replaces it, and an unreadable image's line is in it.
    paths[0].write_bytes(b"words")
    code, _, _ = predict(*words)
    assert code == 1
    assert "error" in json.loads(target.read_text(encoding="utf-8").splitlines()[0])


def sees(monkeypatch, before_image):
    """Let the model do something before each image, whose number it is given."""
    numbers = itertools.count()

    def run(images):
        before_image(next(numbers))
        return images[..., 0].astype(np.float32) / 255

    monkeypatch.setattr("destseg.inference.predictor.open_backend", lambda *_: run)


@pytest.mark.parametrize(("end", "expected"), [("Ctrl-C", 130), ("SIGTERM", 143), ("fault", 1)])
def test_what_was_done_before_an_end_is_kept_beside_the_old_output(
    end, expected, predict, tmp_path, monkeypatch
):
    target = tmp_path / "out" / "results.jsonl"
    target.parent.mkdir()
    target.write_text("old\n", encoding="utf-8")
    paths = [write(tmp_path / f"{index}.png") for index in range(40)]

    def stop(number):
        if number == 20 and end == "fault":
            raise OSError("no such device")
        if number == 20:
            os.kill(os.getpid(), signal.SIGINT if end == "Ctrl-C" else signal.SIGTERM)

    sees(monkeypatch, stop)
    before = signal.getsignal(signal.SIGTERM)  # another test's Ray may have put its own there
    code, _, err = predict(*paths, "--output", target, "--batch-size", 1)
    assert code == expected
    assert target.read_text(encoding="utf-8") == "old\n"
    (kept,) = set(files(target.parent)) - {target}
    assert str(kept) in err
    assert not kept.name.startswith(".")
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert 0 < len(lines) < 40
    assert f"its first {len(lines)} lines" in err
    assert [line["path"] for line in lines] == [str(path) for path in paths[: len(lines)]]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_without_an_output_is_told_too(predict, tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{index}.png") for index in range(40)]
    sees(monkeypatch, lambda number: number == 20 and os.kill(os.getpid(), signal.SIGTERM))
    code, lines, err = predict(*paths, "--batch-size", 1)
    assert code == 143
    assert err == f"destseg: stopped after {len(lines)} of 40 images\n"


def test_without_a_line_nothing_is_kept(predict, tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{index}.png") for index in range(3)]
    sees(monkeypatch, forbidden)
    code, _, err = predict(*paths, "--output", tmp_path / "out" / "results.jsonl")
    assert code == 1
    assert "kept" not in err
    assert files(tmp_path / "out") == []


def forbidden(*_: object, **__: object) -> None:
    raise OSError("no such device")


def test_two_runs_with_one_output_do_not_mix(predict, tmp_path, monkeypatch, brightness_model):
    target = tmp_path / "results.jsonl"
    first = [write(tmp_path / "first" / f"{index}.png") for index in range(10)]
    second = [write(tmp_path / "second" / f"{index}.png") for index in range(3)]
    codes = []

    def begin_another(number):
        if number == 5:
            words = [brightness_model, *second, "--output", target]
            codes.append(main(["predict", *map(str, words)]))
            lines = target.read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["path"] for line in lines] == list(map(str, second))

    sees(monkeypatch, begin_another)
    code, _, _ = predict(*first, "--output", target, "--batch-size", 1)
    assert (codes, code) == ([0], 0)
    lines = target.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(map(str, first))
    assert [path for path in files(tmp_path) if "results" in path.name] == [target]


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_keeps_whole_lines(predict, tmp_path, disk_of):
    target = tmp_path / "out" / "results.jsonl"
    paths = [write(tmp_path / f"{index}.png") for index in range(10)]
    with disk_of(1000):
        code, _, err = predict(*paths, "--output", target)
    assert code == 1
    assert "results.jsonl: expected a file that can be written, got: " in err
    (kept,) = files(target.parent)
    assert str(kept) in err
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert [line["path"] for line in lines] == list(map(str, paths[: len(lines)]))
    assert 0 < len(lines) < 10


# --- outputs that are inputs


@pytest.mark.parametrize(
    "output", ["in/part.png", "list.txt", "linked/part.png", "model/manifest.json"]
)
def test_an_output_that_is_read_from_is_refused_before_the_work(
    output, predict, tmp_path, monkeypatch
):
    path = write(tmp_path / "in" / "part.png")
    (tmp_path / "list.txt").write_text("in/part.png\n", encoding="utf-8")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    before = {path: path.read_bytes() for path in files(tmp_path)}
    monkeypatch.setattr("destseg.inference.predictor.open_backend", forbidden)
    code, lines, err = predict(tmp_path / "list.txt", "--output", tmp_path / output)
    assert (code, lines) == (2, [])
    assert str(tmp_path / output) in err
    assert "Choose another place for the output" in err
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    assert path in before


@pytest.mark.parametrize("where", ["in", "linked", "model"])
def test_overlays_never_replace_images_or_the_model(where, predict, tmp_path, monkeypatch):
    write(tmp_path / "in" / "part.png")
    write(tmp_path / "in" / "roi.png")
    write(tmp_path / "model" / "roi.png")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    before = {path: path.read_bytes() for path in files(tmp_path)}
    monkeypatch.setattr("destseg.inference.predictor.open_backend", forbidden)
    code, lines, err = predict(tmp_path / "in", "--overlays", tmp_path / where)
    assert (code, lines) == (2, [])
    assert str(tmp_path / where) in err
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_overlays_of_an_earlier_run_are_replaced_unless_they_are_read_now(predict, tmp_path):
    path = write(tmp_path / "in" / "part.png", 0)
    overlays = tmp_path / "in" / "overlays"
    assert predict(path, "--overlays", overlays)[0] == 0
    first = (overlays / "part.png").read_bytes()
    write(path, 255)
    assert predict(path, "--overlays", overlays)[0] == 0
    assert (overlays / "part.png").read_bytes() != first
    # The folder is searched to any depth, so that they are images to be inspected too.
    code, _, err = predict(tmp_path / "in", "--overlays", overlays)
    assert code == 2
    assert str(overlays / "part.png") in err


@pytest.mark.parametrize("overlays", ["out", "out/deep"])
def test_a_file_and_overlays_in_one_place_are_refused_before_the_work(overlays, predict, tmp_path):
    path = write(tmp_path / "part.png", 20)
    words = (path, "--output", tmp_path / "out", "--overlays", tmp_path / overlays)
    code, _, err = predict(*words)
    assert code == 1
    assert f"{tmp_path / 'out'}: expected a file to write to, got a folder" in err
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("where", ["in/overlays", "linked/more"])
def test_overlays_in_a_folder_that_is_searched_are_refused(where, predict, tmp_path):
    """They would be inspected the next time, and trained on."""
    write(tmp_path / "in" / "deep" / "part.png")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    code, lines, err = predict(tmp_path / "in", "--overlays", tmp_path / where)
    assert (code, lines) == (2, [])
    assert f"--overlays: expected a place outside of {tmp_path / 'in'}, which is searched" in err
    assert len(files(tmp_path / "in")) == 1


@pytest.mark.parametrize("target", ["file/results.jsonl", "folder"])
def test_an_output_that_cannot_be_is_an_error_before_the_work(target, predict, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "part.png")
    code, _, err = predict(path, "--output", tmp_path / target)
    assert code == 1
    assert str(tmp_path / target) in err
    assert "Traceback" not in err


# --- overlays


def test_every_image_has_its_own_overlay(predict, tmp_path):
    names = ["a/part.png", "b/part.png", "b/part.jpg", "b/part-2.png", "deep/c/part.PNG"]
    paths = [write(tmp_path / "in" / name, 200, (24 + 8 * i, 40)) for i, name in enumerate(names)]
    overlays = tmp_path / "overlays"
    code, lines, _ = predict(*paths, tmp_path / "in", paths[0], "--overlays", overlays)
    assert code == 0
    assert len(lines) == 2 * len(paths) + 1
    drawn = files(overlays)
    assert len(drawn) == len(lines)
    assert {path.suffix for path in drawn} == {".png"}
    # A folder's images keep their place below it.
    assert (overlays / "a/part.png").is_file()
    assert (overlays / "deep/c/part.png").is_file()


def test_an_overlay_is_the_drawing_of_its_image(predict, tmp_path, brightness_model):
    path = tmp_path / "part.png"
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 10:30] = 255
    Image.fromarray(image).save(path)
    predict(path, "--overlays", tmp_path / "overlays")
    drawn = read_image(tmp_path / "overlays" / "part.png")
    result = destseg.load(brightness_model).predict(path)
    np.testing.assert_array_equal(drawn, result.overlay())
    assert (drawn != image).any()


def test_overlays_that_cannot_be_written_cost_no_result(predict, tmp_path):
    paths = [write(tmp_path / "in" / f"{index}.png", 200) for index in range(3)]
    overlays = tmp_path / "overlays"
    (overlays / "1.png").mkdir(parents=True)
    words = [*paths, "--overlays", overlays, "--output", tmp_path / "results.jsonl"]
    code, _, err = predict(*words)
    assert code == 1
    assert str(overlays / "1.png") in err
    assert "1 of 3 overlays are missing" in err
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(map(str, paths))
    assert files(overlays) == [overlays / "0.png", overlays / "2.png"]


def test_a_place_that_takes_no_overlays_is_an_error_before_the_work(predict, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("destseg.inference.predictor.open_backend", forbidden)
    code, lines, err = predict(write(tmp_path / "0.png"), "--overlays", tmp_path / "file/overlays")
    assert (code, lines) == (1, [])
    assert "overlays: expected a folder to write to, got: " in err


def test_without_the_flag_nothing_is_drawn(predict, tmp_path):
    path = write(tmp_path / "in" / "part.png")
    before = files(tmp_path)
    predict(path)
    assert files(tmp_path) == before


def test_a_long_list_of_equal_names_is_named_in_time_that_grows_with_its_length(monkeypatch):
    """As lines write them: one folder a part, the same name in each."""
    tried = []
    with_name = Path.with_name
    monkeypatch.setattr(Path, "with_name", lambda self, n: (tried.append(n), with_name(self, n))[1])
    names = [name for _, name in named_images([Path("part.png")] * 500)]
    assert names[:3] == ["part.png", "part-2.png", "part-3.png"]
    assert len(set(names)) == 500
    assert len(tried) < 2 * 500


# --- arguments


@pytest.mark.parametrize("value", ["0", "-3"])
def test_a_batch_of_nothing_is_refused(value, predict, tmp_path):
    code, _, err = predict(write(tmp_path / "part.png"), "--batch-size", value)
    assert code == 2
    assert f"(--batch-size): expected at least 1, got {value}" in err


def test_a_missing_model_is_an_error_without_a_trace(tmp_path, capsys):
    path = write(tmp_path / "part.png")
    assert main(["predict", str(tmp_path / "nothing"), str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("destseg: error: expected the folder of a trained model")
    assert "Traceback" not in err


CLOSED_READER = """
import sys
import numpy as np
import destseg.inference.predictor as module
from destseg.cli.main import main
module.open_backend = lambda *_: lambda images: images[..., 0].astype(np.float32) / 255
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("count", [1, 300])
def test_a_reader_that_goes_away_is_not_a_trace(count, brightness_model, tmp_path):
    path = write(tmp_path / "part.png", size=(2, 2))
    (tmp_path / "list.txt").write_text(f"{path}\n" * count, encoding="utf-8")
    words = ["predict", str(brightness_model), str(tmp_path / "list.txt")]
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CLOSED_READER, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Buffered, as programs in a pipe are: the last lines are written at the very end.
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        code = process.wait(60)
    assert err == ""
    assert code == 1


# --- with a model that was really trained


def test_the_command_says_what_python_says(trained, parts, capsys):
    paths = sorted(parts.glob("*.png"))[:3]
    assert main(["predict", str(trained), *map(str, paths), "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    results = destseg.load(trained, device="cpu").predict(list(paths))
    assert lines == [json.loads(json.dumps(result.to_json())) for result in results]
    assert all(0 < line["score"] < 1 for line in lines)
    assert len({line["score"] for line in lines}) == 3


def test_an_unknown_device_is_refused(trained, parts, capsys):
    image = str(next(parts.glob("*.png")))
    assert main(["predict", str(trained), image, "--device", "gpu0"]) in (1, 2)
    err = capsys.readouterr().err
    assert "gpu0" in err
    assert "Traceback" not in err


# --- which files of a folder


def test_a_folder_leaves_nothing_out_that_its_name_would_not(predict, tmp_path):
    for name in ("1.png", "2.png"):
        write(tmp_path / "in" / name)
    write(tmp_path / "jpeg.jpg").rename(tmp_path / "in/3.jfif")
    write(tmp_path / "png.png").rename(tmp_path / "in/4")
    (tmp_path / "in/5.gif").write_bytes(b"GIF89a" + bytes(20))
    (tmp_path / "in/6.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in/notes.txt").write_text("of the shift", encoding="utf-8")
    code, lines, err = predict(tmp_path / "in")
    assert code == 1
    assert [Path(line.get("path")).name for line in lines] == [
        *("1.png", "2.png", "3.jfif", "4", "5.gif", "6.png")
    ]
    assert ["error" in line for line in lines] == [False] * 4 + [True] * 2
    assert "2 of 6" in err
    # The same files by their names.
    words = sorted(path for path in (tmp_path / "in").iterdir() if path.suffix != ".txt")
    assert predict(*words)[:2] == (code, lines)


def test_masks_beside_good_and_defective_images_are_left_out_with_a_word(predict, tmp_path):
    for name in ("normal/1.png", "abnormal/2.png", "mask/2.png"):
        write(tmp_path / "in" / name)
    code, lines, err = predict(tmp_path / "in")
    assert code == 0
    assert [Path(line["path"]).name for line in lines] == ["2.png", "1.png"]
    assert "left out the masks (1)" in err
    # A category called mask is one of others.
    write(tmp_path / "categories/mask/1.png")
    write(tmp_path / "categories/glove/1.png")
    assert len(predict(tmp_path / "categories")[1]) == 2
