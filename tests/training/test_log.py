import json
import sys

import pytest

from destseg.errors import MissingExtraError
from destseg.training.log import TrainingLog


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def write_some(folder, *, quiet=True, tensorboard=False):
    with TrainingLog(folder, tensorboard=tensorboard, quiet=quiet) as log:
        log.say("teacher: [bold] ü", teacher="package")
        log.start_phase("denoise", 2, 4)
        log.advance(3)
        log.report("denoise", 3, 4, loss=0.1234567, rate=8.12345, batch=4, lr=0.4)
        log.report("denoise", 4, 4, loss=0.25, rate=16.0, batch=4, lr=0.2)
        log.end_phase()


def test_every_line_is_json_with_its_facts(tmp_path):
    write_some(tmp_path)
    note, phase, first, second = lines(tmp_path)
    assert (note["event"], note["text"], note["teacher"]) == (
        "note",
        "teacher: [bold] ü",
        "package",
    )
    assert (phase["event"], phase["phase"], phase["step"], phase["steps"]) == (
        "phase",
        "denoise",
        2,
        4,
    )
    assert {key: value for key, value in first.items() if key != "time"} == {
        "event": "step",
        "phase": "denoise",
        "step": 3,
        "steps": 4,
        "loss": 0.123457,
        "images_per_s": 8.123,
        "lr": 0.4,
    }
    assert second["loss"] == 0.25
    times = [each["time"] for each in (note, phase, first, second)]
    assert times == sorted(times)
    assert times[0] > 1.6e9


def test_a_resumed_run_adds_to_the_log(tmp_path):
    write_some(tmp_path)
    write_some(tmp_path)
    assert len(lines(tmp_path)) == 8


def test_lines_are_there_while_the_run_goes_on(tmp_path):
    with TrainingLog(tmp_path, tensorboard=False, quiet=True) as log:
        log.say("one")
        assert len(lines(tmp_path)) == 1


def test_quiet_prints_nothing(tmp_path, capfd):
    write_some(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_there_are_plain_lines_on_stderr(tmp_path, capfd):
    write_some(tmp_path, quiet=False)
    out, err = capfd.readouterr()
    assert out == ""
    assert "teacher: [bold] ü\n" in err
    assert "phase 1, student: step 4/4, loss 0.2500, 16.0 images/s, 0:00:00 left\n" in err
    assert "\x1b" not in err


def test_the_last_step_is_always_told_but_not_every_one(tmp_path, capfd):
    with TrainingLog(tmp_path, tensorboard=False, quiet=False) as log:
        log.start_phase("segment", 0, 1000)
        for step in range(1, 1001):
            log.report("segment", step, 1000, loss=1.0, rate=2.0, batch=16, lr=0.1)
    told = capfd.readouterr().err.splitlines()
    assert 1 <= len(told) <= 3
    assert "step 1000/1000" in told[-1]
    assert len(lines(tmp_path)) == 1001


def test_the_time_left_is_what_the_rate_says(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("destseg.training.log.SECONDS_BETWEEN_LINES", -1.0)
    with TrainingLog(tmp_path, tensorboard=False, quiet=False) as log:
        log.start_phase("segment", 0, 1000)
        # 900 steps of 16 images at 2 a second are 7200 seconds.
        log.report("segment", 100, 1000, loss=1.0, rate=2.0, batch=16, lr=0.1)
    assert "2:00:00 left" in capfd.readouterr().err


def test_a_failure_closes_the_log(tmp_path):
    log = TrainingLog(tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(ZeroDivisionError), log:
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="closed file"):
        log.say("too late")


def test_tensorboard_without_the_extra_is_an_error_with_the_command(tmp_path, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tensorboard>="):
        TrainingLog(tmp_path, tensorboard=True, quiet=True)


@pytest.mark.slow
def test_tensorboard_has_the_same_numbers(tmp_path):
    write_some(tmp_path, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "denoise/loss",
        "denoise/images_per_s",
        "denoise/lr",
    }
    losses = [(each.step, each.value) for each in events.Scalars("denoise/loss")]
    assert losses == [(3, pytest.approx(0.1234567)), (4, 0.25)]


def test_a_full_disk_ends_no_training_and_is_told_once(tmp_path, disk_of, caplog):
    with disk_of(200):
        write_some(tmp_path)
        write_some(tmp_path)
    told = [record.message for record in caplog.records]
    assert len(told) == 2  # once each run
    assert all(f"{tmp_path / 'log.jsonl'}: the log is not complete: " in text for text in told)
    assert (tmp_path / "log.jsonl").stat().st_size <= 200
