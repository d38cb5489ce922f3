import os
import signal
import threading
import time

import pytest

from destseg.interruption import Interruption

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def test_waiting_ends_with_its_time():
    begun = time.monotonic()
    assert not Interruption().wait(0.25)
    assert time.monotonic() - begun >= 0.25


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waiting_ends_with_a_signal_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interruption().watch() as interruption:
        sender = threading.Timer(0.2, os.kill, (os.getpid(), number))
        sender.start()
        assert interruption.wait(60)
        assert interruption.signal == number
        # The second one ends the program at once: whoever had it before has it again.
        assert signal.getsignal(number) == before
        assert interruption.wait(60)
        sender.join()
    assert signal.getsignal(number) == before


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def watch():
        with Interruption().watch() as interruption:
            seen.append((signal.getsignal(signal.SIGTERM), interruption.wait(0)))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
