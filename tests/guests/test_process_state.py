"""What belongs to the whole process is left as it was found."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from destseg.as_found import without_remarks

PROGRAM = Path(__file__).with_name("process_state.py")


@pytest.mark.slow
def test_a_caller_finds_its_process_as_it_was(parts, tiny_settings, tiny_teacher_weights, tmp_path):
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    file = tmp_path / "tiny.yaml"
    file.write_text(settings.to_yaml(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(file), str(parts), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    # NNCF's bar, after which older versions of rich end the line once more.
    assert all(line.startswith("Statistics collection") for line in said if line)
    changed = json.loads(last)
    assert len(changed) == 13
    assert not {name: found for name, found in changed.items() if found}


def test_threads_that_silence_one_logger_leave_its_level(caplog):
    import logging

    logger = logging.getLogger("destseg.tests.guest")
    logger.setLevel(logging.INFO)
    first_inside, second_inside = threading.Event(), threading.Event()

    def first():
        with without_remarks(logger.name):
            first_inside.set()
            assert second_inside.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_inside.wait(10)
    with without_remarks(logger.name):
        second_inside.set()
        thread.join()
        logger.getChild("below").warning("a remark")
        logger.error("an error")
    assert logger.level == logging.INFO
    assert [record.message for record in caplog.records] == ["an error"]
