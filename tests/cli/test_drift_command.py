"""The model's map is the red channel; its calibration scores are 0.1, 0.2 and 0.3."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.cli.main import main
from destseg.errors import NotWrittenError
from destseg.inference.calibration import TOLERANCE
from destseg.monitoring.drift import Drift

RNG = np.random.default_rng(0)
QUIET = RNG.integers(5, 70, 40).tolist()
SHIFTED = RNG.integers(60, 75, 80).tolist()  # below the threshold's 76.5 all of them


def write(folder: Path, reds: list[int], first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, red in enumerate(reds, first):
        image = np.full((4, 6, 3), 50, np.uint8)
        image[..., 0] = red
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def drift(brightness_model, capsys):
    """Runs the command; returns the exit code, what it printed and what it complained of."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["drift", str(brightness_model), *map(str, words)])
        return code, *capsys.readouterr()

    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_quiet_images_are_no_drift(drift, tmp_path):
    code, out, err = drift(write(tmp_path / "in", QUIET))
    assert (code, err) == (0, "")
    assert "40, of which 40 good-looking ones are compared, first with 2 calibration images" in out
    assert "alarm at 100" in out
    assert "flagged     0 of 40 in this run" in out
    assert "at most 25.00% are expected" in out
    assert out.endswith("no drift shown\n")


@pytest.mark.parametrize(("reds", "way"), [(SHIFTED, "higher"), ([5] * 80, "lower")])
def test_a_shift_is_an_alarm_that_names_image_and_direction(reds, way, drift, tmp_path):
    folder = write(tmp_path / "in", QUIET)
    reds = [red + i % 5 for i, red in enumerate(reds)] if way == "lower" else reds
    write(folder, [max(1, red - 4) if way == "lower" else red for red in reds], len(QUIET))
    code, out, err = drift(folder, "--output", tmp_path / "out.jsonl")
    assert (code, err) == (3, "")
    written = lines(tmp_path / "out.jsonl")
    first = next(i for i, line in enumerate(written) if line["martingale_log10"] >= 2)
    assert first >= 40
    assert f"reached 100 after image {first + 1} ({folder / f'{first}.png'})" in out
    assert f"Scores have become {way} than before" in out
    highest = max(range(len(written)), key=lambda i: written[i]["martingale_log10"])
    assert f"after image {highest + 1} ({folder / f'{highest}.png'})" in out
    assert drift(folder, "--alarm-rate", "1e-60")[0] == 0


def test_the_lines_are_what_python_says_in_natural_order(drift, tmp_path, brightness_model):
    reds = [*QUIET[:11], 255]  # names to 11, and the last one is flagged
    folder = write(tmp_path / "in", reds)
    code, out, _ = drift(folder, "--output", tmp_path / "deep" / "out.jsonl", "--seed", 5)
    assert code == 0
    assert "12, of which 11 good-looking" in out
    assert "flagged     1 of 12" in out
    calibration = destseg.load(brightness_model).calibration
    written = lines(tmp_path / "deep" / "out.jsonl")
    assert [line["path"] for line in written] == [str(folder / f"{i}.png") for i in range(12)]
    scores = [line["score"] for line in written]
    assert scores == pytest.approx([red / 255 for red in reds])
    _, steps = Drift.start(calibration, 5).extend(scores)
    for line, step in zip(written, steps, strict=True):
        assert line["p_value"] == step.p_value
        assert line["martingale_log10"] == step.log10_martingale
    assert written[-1]["p_value"] is None


def test_more_flagged_images_than_chance_gives_are_told_of(drift, tmp_path):
    code, out, _ = drift(write(tmp_path / "few", [*QUIET[:11], 255]))
    assert code == 0
    assert "by chance" not in out
    code, out, _ = drift(write(tmp_path / "many", [*QUIET[:2], *[255] * 38]))
    assert code == 0
    assert "flagged     38 of 40" in out
    assert "so many by chance: " in out
    assert "destseg calibrate" in out


def test_what_predict_wrote_gives_the_same_without_the_model(
    drift, tmp_path, brightness_model, monkeypatch
):
    folder = write(tmp_path / "in", [*QUIET, 200])
    results, out, mixed = (tmp_path / f"{name}.jsonl" for name in ("results", "out", "mixed"))
    main(["predict", str(brightness_model), str(folder), "--output", str(results)])
    more = write(tmp_path / "more", SHIFTED[:5])
    assert drift(folder, more, folder / "0.png", "--output", out)[0] == 0
    assert drift(results, more, folder / "0.png", "--output", mixed)[0] == 0
    assert mixed.read_bytes() == out.read_bytes()

    def no_model(*_):
        raise AssertionError("opened")

    monkeypatch.setattr("destseg.inference.predictor.open_backend", no_model)
    assert drift(results, "--output", mixed)[0] == 0
    assert lines(mixed) == lines(out)[:41]


@pytest.mark.parametrize("by", [-0.9, 0, 0.9])
def test_a_tie_with_the_threshold_is_neither_compared_nor_flagged(by, drift, tmp_path):
    results, out = tmp_path / "results.jsonl", tmp_path / "out.jsonl"
    line = {"path": "a.png", "score": 0.3 + by * TOLERANCE, "p_value": 0.5}
    line["threshold"] = 0.3 + TOLERANCE
    results.write_text(json.dumps(line) + "\n", encoding="utf-8")
    code, said, _ = drift(results, "--output", out)
    assert code == 1
    assert "of which 0 good-looking" in said
    assert "nothing compared in this run: none of them is clearly below the threshold" in said
    assert "no drift shown" not in said
    assert "flagged     0 of 1" in said
    assert lines(out)[0]["p_value"] is None


def test_a_state_that_something_else_went_on_from_meanwhile_stays(brightness_model, tmp_path):
    folder, state = write(tmp_path / "in", QUIET), tmp_path / "state.json"
    begun = []

    def meanwhile(*_):
        if not begun:
            begun.append(True)
            destseg.drift(brightness_model, folder / "0.png", state=state)

    with pytest.raises(NotWrittenError, match="something else has gone on from it meanwhile"):
        destseg.drift(brightness_model, folder, state=state, on_progress=meanwhile)
    assert json.loads(state.read_bytes())["images"] == 1


def test_what_is_gone_on_from_and_what_is_compared_with_at_the_end_are_one_read(
    drift, tmp_path, monkeypatch
):
    folder, state, read = write(tmp_path / "in", [20] * 3), tmp_path / "line.json", Path.read_bytes
    assert drift(folder, "--state", state)[0] == 0
    reads = []

    def counted(self):
        reads.append(self)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert drift(folder, "--state", state)[0] == 0
    assert reads.count(state) == 2  # before the work, and before it is written


def test_a_line_goes_on_from_its_state_as_if_never_interrupted(drift, tmp_path):
    folder = write(tmp_path / "in", [*QUIET, *SHIFTED])
    names = [folder / f"{i}.png" for i in range(len(QUIET) + len(SHIFTED))]
    whole, state, out = tmp_path / "whole.json", tmp_path / "new" / "line.json", tmp_path / "o"
    code, _, _ = drift(folder, "--state", whole, "--seed", 3, "--output", out)
    assert code == 3
    parts = []
    for start, end, expected in ((0, 35, 0), (35, 45, 0), (45, 120, 3)):
        seed = ("--seed", 3) if start == 0 else ()
        part = tmp_path / "part.jsonl"
        code, said, _ = drift(*names[start:end], "--state", state, *seed, "--output", part)
        assert code == expected
        parts += lines(part)
    assert json.loads(state.read_bytes()) == json.loads(whole.read_bytes())
    assert parts == lines(out)
    assert "120 (75 in this run)" in said
    # An alarm stays, and is said to be from before.
    code, said, _ = drift(names[0], "--state", state)
    assert code == 3
    assert "reached 100 before this run" in said
    assert f"image {json.loads(state.read_bytes())['highest_at']};" in said


def test_unreadable_images_are_reported_and_the_others_count(drift, tmp_path):
    folder = write(tmp_path / "in", QUIET)
    (folder / "3.png").write_bytes(b"words")
    state, out = tmp_path / "line.json", tmp_path / "out.jsonl"
    missing = tmp_path / "nothing.png"
    code, said, err = drift(folder, missing, "--state", state, "--output", out)
    assert code == 1
    assert "39, of which 39" in said
    assert f"{folder / '3.png'}: " in err
    assert str(missing) in err
    assert "2 of 41 images could not be read" in err
    assert "Traceback" not in err
    written = lines(out)
    assert set(written[3]) == set(written[40]) == {"path", "error"}
    assert json.loads(state.read_bytes())["images"] == 39
    # Drift is the graver news.
    write(folder, SHIFTED, 50)
    assert drift(folder)[0] == 3


def test_errors_that_predict_wrote_are_unreadable_images(drift, tmp_path, brightness_model):
    folder = write(tmp_path / "in", QUIET[:3])
    (folder / "1.png").write_bytes(b"words")
    results = tmp_path / "results.jsonl"
    main(["predict", str(brightness_model), str(folder), "--output", str(results)])
    code, said, err = drift(results)
    assert code == 1
    assert "2, of which 2" in said
    assert "1 of 3 images could not be read" in err


def test_nothing_readable_is_a_failure(drift, tmp_path):
    code, said, err = drift(tmp_path / "a.png")
    assert code == 1
    assert "images    0" in said
    assert "nothing compared in this run: there is no score" in said
    assert "no drift shown" not in said
    assert "1 of 1 images could not be read" in err


def test_no_result_at_all_is_a_failure(drift, tmp_path):
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    code, said, _ = drift(tmp_path / "empty.jsonl")
    assert code == 1
    assert "nothing compared in this run: there is no score" in said


def test_a_run_that_compares_nothing_is_a_failure_whatever_was_compared_before(drift, tmp_path):
    state = tmp_path / "line.json"
    assert drift(write(tmp_path / "in", QUIET), "--state", state)[0] == 0
    code, said, _ = drift(write(tmp_path / "high", [200, 201]), "--state", state)
    assert code == 1
    assert "nothing compared in this run" in said
    assert json.loads(state.read_bytes())["images"] == len(QUIET) + 2


@pytest.mark.parametrize("name", ["watched.jsonl", "watched.db"])
def test_what_watch_wrote_gives_the_same_as_predicts_lines(name, drift, tmp_path, brightness_model):
    folder = write(tmp_path / "in", QUIET)
    for number in range(len(QUIET)):  # the oldest first, so that both have one order
        os.utime(folder / f"{number}.png", (number, number))
    watched, outs = tmp_path / name, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    words = [str(brightness_model), str(folder), "--once", "--settle", "0", "--interval", "0.01"]
    assert main(["watch", *words, "--output", str(watched)]) == 0
    assert drift(folder, "--output", outs[0])[0] == 0
    assert drift(watched, "--output", outs[1])[0] == 0
    assert lines(outs[0]) == lines(outs[1])


def test_what_batch_wrote_gives_the_same_as_predicts_lines(drift, tmp_path, brightness_model):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from destseg.batch_inspection.schema import row, to_parquet

    folder, results = write(tmp_path / "in", QUIET), tmp_path / "results"
    predictor = destseg.load(brightness_model)
    answers = list(predictor.stream(folder / f"{number}.png" for number in range(len(QUIET))))
    results.mkdir()
    for part, low in enumerate(range(0, len(QUIET), 16)):
        rows = [
            row(answer.path, part, answer, predictor.bundle.weights_sha256)
            for answer in answers[low : low + 16]
        ]
        (results / f"part-{part:06}-0123abcd.parquet").write_bytes(to_parquet(rows))
    outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert drift(folder, "--output", outs[0])[0] == 0
    assert drift(results, "--output", outs[1])[0] == 0
    assert lines(outs[0]) == lines(outs[1])


# --- refusals


@pytest.mark.parametrize("rate", ["0", "1", "nan", "-1"])
def test_a_rate_that_makes_no_sense_is_refused(rate, drift, tmp_path):
    code, said, err = drift(write(tmp_path / "in", [1]), f"--alarm-rate={rate}")
    assert (code, said) == (2, "")
    assert "--alarm-rate: expected a number between 0 and 1, got" in err


def test_a_state_of_another_model_is_refused_and_left_alone(drift, tmp_path):
    folder, state = write(tmp_path / "in", QUIET), tmp_path / "line.json"
    assert drift(folder, "--state", state)[0] == 0
    other = {**json.loads(state.read_bytes()), "weights_sha256": "f" * 64}
    state.write_text(json.dumps(other), encoding="utf-8")
    code, said, err = drift(folder, "--state", state)
    assert (code, said) == (1, "")
    assert "another model or another threshold" in err
    assert json.loads(state.read_bytes()) == other


def test_another_seed_than_the_states_is_refused(drift, tmp_path):
    folder, state = write(tmp_path / "in", QUIET[:3]), tmp_path / "line.json"
    assert drift(folder, "--state", state, "--seed", 4)[0] == 0
    assert drift(folder, "--state", state, "--seed", 4)[0] == 0
    code, _, err = drift(folder, "--state", state, "--seed", 0)
    assert code == 2
    assert "--seed: expected 4" in err


@pytest.mark.parametrize("flag", ["--state", "--output"])
@pytest.mark.parametrize("target", ["file/x.json", "folder"])
def test_a_file_that_cannot_be_written_is_an_error_before_the_work(flag, target, drift, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    code, said, err = drift(write(tmp_path / "in", [1]), flag, tmp_path / target)
    assert (code, said) == (1, "")
    assert f"{tmp_path / target}: expected a file to write to" in err


@pytest.mark.parametrize(
    ("change", "what_to_do"),
    [
        ({"p_value": 0.123}, "After destseg calibrate begin a new file of results."),
        ({"threshold": 0.31}, "After destseg calibrate begin a new file of results."),
        ({"score": 0.15}, "After destseg calibrate begin a new file of results."),
        ({"score": math.nan}, "expected a score in [0, 1], got nan"),
        ({"score": 1.5}, "expected a score in [0, 1], got 1.5"),
    ],
)
def test_another_models_results_are_refused(
    change, what_to_do, drift, tmp_path, brightness_model, capsys
):
    main(["predict", str(brightness_model), str(write(tmp_path / "in", [60]) / "0.png")])
    line = json.loads(capsys.readouterr().out)
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({**line, **change}) + "\n", encoding="utf-8")
    code, said, err = drift(results)
    assert (code, said) == (1, "")
    assert f"{results}, line 1: expected" in err
    assert what_to_do in err


@pytest.mark.parametrize("content", [b"words\n", b"[]\n", b"3\n", b'{"path": "a"}\n', b"\xff\n"])
def test_what_predict_did_not_write_is_refused(content, drift, tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_bytes(content)
    code, said, err = drift(results)
    assert (code, said) == (1, "")
    assert str(results) in err
    assert "expected" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [["no.jsonl"], ["empty"], ["no.txt"], ["no.jsonl", "--backend=x"]]
)
def test_sources_that_are_not_there_are_refused(words, drift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, said, err = drift(*words)
    assert code in (1, 2)
    assert said == ""
    assert "expected" in err
    assert "Traceback" not in err


def test_a_failure_on_the_way_leaves_the_old_state(drift, tmp_path, monkeypatch):
    folder, state = write(tmp_path / "in", QUIET), tmp_path / "line.json"
    drift(folder, "--state", state)
    old = state.read_bytes()

    def open_backend(*_):
        def run(images):
            raise KeyboardInterrupt

        return run

    monkeypatch.setattr("destseg.inference.predictor.open_backend", open_backend)
    assert drift(folder, "--state", state)[0] == 130
    assert state.read_bytes() == old


def test_a_trained_model_says_the_same_of_images_and_of_predicts_lines(trained, parts, tmp_path):
    results, outs = tmp_path / "results.jsonl", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    words = [str(trained), str(parts), "--device", "cpu", "--output"]
    assert main(["predict", *words, str(results)]) == 0
    codes = [main(["drift", *words, str(outs[0])])]
    codes += [main(["drift", str(trained), str(results), "--output", str(outs[1])])]
    assert codes[0] == codes[1]
    assert codes[0] in (0, 3)
    assert lines(outs[0]) == lines(outs[1])
    assert len(lines(outs[0])) == 12
