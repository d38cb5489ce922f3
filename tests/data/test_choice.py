import pytest
from hypothesis import given
from hypothesis import strategies as st

from destseg.data.choice import evenly


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_choice_is_even(total, count):
    chosen = evenly(range(total), count)
    assert len(chosen) == min(total, count)
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    if chosen:
        # The gap to the end counts as one between two: nothing is left over at the end.
        gaps = [after - before for before, after in zip(chosen, [*chosen[1:], total], strict=True)]
        assert chosen[0] == 0
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "a"), (2, "ad"), (4, "abde"), (6, "abcdef"), (7, "abcdef")]
)
def test_items_are_taken_in_their_order(count, expected):
    assert "".join(evenly("abcdef", count)) == expected
