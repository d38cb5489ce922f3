"""``destseg watch`` as people run it: exit codes, what it says, signals, and kill -9."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from conftest import write_images
from destseg.cli.main import main

QUICK = ["--interval", "0.05", "--settle", "0.1", "--give-up", "0.4"]


def write(path: Path, red: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((20, 30, 3), 50, np.uint8)
    image[..., 0] = red
    Image.fromarray(image).save(path)
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def watch(brightness_model, tmp_path, capsys):
    """Runs the command with --once; returns the exit code and what it said."""

    def run(*words: object, output: str = "results.jsonl") -> tuple[int, str]:
        capsys.readouterr()
        given = ["watch", str(brightness_model), str(tmp_path / "in"), *map(str, words), *QUICK]
        code = main([*given, "--output", str(tmp_path / output), "--once"])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return run


def test_the_results_are_those_of_predict_and_more(watch, brightness_model, tmp_path, capsys):
    for number, red in enumerate([200, 10, 90]):
        write(tmp_path / "in" / f"{number}.png", red)
    code, err = watch()
    assert code == 0
    assert "destseg: 3 inspected in 0:00:0" in err
    assert "2 defective, 0 could not be read" in err
    assert main(["predict", str(brightness_model), str(tmp_path / "in")]) == 0
    predicted = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    rows = lines(tmp_path / "results.jsonl")
    assert [{name: row[name] for name in predicted[0]} for row in rows] == predicted
    more = {"file", "size", "mtime_ns", "inspected", "weights_sha256", "moved_to"}
    assert all(set(row) == set(predicted[0]) | more for row in rows)
    assert watch() == (0, "")  # cron runs it again, and has no letter to write
    assert lines(tmp_path / "results.jsonl") == rows


def test_drift_reads_the_lines(watch, brightness_model, tmp_path):
    for number in range(5):
        write(tmp_path / "in" / f"{number}.png", 20 + number)
    watch()
    assert main(["drift", str(brightness_model), str(tmp_path / "results.jsonl")]) == 0


def test_what_cannot_be_read_is_said_and_is_the_exit_code(watch, tmp_path):
    write(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no image")
    code, err = watch("--verbose", "--move", tmp_path / "out")
    assert code == 1
    assert f"destseg: {tmp_path}/in/b.png: expected a JPEG, PNG" in err
    assert f"good      0.0000 {tmp_path}/in/a.png\n" in err
    assert "1 could not be read" in err
    assert (tmp_path / "out/good/a.png").is_file()
    assert (tmp_path / "out/failed/b.png").is_file()
    assert watch("--move", tmp_path / "out") == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--interval", "0"], 2, "--interval: expected a number of seconds of at least 0.01"),
        (["--give-up", "nan"], 2, "--give-up: expected a number of seconds"),
        (["--batch-size", "0"], 2, "(--batch-size): expected at least 1, got 0"),
        (["--output", "results.txt"], 2, "--output: expected a name that ends in .jsonl"),
        (["--output", "in"], 2, "--output: expected a name that ends in .jsonl"),
        (["--move", "in"], 2, "--move: expected a folder that"),
        (["--output", "taken/results.db"], 1, "taken"),
    ],
)
def test_wrong_arguments_are_errors(
    words, code, said, brightness_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in/a.png")
    (tmp_path / "taken").write_bytes(b"")
    given = ["watch", str(brightness_model), "in", "--output", "results.jsonl", "--once"]
    before = signal.getsignal(signal.SIGTERM)  # another test's Ray may have put its own there
    assert main([*given, *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", ["nothing", "in/a.png"])
def test_a_folder_that_is_none_is_an_error_before_the_work(
    name, brightness_model, tmp_path, capsys
):
    write(tmp_path / "in/a.png")
    words = ["watch", str(brightness_model), str(tmp_path / name)]
    assert main([*words, "--output", str(tmp_path / "results.jsonl")]) == 1
    assert "expected a folder to watch" in capsys.readouterr().err
    assert not (tmp_path / "results.jsonl").exists()


ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_the_schema_that_is_used():
    from destseg.watching.journal import SCHEMA

    assert f"```sql{SCHEMA}```" in (ROOT / "docs/watching.md").read_text(encoding="utf-8")


def test_the_unit_of_systemd_runs_a_command_that_exists(capsys):
    unit = (ROOT / "deploy/destseg-watch.service").read_text(encoding="utf-8")
    (started,) = re.findall(r"^ExecStart=\S+/destseg (.+)$", unit, re.M)
    words = started.split()
    assert main([*words, "--help"]) == 0
    described = capsys.readouterr().out
    assert words[0] == "watch"
    assert {word for word in words if word.startswith("--")} == {"--output", "--move"}
    assert "--output FILE" in described
    assert "--move DIR" in described


# --- as a process

STAND_IN = """
import sys, time
import numpy as np
import destseg.inference.predictor as module
from destseg.cli.main import main
module.open_backend = lambda *_: lambda images: images[..., 0].astype(np.float32) / 255
sys.exit(main(sys.argv[1:]))
"""


def start(model: Path, root: Path, *words: str) -> subprocess.Popen[str]:
    given = ["watch", str(model), str(root / "in"), *QUICK, "--verbose", *words]
    if "--output" not in words:
        given += ["--output", str(root / "results.jsonl")]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STAND_IN, *given], stderr=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str], number: signal.Signals | None = None) -> str:
    """End a process, by a signal if one is given, and return what it said."""
    if number is not None:
        process.send_signal(number)
    try:
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_image(number, brightness_model, tmp_path):
    write(tmp_path / "in/a.png", 200)
    with start(brightness_model, tmp_path) as process:
        assert first_line(process) == f"defective 0.7843 {tmp_path}/in/a.png\n"
        err = said(process, number)
    assert process.returncode == 128 + number
    assert err.startswith("destseg: 1 inspected in")
    assert "Traceback" not in err
    assert len(lines(tmp_path / "results.jsonl")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_while_the_model_is_loaded(number, watch, tmp_path, monkeypatch):
    went_on = []

    def slow(*_: object) -> None:
        os.kill(os.getpid(), number)
        went_on.append("loading")

    write(tmp_path / "in/a.png")
    monkeypatch.setattr("destseg.inference.predictor.open_backend", slow)
    assert watch() == (128 + number, f"destseg: stopped by {number.name}\n")
    assert went_on == []


def test_a_signal_before_the_first_image_is_told_too(watch, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()

    def waiting(*_: object) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr("destseg.interruption.Interruption.wait", waiting)
    code, err = watch()
    assert code == 143
    assert err.startswith("destseg: 0 inspected in 0:00:0")


def test_a_second_one_on_the_same_results_is_refused(brightness_model, tmp_path):
    write(tmp_path / "in/a.png")
    with start(brightness_model, tmp_path) as process:
        first_line(process)
        with start(brightness_model, tmp_path) as second:
            err = said(second)
        assert second.returncode == 1
        assert err.startswith(f"destseg: error: {tmp_path}/results.jsonl: expected to be the only")
        said(process, signal.SIGKILL)
    with start(brightness_model, tmp_path, "--once") as third:
        assert said(third) == ""
    assert third.returncode == 0


KILLED = {"jsonl": [], "db": ["--move"]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLED)
def test_kill_9_at_any_time_loses_and_repeats_nothing(kind, quantisable_bundle, tmp_path):
    """A camera drops 40 images, most of them slowly; the watch is killed again and again."""
    rng = random.Random(kind)
    source = write_images(tmp_path / "source", 40)
    folder, results = tmp_path / "in", tmp_path / f"results.{kind}"
    folder.mkdir()

    def camera() -> None:
        for path in sorted(source.iterdir()):
            content, cut = path.read_bytes(), rng.randrange(5000)
            with (folder / path.name).open("wb", buffering=0) as file:
                file.write(content[:cut])
                time.sleep(rng.uniform(0, 0.3))
                file.write(content[cut:])

    words = ["-m", "destseg", "watch", str(quantisable_bundle.folder), str(folder)]
    words += ["--output", str(results), "--backend", "onnx", "--threads", "1", "--interval", "0.05"]
    words += ["--settle", "0.2"]
    if KILLED[kind]:
        words += ["--move", str(tmp_path / "out")]
    thread = threading.Thread(target=camera)
    thread.start()
    kills = 0
    while thread.is_alive() or kills < 5:
        with subprocess.Popen([sys.executable, *words]) as process:
            try:
                process.wait(rng.uniform(0.8, 2.5))
                pytest.fail(f"it ended by itself with {process.returncode}")
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.returncode == -signal.SIGKILL
        kills += 1
    thread.join()
    assert subprocess.run([sys.executable, *words, "--once"], timeout=120).returncode == 0

    if kind == "jsonl":
        rows = lines(results)
    else:
        import sqlite3

        database = sqlite3.connect(results)
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM results")]
        database.close()
    predictor = destseg.load(quantisable_bundle.folder, backend="onnx", threads=1)
    expected = {path.name: predictor.predict(path).score for path in source.iterdir()}
    assert len(rows) == len(expected) == 40
    assert {row["file"]: row["score"] for row in rows} == pytest.approx(expected, abs=1e-6)
    if KILLED[kind]:
        assert list(folder.iterdir()) == []
        for row in rows:
            moved = tmp_path / "out" / row["moved_to"]
            assert moved.read_bytes() == (source / row["file"]).read_bytes()
