"""Several processes against one: same batch norm, same model, one that writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch.multiprocessing as mp

from destseg.config import Settings
from destseg.errors import SettingsError
from destseg.inference.predictor import load
from destseg.training.processes import WholeBatchNorm, require_equal_shares
from destseg.training.train import train
from training.shares import batch, learn, network, share_of_learning

WEIGHTS = "weights.safetensors"


# --- batch norm


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(tmp_path):
    expected = learn(network(), batch())
    mp.spawn(share_of_learning, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = safetensors.torch.load_file(tmp_path / f"{rank}.safetensors")
        assert len(found) == len(expected) == 15
        for name, value in expected.items():
            torch.testing.assert_close(found[f"module.{name}"], value, rtol=1e-4, atol=1e-6)


def test_batch_norm_of_one_process_is_pytorchs():
    with WholeBatchNorm():
        found = learn(network(), batch())
    expected = learn(network(), batch())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# --- training


def launch(launcher, data, output, settings, *flags, processes=2):
    """Run ``destseg train`` in several processes, as a user would."""
    file = output.parent / f"{output.name}.yaml"
    file.write_text(settings.to_yaml(), encoding="utf-8")
    words = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"],
        # What it does for GPUs; with --cpu it would want MPI. The settings say that it is the CPU.
        "accelerate": [
            *("accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--num_processes", str(processes), "--main_process_port", "0"),
        ],
    }[launcher]
    train_it = ["-m", "destseg", "train", str(data), "--output", str(output)]
    return subprocess.run(
        [sys.executable, "-m", *words, *train_it, "--settings", str(file), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def settings(tiny_settings, tiny_teacher_weights) -> Settings:
    # SGD: Adam divides by the gradient's size, and so makes rounding as large as a step.
    return tiny_settings.replace(
        teacher_weights=str(tiny_teacher_weights),
        optimizer="sgd",
        lr_student=0.05,
        lr_head_blocks=0.05,
        lr_head=0.05,
        batch_size=6,
    )


@pytest.fixture(scope="module")
def alone(parts, settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(parts, output=folder, settings=settings, quiet=True)
    return folder


def assert_same_model(one, other, parts):
    ours, theirs = (safetensors.numpy.load_file(each / WEIGHTS) for each in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    first, second = (load(each, backend="torch", device="cpu") for each in (one, other))
    assert first.calibration.pictures == second.calibration.pictures
    for path in sorted(parts.iterdir())[:4]:
        a, b = first.predict(path), second.predict(path)
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes"), [("torchrun", 2), ("accelerate", 2)])
def test_several_processes_give_the_model_of_one(
    launcher, processes, parts, settings, alone, tmp_path
):
    done = launch(launcher, parts, tmp_path / "run", settings, processes=processes)
    assert done.returncode == 0, done.stderr
    assert_same_model(alone, tmp_path / "run", parts)
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["training"]
    assert facts["processes"] == processes
    # One of them spoke and wrote.
    assert done.stderr.count("model saved in") == 1
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    steps = [(each["phase"], each["step"]) for each in steps if each["event"] == "step"]
    assert steps == [(phase, step) for phase in ("denoise", "segment") for step in (1, 2, 3)]
    expected = [json.loads(line) for line in (alone / "log.jsonl").read_text().splitlines()]
    losses = [
        [each["loss"] for each in found if each["event"] == "step"]
        for found in (expected, [json.loads(line) for line in lines])
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.slow
def test_a_run_is_resumed_by_another_number_of_processes(
    parts, settings, alone, tmp_path, monkeypatch
):
    from destseg.errors import TrainingInterrupted
    from destseg.training import loop

    class Stop(loop.Interruption):
        """Asks for the end of the run when phase 2 has begun."""

        asked = 0

        @property
        def signal(self):
            Stop.asked += 1
            return 15 if Stop.asked == 4 else None

        @signal.setter
        def signal(self, value):
            pass

    monkeypatch.setattr("destseg.training.train.Interruption", Stop)
    with pytest.raises(TrainingInterrupted, match="after step 1 of 3 of phase segment"):
        train(parts, output=tmp_path / "run", settings=settings, quiet=True)
    done = launch("torchrun", parts, tmp_path / "run", settings, "--resume", processes=3)
    assert done.returncode == 0, done.stderr
    assert_same_model(alone, tmp_path / "run", parts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 7}, "--batch-size: expected a multiple of the 2 processes, got 7"),
        ({"gradient_checkpointing": True}, "--gradient-checkpointing: expected one process"),
    ],
)
def test_what_several_cannot_do_is_refused(settings, monkeypatch, changes, reason):
    changed = settings.replace(**changes).training
    require_equal_shares(changed)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=reason):
        require_equal_shares(changed)
