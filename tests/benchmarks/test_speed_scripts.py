"""The benchmarks of memory, start-up and roofline, run whole on a small model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from destseg.inference.bundle import load_bundle

pytest.importorskip("onnxruntime")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows_of(script, results, *arguments):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *map(str, arguments), "--results", results],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(results.read_text())


@pytest.fixture(scope="module")
def bundle(quantisable_bundle, tmp_path_factory):
    """A model with random weights that was exported to ONNX alone: fewer forms are timed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    others = shutil.ignore_patterns("openvino")
    shutil.copytree(quantisable_bundle.folder, folder, ignore=others)
    return load_bundle(folder)


@pytest.mark.slow
def test_the_roofline_counts_the_operations_of_the_network(bundle, tmp_path):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from destseg.model.destseg import build_model

    found = rows_of("roofline.py", tmp_path / "r.json", bundle.folder, "--rounds", 5)
    by_part = {row["part"]: row for row in found["rows"]}
    side = bundle.settings.data.image_size
    model = build_model(bundle.settings.model).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    counts = counter.get_flop_counts()
    for part in ("teacher", "student", "head"):
        convolutions = sum(counts[f"DeSTSeg.{part}"].values()) / 1e9
        # What is not a convolution, activations and sums, is counted too; torch counts none of it.
        assert convolutions <= by_part[part]["gop"] + 5e-4
        assert by_part[part]["gop"] <= 1.3 * convolutions + 1e-3
        assert by_part[part]["measured_ms"] > 0
    assert found["peaks"]["fp32_gflop_s"] > by_part["all"]["gop_s"]


@pytest.mark.slow
def test_start_up_is_timed_for_every_form_in_the_bundle(bundle, tmp_path):
    image = tmp_path / "part.png"
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(image)
    words = (bundle.folder, image, "--rounds", 1, "--no-warm-up")
    found = rows_of("startup.py", tmp_path / "r.json", *words)
    rows = {row["command"]: row for row in found["rows"]}
    assert list(rows) == [
        "python",
        "destseg --help",
        "destseg predict, torch",
        "destseg predict, onnx",
    ]
    for row in rows.values():
        assert 0 < row["first_output_s"] <= row["whole_s"]
    assert rows["python"]["whole_s"] < rows["destseg predict, onnx"]["first_output_s"]


@pytest.mark.slow
def test_memory_of_training_is_that_of_the_whole_process(
    parts, tiny_settings, tiny_teacher_weights, tmp_path
):
    settings = tmp_path / "settings.yaml"
    settings.write_text(tiny_settings.to_yaml())
    common = f"--settings {settings} --teacher-weights {tiny_teacher_weights}"
    cases = ["--case", "small=", "--case", "large=--image-size 256 --batch-size 8"]
    small, large = rows_of(
        "train_memory.py",
        tmp_path / "r.json",
        parts,
        *("--common", common, *cases, "--rounds", 1, "--steps", 3),
    )["rows"]
    assert small["denoise_ratio"] == small["segment_ratio"] == 1
    # With one round a ratio is that of the times beside it; both are rounded, and how they come
    # out is the machine's luck in three steps.
    times = [row["segment_seconds_an_image"] for row in (small, large)]
    assert min(times) > 0
    assert large["segment_ratio"] == pytest.approx(times[1] / times[0], rel=0.1, abs=0.01)
    assert 0.2 < small["peak_gib"] < large["peak_gib"]
