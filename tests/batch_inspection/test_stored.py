"""Stored images: what is found, and what each of a piece's images gives."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from destseg.batch_inspection.partitions import Piece
from destseg.batch_inspection.stored import Stored, plan
from destseg.data.sources import source_images
from destseg.errors import DataError, ImageError

BYTES = [bytes([number]) * (number + 1) for number in range(10)]


def read_all(stored, pieces, **options):
    return [pair for piece in pieces for pair in stored.read(piece, max_pixels=100, **options)]


def write_table(path, values=BYTES, kind=None, rows_a_group=4, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(values, kind or pa.binary()), **columns})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return path


def test_files_are_read_in_order_and_named_by_their_paths(tmp_path):
    for number, content in enumerate(BYTES):
        (tmp_path / f"{number}.png").write_bytes(content)
    (tmp_path / "notes.md").write_text("no image", encoding="utf-8")
    stored, pieces, size = plan(str(tmp_path), size=4)
    assert (size, [len(piece) for piece in pieces]) == (4, [4, 4, 2])
    expected = [(str(tmp_path / f"{number}.png"), BYTES[number]) for number in range(10)]
    assert read_all(stored, pieces) == expected


def test_what_cannot_be_read_is_an_error_in_its_place(tmp_path, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x" * 5)
    (tmp_path / "4.png").write_bytes(bytes(2**20 + 8 * 100 + 1))
    stored, pieces, _ = plan(str(tmp_path))
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").unlink()
    (tmp_path / "2.png").mkdir()
    from destseg.batch_inspection.storage import Storage

    read = Storage.read

    def refuse(self, name):
        if name == "3.png":
            raise PermissionError(13, "Permission denied")
        return read(self, name)

    monkeypatch.setattr(Storage, "read", refuse)
    (_, good), *others = read_all(stored, pieces)
    assert good == b"xxxxx"
    reasons = [error.reason for _, error in others if isinstance(error, ImageError)]
    assert [name for name, _ in others] == [str(tmp_path / f"{n}.png") for n in (1, 2, 3, 4)]
    for reason, words in zip(
        reasons,
        ["nothing there", "cannot be read", "change its permissions", "1049377 bytes"],
        strict=True,
    ):
        assert words in reason


def test_a_list_names_files_that_may_be_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "list.txt").write_text("a.png\ngone.png\n", encoding="utf-8")
    stored, pieces, _ = plan(str(tmp_path / "list.txt"))
    (_, first), (name, second) = read_all(stored, pieces)
    assert first == b"a"
    assert name == str(tmp_path / "gone.png")
    assert isinstance(second, ImageError)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), STRUCT])
def test_rows_of_parquet_are_read_whatever_holds_the_bytes(kind, tmp_path):
    values = [{"bytes": each, "path": "x"} for each in BYTES] if kind == STRUCT else BYTES
    write_table(tmp_path / "a.parquet", values, kind)
    write_table(tmp_path / "deep/b.parquet", values[:3], kind)
    stored, pieces, _ = plan(str(tmp_path), size=5)
    assert [len(piece) for piece in pieces] == [8, 2, 3]
    expected = [(f"{tmp_path}/a.parquet#{row}", BYTES[row]) for row in range(10)]
    expected += [(f"{tmp_path}/deep/b.parquet#{row}", BYTES[row]) for row in range(3)]
    assert read_all(stored, pieces) == expected
    parts = [part for piece in pieces for part in piece.split(3)]
    assert read_all(stored, parts) == expected
    singles = [part for piece in pieces for part in piece.split(100)]
    assert [stored.place(piece) for piece in singles] == [name for name, _ in expected]


def test_a_column_names_the_images_and_null_is_an_error(tmp_path):
    values = [b"a", None, b"c"]
    path = write_table(tmp_path / "a.parquet", values, serial=["s0", "s1", None], other=values)
    stored, pieces, _ = plan(str(path), image_column="image", path_column="serial")
    (_, first), (_, second), _ = rows = read_all(stored, pieces)
    assert [name for name, _ in rows] == ["s0", "s1", f"{path}#2"]
    assert first == b"a"
    assert isinstance(second, ImageError)
    assert "got null" in second.reason


def test_rows_of_a_damaged_row_group_are_errors_and_the_others_are_read(tmp_path):
    path = write_table(tmp_path / "a.parquet", [b"x" * 1000] * 8, rows_a_group=4)
    stored, pieces, _ = plan(str(path), size=4)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    rows = read_all(stored, pieces)
    assert [name for name, _ in rows] == [f"{path}#{row}" for row in range(8)]
    assert [isinstance(found, ImageError) for _, found in rows] == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"second": BYTES}, {}, "expected one column with bytes"),
        ({}, {"image_column": "pixels"}, "expected a column 'pixels' with bytes"),
        ({}, {"path_column": "serial"}, "expected a column 'serial' for the paths, got image"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, options, reason, tmp_path):
    write_table(tmp_path / "a.parquet", **columns)
    with pytest.raises(DataError, match=reason):
        plan(str(tmp_path), **options)


def test_sources_that_make_no_sense_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    with pytest.raises(DataError, match="expected Parquet for a column's name"):
        plan(str(tmp_path), path_column="serial")
    write_table(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="either images or Parquet, got both"):
        plan(str(tmp_path))
    (tmp_path / "a.png").rename(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: expected Parquet, got"):
        plan(str(tmp_path))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("words", encoding="utf-8")
    (tmp_path / "notes/b.md").write_text("words", encoding="utf-8")
    with pytest.raises(DataError, match=r"got other files only: a\.md, b\.md"):
        plan(str(tmp_path / "notes"))
    write_table(tmp_path / "empty/c.parquet", [])
    with pytest.raises(DataError, match="got empty tables"):
        plan(str(tmp_path / "empty"))


def test_a_name_that_is_no_text_has_a_path_that_is(tmp_path):
    piece = Piece(0, 0, 1, ("b\udcff.png",))
    assert Stored(str(tmp_path)).place(piece) == f"{tmp_path}/b\\udcff.png"


def test_files_are_images_by_their_name_or_else_their_content(tmp_path, caplog):
    jpeg = b"\xff\xd8\xff\xe0" + bytes(20)
    for name in ("1.png", "2.jfif", "3", "deep/4.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg)
    for name in ("notes.txt", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"words")
    (tmp_path / "5.png").symlink_to(tmp_path / "gone.png")
    expected = [str(tmp_path / name) for name in ("1.png", "2.jfif", "3", "5.png", "deep/4.heic")]
    for source in (str(tmp_path), f"{tmp_path}/**/*"):
        stored, pieces, _ = plan(source)
        rows = read_all(stored, pieces)
        assert [name for name, _ in rows] == expected
        assert [name for name, row in rows if isinstance(row, ImageError)] == [expected[3]]
    assert "left out what is no image: _SUCCESS" in caplog.text


LAYOUTS = {
    "mvtec": (
        ["test/good/0.png", "test/hole/0.png", "test/hole/1.png"],
        ["train/good/0.png", "ground_truth/hole/0_mask.png", "test/masks/0.png"],
    ),
    "two folders": (["NG/1.png", "OK/1.png", "3.png"], ["mask/1.png"]),
    "plain": (["a/1.png", "masks/1.png", "3.png"], []),
    "no masks": (["test/good/0.png", "train/good/0.png"], []),
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_folder_those_are_inspected_that_predict_inspects(layout, elsewhere, tmp_path, caplog):
    expected, others = LAYOUTS[layout]
    memory = fsspec.filesystem("memory")
    source = "memory://layouts/in" if elsewhere else str(tmp_path / "in")
    for name in [*expected, *others]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
        memory.pipe(f"/layouts/in/{name}", b"x")
    try:
        _, pieces, _ = plan(source)
        _, globbed, _ = plan(f"{source}/**/*.png")
    finally:
        memory.rm("/layouts", recursive=True)
    assert sorted(name for piece in pieces for name in piece.names) == sorted(expected)
    assert sum(map(len, globbed)) == len(expected) + len(others)  # as they were asked for
    predicted = [path.relative_to(tmp_path / "in") for path in source_images(tmp_path / "in")]
    assert sorted(path.as_posix() for path in predicted) == sorted(expected)
    assert ("left out masks and what is not for testing" in caplog.text) == bool(others)


def test_of_a_folder_with_masks_alone_nothing_is_inspected(tmp_path):
    for name in ("test/masks/0.png", "masks/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="got masks alone"):
        plan(str(tmp_path))
