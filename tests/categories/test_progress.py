import json

import pytest

from destseg.categories.progress import standing
from destseg.config import Settings
from destseg.model_folder import read_log

SETTINGS = Settings().replace(batch_size=8, denoise_steps=40, segment_steps=60)


def write(folder, *records):
    lines = [json.dumps({"time": 100 + i, **each}) for i, each in enumerate(records)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


CHECK = {"event": "note", "text": "checking", "images": 9}
PHASE_1 = {"event": "phase", "phase": "denoise", "step": 0, "steps": 40}
STEP_1 = {**PHASE_1, "event": "step", "step": 10, "loss": 0.5, "images_per_s": 4.0}
PHASE_2 = {"event": "phase", "phase": "segment", "step": 0, "steps": 60}
STEP_2 = {**PHASE_2, "event": "step", "step": 30, "loss": 0.25, "images_per_s": 2.0}
DONE = {"event": "note", "text": "done", "threshold": 0.5, "guaranteed_false_alarm_rate": 0.1}


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([CHECK], "checking images"),
        ([CHECK, PHASE_1], "phase 1, step 0/40"),
        # 30 + 60 steps of 8 images, 4 a second.
        ([CHECK, PHASE_1, STEP_1], "phase 1, step 10/40, loss 0.5000, about 0:03:00 left"),
        ([CHECK, PHASE_1, STEP_1, PHASE_2], "phase 2, step 0/60"),
        ([PHASE_2, STEP_2], "phase 2, step 30/60, loss 0.2500, about 0:02:00 left"),
        ([PHASE_2, STEP_2, DONE], "measuring"),
    ],
)
def test_a_training_stands_where_its_log_says(records, told, tmp_path):
    write(tmp_path, *records)
    assert str(standing(tmp_path, SETTINGS, since=100)) == told


def test_what_an_earlier_call_wrote_is_not_news(tmp_path):
    assert standing(tmp_path, SETTINGS, since=0) is None
    write(tmp_path, CHECK, PHASE_1, STEP_1)
    assert standing(tmp_path, SETTINGS, since=103) is None
    assert standing(tmp_path, SETTINGS, since=102).step == 10


def test_long_silence_is_told(tmp_path):
    write(tmp_path, CHECK, PHASE_1)
    at = standing(tmp_path, SETTINGS, since=0)
    assert at.told(101 + 100) == "phase 1, step 0/40"
    assert at.told(101 + 130) == "phase 1, step 0/40 (no news for 0:02:10)"


def test_lines_that_are_cut_off_are_passed_over(tmp_path):
    write(tmp_path, CHECK, PHASE_1, STEP_1)
    path = tmp_path / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + b'\n"words"\n')
    assert [each["event"] for each in read_log(tmp_path)] == ["note", "phase"]
    path.write_bytes(whole)
    assert [each["event"] for each in read_log(tmp_path, tail=150)] == ["step"]
