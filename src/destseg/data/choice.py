"""An even choice of a few of many: neighbouring files often show the same part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return ``count`` of the items, evenly spread over all of them.

    Of n items those at the positions floor(i n / count), i = 0 ... count - 1: the first is among
    them, none comes twice, and the gaps between them differ by at most one.

    Args:
        items: what there is; for indices alone a ``range``.
        count: how many, at least 0; of fewer items all are returned.

    Returns:
        The chosen ones in the order given.
    """
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
