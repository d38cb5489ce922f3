import os
import signal
import threading
import time

import pytest

from destseg.interruption import Interruption, whole

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


def test_the_first_signal_ends_the_work_and_the_second_is_whose_it_was(own_handler):
    interruption = Interruption()

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            assert own_handler == []
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), interruption.end():
        work()
    assert interruption.signal == signal.SIGTERM
    assert own_handler == [signal.SIGTERM]


def test_what_is_in_hand_inside_of_work_that_a_signal_ends_is_finished():
    with Interruption().end() as outer:
        with Interruption().watch() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.wait(60)
        assert outer.signal is None


def test_a_signal_waits_for_what_is_done_as_a_whole(own_handler):
    with whole():
        os.kill(os.getpid(), signal.SIGTERM)
        assert own_handler == []
    assert own_handler == [signal.SIGTERM]


def test_a_signal_is_not_lost_where_the_whole_fails(own_handler):
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("full")

    with pytest.raises(OSError, match="full"), whole():
        work()
    assert own_handler == [signal.SIGTERM]
