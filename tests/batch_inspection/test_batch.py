"""Batches on a local Ray: workers are real processes, their backend is one line."""

import gc
import json
import os
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import destseg
from batch_inspection.at_workers import DEADLY, PreparedInspector
from destseg.batch_inspection.schema import SCHEMA
from destseg.batch_inspection.values import BatchCounts
from destseg.cli.main import main
from destseg.errors import DataError

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.ray,
    # Files and processes that Ray leaves to the operating system.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # Its own use of its own settings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def local_ray():
    """Ray with room for two actors, whose processes run this checkout."""
    paths = os.pathsep.join([str(Path(destseg.__file__).parents[1]), str(TESTS)])
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()
    with warnings.catch_warnings():
        # Ray does not wait for its processes; here rather than in another test.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    if before is None:
        del os.environ["RAY_USAGE_STATS_ENABLED"]


@pytest.fixture
def batch(local_ray, red_model, capsys, monkeypatch):
    """Runs the command; returns the exit code and what it said beside the results."""
    monkeypatch.setattr("destseg.batch_inspection.run.Inspector", PreparedInspector)

    def run(source, output, *words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        command = ["batch", str(red_model), str(source), "--output", str(output)]
        code = main([*command, "--backend", "torch", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def last_line(text):
    """What the command said; Ray may have said something before."""
    return text.splitlines()[-1]


def results(output):
    return pq.read_table(output).to_pylist()


def test_an_interrupted_batch_goes_on_and_has_every_image_once(
    batch, red_model, tmp_path, write_image, in_this_process
):
    source, output = tmp_path / "in", tmp_path / "out"
    for number in range(90):
        write_image(source / f"{number}.png", 2 * number)
    (source / "7.png").write_bytes(b"words")
    (source / "50.png").write_bytes(b"")  # one of the 51 that would be above the threshold
    code, out, err = batch(source, output, "--actors", 2)
    assert code == 1
    assert "90 images in 6 partitions, backend torch" in err
    assert "2 of 90 images could not be read" in err
    assert last_line(out).startswith("90 images: 50 defective, 2 could not be read; 90 in ")
    found = results(output)
    names = [str(source / f"{number}.png") for number in range(90)]
    assert [row["path"] for row in found] == names
    assert found[50]["error"]
    assert "got a file that starts with b'words'" in found[7]["error"]
    assert sum(row["error"] is not None for row in found) == 2
    # Beside those, the results are what predict says.
    main(["predict", str(red_model), str(source), "--output", str(tmp_path / "lines")])
    for line, row in zip((tmp_path / "lines").read_text().splitlines(), found, strict=True):
        said = json.loads(line)
        if row["error"] is None:
            assert {name: row[name] for name in said if name != "path"} == {
                name: value for name, value in said.items() if name != "path"
            }

    # What a killed driver and a killed worker leave: some partitions (of 16, the last of 10
    # images), and half of one.
    files = sorted(output.glob("part-*"))
    for path in (files[0], files[2], output / "_SUCCESS"):
        path.unlink()
    files[5].write_bytes(files[5].read_bytes()[:-9])
    kept = {path: path.stat().st_mtime_ns for path in (files[1], files[3], files[4])}
    code, out, err = batch(source, output, "--allow-unreadable", "--actors", 1)
    assert code == 0
    assert "; finished: 3" in err
    assert last_line(out).startswith("90 images: 50 defective, 2 could not be read; 42 in ")
    assert results(output) == found
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sorted(output.glob("part-*")) == files
    assert json.loads((output / "_SUCCESS").read_text()) == vars(BatchCounts(90, 2, 50))

    # The image is mended, which is another listing, for its size is another.
    write_image(source / "7.png", 0)
    code, _, err = batch(source, output)
    assert code == 1
    assert "listing_sha256" in err
    assert results(output) == found


@pytest.mark.slow
def test_an_image_that_ends_its_process_is_found_and_the_others_are_done(
    batch, tmp_path, write_image
):
    source, output = tmp_path / "in", tmp_path / "out"
    for number in range(40):
        write_image(source / f"{number}.png", 2 * number)
    (source / "20.png").write_bytes(DEADLY)
    code, out, _ = batch(source, output)
    assert code == 1
    assert last_line(out).startswith("40 images: 1 defective, 1 could not be read; 40 in ")
    found = results(output)
    assert [row["path"] for row in found] == [str(source / f"{number}.png") for number in range(40)]
    assert [row["path"] for row in found if row["error"]] == [str(source / "20.png")]
    assert "whose process ended each of 3 times" in found[20]["error"]
    assert [row["score"] for row in found if not row["error"]] == pytest.approx(
        [2 * number / 255 for number in range(40) if number != 20]
    )


def test_parquet_in_and_nothing_to_do_the_second_time(batch, tmp_path, write_image):
    content = [write_image(tmp_path / "a.png", 10 * n).read_bytes() for n in range(20)]
    table = pa.table({"serial": [f"s{n}" for n in range(20)], "png": content})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=10)
    words = (tmp_path / "in.parquet", tmp_path / "out", "--path-column", "serial")
    code, out, _ = batch(*words, "--partition-size", 5, "--actors", 1)
    assert code == 0
    assert last_line(out).startswith("20 images: 12 defective, 0 could not be read; 20 in ")
    table = pq.read_table(tmp_path / "out")
    assert table.schema.remove_metadata() == SCHEMA
    assert table["path"].to_pylist() == [f"s{n}" for n in range(20)]
    assert table["partition"].to_pylist() == [0] * 10 + [1] * 10
    assert table["score"].to_pylist() == pytest.approx([10 * n / 255 for n in range(20)])
    assert set(table["error"].to_pylist()) == {None}
    code, out, _ = batch(*words, "--partition-size", 5)
    assert code == 0
    assert last_line(out).startswith("20 images: 12 defective, 0 could not be read; 0 in ")
    code, _, err = batch(*words)
    assert code == 1
    assert "partition_size 5, now 16" in err


def test_a_worker_that_cannot_work_stops_the_batch_with_its_reason(
    local_ray, red_model, tmp_path, write_image, monkeypatch
):
    from destseg.batch_inspection import run as module
    from destseg.batch_inspection.inspector import Work

    write_image(tmp_path / "in/0.png")

    def of_another_version(*words):
        return Work(*words, version="0.0.0")

    monkeypatch.setattr(module, "Work", of_another_version)
    options = module.Options(module.Runtime("torch"))
    with pytest.raises(DataError, match=r"cannot go on: expected destseg 0\.0\.0"):
        module.inspect_stored(str(red_model), str(tmp_path / "in"), str(tmp_path / "out"), options)
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.parametrize("place", ["in", "in/deep/out", "linked/out"])
def test_an_output_among_what_is_searched_is_refused(place, batch, tmp_path, write_image):
    write_image(tmp_path / "in/0.png")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    code, _, err = batch(tmp_path / "in", tmp_path / place)
    assert code == 2
    assert "--output: expected a folder that is not in " in err
    assert [path.name for path in (tmp_path / "in").rglob("*")] == ["0.png"]
