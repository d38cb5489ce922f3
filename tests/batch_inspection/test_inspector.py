"""What a worker says of a piece, against what ``predict`` says of its images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from destseg.batch_inspection.inspector import TRIES, Inspector, Work, hash_of, pack
from destseg.batch_inspection.stored import plan
from destseg.batch_inspection.values import BatchJob
from destseg.cli.main import main
from destseg.inference.backends import Runtime
from destseg.inference.bundle import load_bundle


@pytest.fixture
def images(tmp_path, write_image):
    folder = tmp_path / "in"
    for number in range(11):
        write_image(folder / f"{number}.png", 23 * number, (20 + number, 30))
    for number in (0, 4, 5, 10):
        (folder / f"{number}.png").write_bytes(b"words")
    return folder


def make(red_model, source, output, tries=lambda _: 1, **changes):
    bundle = load_bundle(red_model)
    files = pack(bundle, "torch")
    stored, pieces, size = plan(str(source), size=6)
    job = BatchJob(
        str(source), 11, len(pieces), size, "l", hash_of(files), "hash of weights", "torch"
    )
    work = Work(job, stored, str(output), Runtime("torch", threads=1), 3)
    return Inspector(replace(work, **changes), files, tries), job, pieces


def predicted(red_model, images, tmp_path):
    path = tmp_path / "predicted.jsonl"
    main(["predict", str(red_model), str(images), "--output", str(path), "--batch-size", "3"])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line.pop("path"): line for line in lines}


def test_results_are_those_of_predict(red_model, images, tmp_path, in_this_process):
    expected = predicted(red_model, images, tmp_path)
    gone = images / "7.png"
    inspector, job, pieces = make(red_model, images, tmp_path / "out")
    gone.unlink()
    answers = [inspector({"piece": piece.to_json()}) for piece in pieces]
    assert [answer["images"] for answer in answers] == [6, 5]
    assert [answer["failed"] for answer in answers] == [3, 2]
    found = [
        row for n in (0, 1) for row in pq.read_table(tmp_path / "out" / job.file(n)).to_pylist()
    ]
    assert [row["path"] for row in found] == list(expected)
    assert sum(answer["defective"] for answer in answers) == sum(
        bool(row["is_defective"]) for row in found
    )
    for row in found:
        said = {**expected[row["path"]], "weights_sha256": "hash of weights"}
        if row["path"] == str(gone):
            assert "nothing there" in row["error"]
            continue
        assert row.pop("partition") == int(Path(row.pop("path")).stem) // 6
        for name, value in row.items():
            assert said.get(name) == value, name


def test_parts_of_a_partition_are_not_written_but_answered(
    red_model, images, tmp_path, in_this_process
):
    inspector, job, pieces = make(red_model, images, tmp_path / "out")
    inspector({"piece": pieces[0].to_json()})
    whole = pq.read_table(tmp_path / "out" / job.file(0)).to_pylist()
    (tmp_path / "out" / job.file(0)).unlink()
    rows = []
    for part in pieces[0].split(4):
        answer = inspector({"piece": part.to_json()})
        assert (answer["partition"], answer["start"]) == (0, part.start)
        rows += json.loads(answer["rows"])
    assert [{k: v for k, v in row.items() if v is not None} for row in whole] == rows
    assert list((tmp_path / "out").iterdir()) == []


def test_a_piece_that_was_begun_too_often_is_lost(red_model, images, tmp_path, in_this_process):
    begun = []
    inspector, _, pieces = make(
        red_model, images, tmp_path / "out", lambda name: (begun.append(name), len(begun))[1]
    )
    lost = [inspector({"piece": pieces[0].to_json()})["lost"] for _ in range(TRIES + 2)]
    assert lost == [False] * TRIES + [True] * 2
    assert len(set(begun)) == 1


def test_what_goes_wrong_is_an_answer(red_model, images, tmp_path, in_this_process, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    inspector, _, pieces = make(red_model, images, tmp_path / "file")
    answer = inspector({"piece": pieces[0].to_json()})
    assert (answer["images"], answer["trace"]) == (0, "")
    assert "file" in answer["error"]
    inspector, _, pieces = make(red_model, images, tmp_path / "out", version="0.0.0")
    answer = inspector({"piece": pieces[0].to_json()})
    assert "expected destseg 0.0.0 on every machine" in answer["error"]
    inspector, _, pieces = make(red_model, images, tmp_path / "out")
    monkeypatch.delattr(np, "stack")  # what no code of ours expects
    answer = inspector({"piece": pieces[0].to_json()})
    assert "AttributeError" in answer["error"]
    assert "Traceback" in answer["trace"]


def test_the_hash_is_of_names_and_contents(red_model):
    files = pack(load_bundle(red_model), "torch")
    assert set(files) == {"manifest.json", "calibration.json", "weights.safetensors"}
    assert hash_of(files) == hash_of(dict(reversed(files.items())))
    assert hash_of({**files, "calibration.json": b"{}"}) != hash_of(files)
    assert hash_of({**files, "more": b""}) != hash_of(files)


def test_an_exported_form_is_packed_and_unpacked(quantisable_bundle, parts):
    from destseg.batch_inspection.inspector import unpack
    from destseg.inference.predictor import load

    files = pack(quantisable_bundle, "openvino")
    assert "weights.safetensors" not in files
    assert "exports/openvino/export.json" in files
    paths = sorted(parts.iterdir())
    got = unpack(files, Runtime("openvino", threads=1), 4).predict(list(paths))
    expected = load(quantisable_bundle.folder, backend="openvino").predict(list(paths))
    assert [each.score for each in got] == pytest.approx([each.score for each in expected])
