"""A batch on disk: gone on with only if it is the same, and only what is whole is finished."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from destseg.batch_inspection.job import begin, complete, finished
from destseg.batch_inspection.partitions import plan_files
from destseg.batch_inspection.schema import SCHEMA, row, to_parquet
from destseg.batch_inspection.storage import Storage
from destseg.batch_inspection.values import BatchCounts, BatchJob
from destseg.errors import DataError, ImageError

PIECES = plan_files([(f"{number}.png", 1) for number in range(10)], 4)
JOB = BatchJob("/in", 10, 3, 4, "listing", "bundle", "model", "torch")


@pytest.fixture
def output(tmp_path):
    return Storage(str(tmp_path / "out"))


def write_results(output, job=JOB, partitions=(0, 1, 2), failed=0):
    for partition in partitions:
        rows = [
            row(name, partition, ImageError(name, "x" * (index < failed)), "model")
            for index, name in enumerate(PIECES[partition].names)
        ]
        for each in rows[failed:]:
            del each["error"]
        output.write(job.file(partition), to_parquet(rows))


def test_the_same_batch_is_gone_on_with(output):
    begin(output, JOB)
    before = output.read("_job.json")
    begin(output, JOB)
    assert output.read("_job.json") == before
    assert json.loads(before)["listing_sha256"] == "listing"


@pytest.mark.parametrize(
    "name", [field for field in JOB.__dataclass_fields__ if field != "weights_sha256"]
)
def test_another_batch_is_refused_with_what_differs(name, output):
    begin(output, JOB)
    other = replace(JOB, **{name: 99 if isinstance(getattr(JOB, name), int) else "other"})
    with pytest.raises(DataError, match=rf"got another one: {name} .*--overwrite"):
        begin(output, other)


def test_overwriting_deletes_results_and_nothing_else(output):
    begin(output, JOB)
    write_results(output)
    output.write("notes.txt", b"mine")
    output.write("part-mine.parquet", b"mine")
    complete(output, JOB, BatchCounts(10))
    begin(output, replace(JOB, weights_sha256="other"), overwrite=True)
    assert sorted(output.names()) == ["_job.json", "notes.txt", "part-mine.parquet"]
    assert json.loads(output.read("_job.json"))["weights_sha256"] == "other"


def test_results_without_a_record_are_not_touched(output):
    write_results(output)
    with pytest.raises(DataError, match=r"got results without _job\.json"):
        begin(output, JOB)


@pytest.mark.parametrize("content", [b"", b"words", b"[1]"])
def test_a_broken_record_is_refused(content, output):
    output.write("_job.json", content)
    with pytest.raises(DataError, match="--overwrite to begin anew"):
        begin(output, JOB)
    begin(output, JOB, overwrite=True)


def test_an_output_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="expected a folder to write to"):
        begin(Storage(str(tmp_path / "file")), JOB)


def test_only_whole_results_of_this_batch_are_finished(output):
    begin(output, JOB)
    assert finished(output, JOB, PIECES) == {}
    write_results(output, replace(JOB, weights_sha256="other"))
    assert finished(output, JOB, PIECES) == {}
    write_results(output, failed=1)
    counts = {0: BatchCounts(4, 1), 1: BatchCounts(4, 1), 2: BatchCounts(2, 1)}
    assert finished(output, JOB, PIECES) == counts
    half = output.read(JOB.file(0))
    output.write(JOB.file(0), half[: len(half) // 2])
    output.write(JOB.file(1), output.read(JOB.file(2)))  # whole, but of two images
    assert finished(output, JOB, PIECES) == {2: BatchCounts(2, 1)}
    assert finished(output, JOB, PIECES, retry_failed=True) == {}


def test_a_batch_is_complete_when_every_partition_is_there(output):
    begin(output, JOB)
    write_results(output, partitions=(0, 2))
    with pytest.raises(DataError, match=r"results of all 3 partitions, part-000001-\w+\.parquet"):
        complete(output, JOB, BatchCounts(10))
    assert "_SUCCESS" not in output.names()
    write_results(output, partitions=(1,))
    write_results(output, replace(JOB, weights_sha256="other"))  # a straggler
    complete(output, JOB, BatchCounts(10))
    assert sorted(output.names()) == ["_SUCCESS", "_job.json", *map(JOB.file, range(3))]


def test_readers_of_a_folder_see_the_results_alone(output, monkeypatch):
    begin(output, JOB)
    write_results(output, failed=1)
    complete(output, JOB, BatchCounts(10))
    table = pq.read_table(output.root)
    assert table.schema.remove_metadata() == SCHEMA
    assert table["path"].to_pylist() == [f"{number}.png" for number in range(10)]
    # As the page says, with a folder named results.
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    Path(output.root).rename(Path(output.root).with_name("results"))
    monkeypatch.chdir(Path(output.root).parent)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["defective"]) == 0
    assert names["unread"].to_pylist() == [{"path": f"{n}.png", "error": "x"} for n in (0, 4, 8)]
