import itertools
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from destseg.data.prefetch import batches, in_order


@how(max_examples=40)
@given(
    items=st.lists(st.integers(), max_size=30),
    threads=st.integers(1, 4),
    ahead=st.integers(0, 9),
)
def test_results_come_in_the_order_of_the_items(items, threads, ahead):
    def slowly(item: int) -> int:
        time.sleep(random.Random(item).random() / 2000)
        return 2 * item

    assert list(in_order(slowly, items, threads=threads, ahead=ahead)) == [2 * k for k in items]


def test_a_slow_first_item_does_not_let_others_pass():
    others = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert others.wait(10)
        else:
            others.set()
        return item

    assert list(in_order(work, range(4), threads=2, ahead=4)) == [0, 1, 2, 3]


def test_work_is_done_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(in_order(lambda _: meeting.wait(), range(3), threads=3, ahead=3))) == 3


@pytest.mark.parametrize("ahead", [0, 1, 4, 9])
def test_items_are_taken_only_a_few_ahead(ahead):
    taken: list[int] = []

    def items():
        for item in itertools.count():
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items(), threads=2, ahead=ahead)
    assert taken == []
    for done in range(1, 30):
        assert next(results) == done - 1
        assert done <= len(taken) <= done + ahead
    results.close()


def test_while_a_result_takes_long_as_many_items_are_taken_as_may_wait():
    taken: list[int] = []
    full = threading.Event()

    def items():
        for item in range(30):
            taken.append(item)
            if len(taken) == 10:
                full.set()
            yield item

    results = in_order(lambda item: full.wait(10) and item, items(), threads=2, ahead=9)
    assert next(results) == 0
    # What is out is replaced: the threads have as much to do while the consumer is at work.
    for done in range(2, 20):
        next(results)
        assert len(taken) == done + 9
    results.close()


def test_a_result_does_not_wait_for_items_that_come_slowly():
    taken: list[int] = []
    worked = threading.Semaphore(0)

    def work(item: int) -> int:
        worked.release()
        return item

    def items():
        for item in range(12):
            taken.append(item)
            yield item
            assert worked.acquire(timeout=10)
            time.sleep(0.02)  # until its result is there

    behind = [len(taken) - 1 - result for result in in_order(work, items(), ahead=9)]
    assert sorted(behind)[len(behind) // 2] == 1


def test_an_error_is_raised_in_its_turn():
    def work(item: int) -> int:
        if item in (3, 5):
            raise ValueError(f"item {item}")
        return item

    results = in_order(work, range(10), threads=3, ahead=9)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("ahead", [0, 1, 4, 9])
@pytest.mark.parametrize("given", [0, 1, 5, 20])
def test_an_error_of_the_items_is_raised_behind_all_results(ahead, given):
    def items():
        yield from range(given)
        raise ValueError("no more")

    results = in_order(lambda item: item, items(), ahead=ahead)
    assert list(itertools.islice(results, given)) == list(range(given))
    with pytest.raises(ValueError, match="no more"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_batches_are_full_but_for_the_last_even_before_an_error(size):
    def items(fault: bool):
        yield from range(5)
        if fault:
            raise ValueError("no more")

    expected = [list(range(5))[start : start + size] for start in range(0, 5, size)]
    assert list(batches(items(fault=False), size)) == expected
    broken = batches(items(fault=True), size)
    assert list(itertools.islice(broken, len(expected))) == expected
    with pytest.raises(ValueError, match="no more"):
        next(broken)
    assert list(batches([], size)) == []


def own_threads() -> set[int]:
    found = (t for t in threading.enumerate() if t.name.startswith("destseg-read"))
    return {thread.ident or 0 for thread in found}


def test_leaving_early_cancels_what_waits_and_ends_the_threads():
    before = own_threads()
    begun: list[int] = []
    release = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item > 0:
            release.wait(10)
        return item

    results = in_order(work, range(1000), threads=2, ahead=100)
    assert next(results) == 0
    closing = threading.Thread(target=results.close)
    closing.start()
    release.set()
    closing.join(10)
    assert not closing.is_alive()
    assert len(begun) < 100
    assert own_threads() <= before


def test_no_thread_is_left_at_the_end_or_after_an_error():
    before = own_threads()
    assert list(in_order(lambda item: item, range(5))) == list(range(5))
    assert own_threads() <= before
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 1]))
    assert own_threads() <= before
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: item, (1 // item for item in [1, 1, 0])))
    assert own_threads() <= before


def test_nothing_at_all_is_nothing_at_all():
    assert list(in_order(lambda item: item, [])) == []
