import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from destseg.config import Settings
from destseg.errors import DataError, MissingExtraError
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.monitoring.recorded import ImageScore, is_results, read_results
from destseg.watching.journal import open_journal

SCORES = (0.05, 0.15, None, 0.6)
NAMES = ("10.png", "2.png", os.fsdecode(b"\xff.png"), "b.png")


@pytest.fixture
def bundle() -> Bundle:
    settings = Settings.from_preset(image_size=64, max_false_alarm_rate=0.25)
    scores = [0.1, 0.2, 0.3]
    calibration = Calibration.fit(scores, scores, ["a", "b", "c"], settings, "f" * 64)
    return Bundle(Path("nowhere"), settings, "f" * 64, calibration, {})


def lines(bundle: Bundle) -> list[dict]:
    """What watch records: predict's line, and more."""
    said = []
    for number, (name, score) in enumerate(zip(NAMES, SCORES, strict=True)):
        line: dict = {"path": name}
        if score is None:
            line["error"] = "expected an image, got words"
        else:
            line |= {"score": score, "p_value": bundle.calibration.p_value(score)}
            line |= {"threshold": bundle.calibration.threshold, "is_defective": score > 0.3}
            line |= {"width": 8, "height": 8, "regions": []}
        line |= {"file": name, "size": 1, "mtime_ns": number, "inspected": "2026-01-02"}
        said.append({**line, "weights_sha256": bundle.weights_sha256, "moved_to": None})
    return said


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in records), encoding="utf-8")
    elif path.suffix == ".db":
        journal = open_journal(path)
        for line in records:
            journal.add(line)
        journal.close()
    else:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from destseg.batch_inspection.schema import SCHEMA, to_parquet

        path.mkdir()
        for part in range(2):
            rows = [
                {key: value for key, value in line.items() if key in SCHEMA.names}
                | {"path": line["path"].encode("utf-8", "backslashreplace").decode()}
                | {"partition": part, "weights_sha256": line["weights_sha256"]}
                for line in records[2 * part : 2 * part + 2]
            ]
            (path / f"part-00000{part}-0123abcd.parquet").write_bytes(to_parquet(rows))
    return path


KINDS = ("results.jsonl", "results.db", "results")


@pytest.mark.parametrize("name", KINDS)
def test_what_was_recorded_comes_back_in_its_order(name, bundle, tmp_path):
    source = write(tmp_path / name, lines(bundle))
    assert is_results(source)
    # Parquet holds no name that is not text.
    third = "\\udcff.png" if name == "results" else NAMES[2]
    assert list(read_results(source, bundle)) == [
        ImageScore("10.png", 0.05),
        ImageScore("2.png", 0.15),
        ImageScore(third, None, "expected an image, got words"),
        ImageScore("b.png", 0.6),
    ]


def test_a_database_is_read_while_a_watch_writes_to_it(bundle, tmp_path):
    journal = open_journal(tmp_path / "results.db")
    first, second, *_ = lines(bundle)
    journal.add(first)
    assert [each.path for each in read_results(tmp_path / "results.db", bundle)] == ["10.png"]
    journal.add(second)
    assert len(list(read_results(tmp_path / "results.db", bundle))) == 2
    journal.close()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "e" * 64}, {"threshold": 0.31}, {"p_value": 0.1}, {"score": 0.25}],
    ids=lambda change: next(iter(change)),
)
def test_results_of_another_model_or_threshold_are_refused(name, change, bundle, tmp_path):
    records = lines(bundle)
    records[1] |= change
    source = write(tmp_path / name, records)
    with pytest.raises(DataError, match=r"results.*(line|row) 2: expected .*, got"):
        list(read_results(source, bundle))


def test_parts_come_by_their_number(bundle, tmp_path):
    folder = write(tmp_path / "results", lines(bundle))
    first, second = (folder / f"part-{number}-0123abcd.parquet" for number in (999_999, 1_000_000))
    (folder / "part-000000-0123abcd.parquet").rename(first)
    (folder / "part-000001-0123abcd.parquet").rename(second)
    assert [each.path for each in read_results(folder, bundle)][::3] == ["10.png", "b.png"]
    assert [each.path for each in read_results(second, bundle)][1:] == ["b.png"]


def test_a_batch_that_is_not_finished_is_refused(bundle, tmp_path):
    folder = write(tmp_path / "results", lines(bundle))
    (folder / "_job.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="_SUCCESS"):
        list(read_results(folder, bundle))
    (folder / "_SUCCESS").write_text("{}", encoding="utf-8")
    assert len(list(read_results(folder, bundle))) == 4


def test_other_files_are_refused(bundle, tmp_path):
    for name in ("gone.jsonl", "gone.db", "words.jsonl", "words.db"):
        if name.startswith("words"):
            (tmp_path / name).write_text("words\n" * 300, encoding="utf-8")
        with pytest.raises(DataError, match=f"{name}.*: expected"):
            list(read_results(tmp_path / name, bundle))
    assert not (tmp_path / "gone.db").exists()
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE results (id INTEGER)")
    other.close()
    with pytest.raises(DataError, match="another database"):
        list(read_results(tmp_path / "other.db", bundle))


def test_other_parquet_is_refused(bundle, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.table({"image": [b"words"]}), tmp_path / "images.parquet")
    with pytest.raises(DataError, match="without the columns path, weights_sha256"):
        list(read_results(tmp_path / "images.parquet", bundle))
    (tmp_path / "words.parquet").write_bytes(b"words")
    with pytest.raises(DataError, match=r"words\.parquet: expected"):
        list(read_results(tmp_path / "words.parquet", bundle))


def test_parquet_alone_asks_for_pyarrow(bundle, tmp_path, monkeypatch):
    lines_file = write(tmp_path / "results.jsonl", lines(bundle))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(list(read_results(lines_file, bundle))) == 4
    with pytest.raises(MissingExtraError, match=r"extra 'parquet' with: pip install 'pyarrow>="):
        list(read_results(tmp_path / "results.parquet", bundle))


def test_folders_of_images_are_no_results(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert not is_results(tmp_path)
    assert not is_results(tmp_path / "a.png")
