"""The plan: everything once, in order, always the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from destseg.batch_inspection.partitions import (
    Piece,
    fingerprint,
    partition_size,
    plan_files,
    plan_rows,
)

FILES = [(f"{number}.png", 100 + number) for number in range(7)]


def images(pieces):
    return [pair for piece in pieces for pair in zip(piece.names, piece.sizes, strict=True)]


def test_partitions_have_the_files_in_order():
    pieces = plan_files(FILES, 3)
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    assert [piece.partition for piece in pieces] == [0, 1, 2]
    assert images(pieces) == FILES
    assert all(piece.whole for piece in pieces)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 40))
def test_a_plan_and_its_parts_have_every_image_once(count, size, parts):
    files = [(f"{number}.png", number) for number in range(count)]
    pieces = plan_files(files, size)
    assert images(pieces) == files
    for piece in pieces:
        cut = piece.split(parts)
        assert len(cut) == min(parts, len(piece))
        assert images(cut) == images([piece])
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
        assert not any(part.whole for part in cut)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5), st.integers(1, 20))
def test_partitions_of_parquet_have_every_row_once_in_whole_row_groups(tables, size):
    files = [(f"{number}.parquet", groups) for number, groups in enumerate(tables)]
    pieces = plan_rows(files, size)
    assert [piece.partition for piece in pieces] == list(range(len(pieces)))
    seen = [
        (piece.names[0], piece.first_row + row) for piece in pieces for row in range(len(piece))
    ]
    assert seen == [(name, row) for name, groups in files for row in range(sum(groups))]
    for piece in pieces:
        groups = dict(files)[piece.names[0]]
        assert sum(groups[index] for index in piece.groups) == len(piece)
        assert sum(groups[: piece.groups[0]]) == piece.first_row
        # No more groups than are needed.
        assert sum(groups[index] for index in piece.groups[:-1]) < size


def test_the_default_size_gives_every_actor_some_and_files_of_some_size():
    assert partition_size(1) == partition_size(300) == 16
    assert partition_size(10_000) == 157
    assert partition_size(64_000) == partition_size(10**8) == 1000


@pytest.mark.parametrize(
    "changed",
    [
        plan_files(FILES, 4),
        plan_files(FILES[:-1], 3),
        plan_files([*FILES[:-1], ("7.png", 106)], 3),
        plan_files([*FILES[:-1], ("6.png", 107)], 3),
        plan_files([FILES[1], FILES[0], *FILES[2:]], 3),
    ],
)
def test_another_listing_has_another_fingerprint(changed):
    assert fingerprint(plan_files(FILES, 3)) == fingerprint(plan_files(list(FILES), 3))
    assert fingerprint(changed) != fingerprint(plan_files(FILES, 3))


def test_other_row_groups_have_another_fingerprint():
    assert fingerprint(plan_rows([("a", [3, 3])], 3)) != fingerprint(plan_rows([("a", [3, 2])], 3))


@pytest.mark.parametrize(
    "piece",
    [
        Piece(3, 0, 2, ("ä.png", "b \udcff.png"), (5, -1)),
        Piece(1, 5, 9, ("a.parquet",), (), (4, 5), 70, whole=False),
    ],
)
def test_a_piece_survives_being_text(piece):
    assert Piece.from_json(piece.to_json().encode("ascii").decode()) == piece
