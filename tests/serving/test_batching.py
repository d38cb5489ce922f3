"""The queue: order, bounds, deadlines, and what happens when something breaks."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from destseg.serving.batching import Batcher, DeadlinePassed, QueueFull
from serving.fakes import brightness, image, make_predictor

LATER = 1e9


class Gate:
    """A backend that waits until it is let go, and notes the sizes of its batches."""

    def __init__(self):
        self.open = threading.Event()
        self.began = threading.Event()
        self.sizes = []

    def __call__(self, images):
        self.began.set()
        assert self.open.wait(30)
        self.sizes.append(len(images))
        return brightness(images)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    batcher = Batcher(make_predictor(gate, batch_size=4), capacity=20)
    yield batcher
    gate.open.set()
    batcher.close()


def scores(futures):
    return [future.result(30).said.score for future in futures]


def test_answers_come_in_the_order_of_the_questions(batcher, gate):
    gate.open.set()
    reds = [5, 200, 17, 90, 255, 0, 3, 128, 64, 32]
    futures = batcher.submit([image(red) for red in reds], time.monotonic() + LATER)
    np.testing.assert_allclose(scores(futures), np.array(reds) / 255, atol=1e-6)


@pytest.fixture
def read(batcher, monkeypatch):
    """Released once for each image that was read."""
    done, real = threading.Semaphore(0), batcher.predictor.read
    monkeypatch.setattr(batcher.predictor, "read", lambda image: (real(image), done.release())[0])
    return done


def test_what_waits_goes_together_and_a_single_one_waits_for_nobody(batcher, gate, read):
    first = batcher.submit([image(1)], time.monotonic() + LATER)
    assert gate.began.wait(30)  # alone, although more could come
    rest = batcher.submit([image(red) for red in range(8)], time.monotonic() + LATER)
    for _ in range(1 + 8):
        assert read.acquire(timeout=30)
    time.sleep(0.05)  # what was read is not yet noted as such
    gate.open.set()
    scores(first + rest)
    assert gate.sizes == [1, 4, 4]


def test_the_next_images_are_read_while_a_batch_is_in_the_networks(batcher, gate, read):
    futures = batcher.submit([image(1)], time.monotonic() + LATER)
    assert gate.began.wait(30)
    futures += batcher.submit([image(red) for red in range(12)], time.monotonic() + LATER)
    for _ in range(1 + 8):
        assert read.acquire(timeout=30)
    assert not read.acquire(timeout=0.2)  # two batches, however many wait
    assert batcher.depth == 12
    gate.open.set()
    np.testing.assert_allclose(scores(futures), np.array([1, *range(12)]) / 255, atol=1e-6)


def test_an_unreadable_image_fails_alone(batcher, gate):
    gate.open.set()
    futures = batcher.submit([image(9), b"no image", image(8)], time.monotonic() + LATER)
    said = [future.result(30).said for future in futures]
    assert "starts with b'no image'" in said[1].error.reason
    assert (said[0].score, said[2].score) == pytest.approx((9 / 255, 8 / 255))


def test_room_is_bounded_and_given_back(batcher):
    with batcher.room(19), batcher.room(1), pytest.raises(QueueFull), batcher.room(1):
        pass
    with batcher.room(20):
        pass


def test_whose_deadline_has_passed_is_not_inspected(batcher, gate):
    blocking = batcher.submit([image(1)], time.monotonic() + LATER)
    assert gate.began.wait(30)
    late, fine = (
        batcher.submit([image(2)], time.monotonic() + seconds)[0] for seconds in (0, LATER)
    )
    time.sleep(0.01)
    gate.open.set()
    scores([*blocking, fine])
    with pytest.raises(DeadlinePassed):
        late.result(30)
    assert sum(gate.sizes) == 2


def test_who_gave_up_is_not_inspected(batcher, gate):
    blocking = batcher.submit([image(1)], time.monotonic() + LATER)
    assert gate.began.wait(30)
    gone, fine = batcher.submit([image(2), image(3)], time.monotonic() + LATER)
    assert gone.cancel()
    gate.open.set()
    scores([*blocking, fine])
    with pytest.raises(CancelledError):
        gone.result(30)
    assert sum(gate.sizes) == 2


def test_a_broken_model_is_told_and_its_successor_answers():
    def broken(images):
        raise RuntimeError("out of order")

    batcher = Batcher(make_predictor(broken), capacity=9)
    (future,) = batcher.submit([image(1)], time.monotonic() + LATER)
    with pytest.raises(RuntimeError, match="out of order"):
        future.result(30)
    batcher.predictor = make_predictor()
    assert scores(batcher.submit([image(51)], time.monotonic() + LATER)) == pytest.approx([0.2])
    batcher.close()


def test_an_image_that_breaks_the_model_takes_no_other_with_it(gate):
    """Seven callers must not be told of a fault that the eighth one's image made."""

    def breaks_at_white(images):
        if gate.open.wait(30) and (images == 255).any():
            raise RuntimeError("white")
        return brightness(images)

    batcher = Batcher(make_predictor(breaks_at_white), capacity=9)
    futures = batcher.submit([image(red) for red in (10, 20, 255, 30)], time.monotonic() + LATER)
    gate.open.set()
    with pytest.raises(RuntimeError, match="white"):
        futures[2].result(30)
    assert scores(futures[:2] + futures[3:]) == pytest.approx([10 / 255, 20 / 255, 30 / 255])
    batcher.close()


def test_a_predictor_that_was_replaced_is_let_go_while_nobody_asks():
    """Else two models would be held from a reload until the next image."""
    old = make_predictor()
    batcher = Batcher(old, capacity=9)
    scores(batcher.submit([image(1)], time.monotonic() + LATER))
    held, batcher.predictor = weakref.ref(old), make_predictor()
    del old
    deadline = time.monotonic() + 30
    while held() is not None and time.monotonic() < deadline:
        gc.collect()
    assert held() is None
    batcher.close()


def test_closing_finishes_what_was_accepted_and_takes_nothing_more(batcher, gate):
    futures = batcher.submit([image(red) for red in range(12)], time.monotonic() + LATER)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    refused = False
    while closing.is_alive() and not refused:
        try:
            batcher.submit([], time.monotonic() + LATER)
        except QueueFull:
            refused = True
    assert refused
    gate.open.set()
    closing.join(30)
    assert all(future.done() for future in futures)
    np.testing.assert_allclose(scores(futures), np.arange(12) / 255, atol=1e-6)
    with pytest.raises(QueueFull), batcher.room():
        pass


# A server that loads its models first and forks its workers then.
FORKED = """
import os, signal, warnings
from serving.fakes import make_predictor, image
from destseg.serving.batching import Batcher

def ask(batcher, red):
    with batcher.room():
        (answer,) = batcher.submit([image(red)], 1e9)
        return round(255 * answer.result(30).said.score)

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
batcher = Batcher(make_predictor(), capacity=1)
assert ask(batcher, 50) == 50
with batcher.room():  # what the other process has accepted fills no room in this one
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        right = batcher.is_open and [ask(batcher, red) for red in (60, 70)] == [60, 70]
        batcher.close()
        os._exit(0 if right and not batcher.is_open else 7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print(ask(batcher, 80), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_works_off_a_queue_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        },
    )
    assert done.stdout.split() == ["0", "80"], done.stderr
