"""Several processes against one: same batch norm, same model, one that writes.

One test begins the processes with ``accelerate`` and one with ``torchrun``, as users do.  Those of
the others are forked from a server that has imported PyTorch once, which takes 6 s in each process.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from destseg.config import Settings
from destseg.errors import SettingsError
from destseg.inference.predictor import load
from destseg.interruption import Interruption
from destseg.model.destseg import build_model
from destseg.training.processes import (
    WholeBatchNorm,
    require_equal_shares,
    share_of,
    synchronized_norms,
)
from destseg.training.train import train
from training.shares import MEAN, batch, learn, network, run_command, share_of_learning

WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    multiprocessing.set_forkserver_preload(["destseg.training.train"])


# --- batch norm


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(tmp_path):
    exact = learn(network().double(), batch().double())
    mp.start_processes(share_of_learning, (str(tmp_path),), nprocs=2, start_method="forkserver")
    gradients = max(float(exact[name].abs().max()) for name in exact if name.endswith("/gradient"))
    # A value near the mean is rounded by half of this, and so is its deviation, of about 1.
    rounding = MEAN * torch.finfo(torch.float32).eps
    for rank in range(2):
        found = safetensors.torch.load_file(tmp_path / f"{rank}.safetensors")
        assert len(found) == len(exact) == 15
        for name, value in exact.items():
            # Some gradients cancel to 0, so all are measured by the largest of them.
            size = gradients if name.endswith("/gradient") else float(value.abs().max())
            error = (found[f"module.{name}"] - value).abs().max()
            assert error <= 4 * rounding * size, name


def test_batch_norm_of_one_process_is_pytorchs():
    with WholeBatchNorm():
        found = learn(network(), batch())
    expected = learn(network(), batch())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("student", ["shared", "resnet18", "tf_efficientnet_lite0"])
def test_norms_for_several_gpus_are_the_same_weights_under_the_same_names(student):
    torch.manual_seed(0)
    settings = Settings().replace(student=student).model
    network = build_model(settings, image_size=(64, 64)).student
    norms = {n: type(m) for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with synchronized_norms(network):
        inside = {n for n, m in network.named_modules() if isinstance(m, nn.SyncBatchNorm)}
        assert inside == set(norms)
        assert list(network.state_dict()) == list(before)
        for value in network.state_dict().values():
            value.add_(1)  # in place, as learning does it
        network.eval()
    assert {n: type(m) for n, m in network.named_modules() if n in norms} == norms
    assert not any(part.training for part in network.modules())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value + 1) for name, value in before.items())


def test_norms_are_back_after_an_error():
    alone = network().eval()
    expected = alone(batch())

    def fail():
        with synchronized_norms(alone):
            assert type(alone[1]) is nn.SyncBatchNorm
            assert torch.equal(alone(batch()), expected)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert type(alone[1]) is nn.BatchNorm2d
    assert torch.equal(alone(batch()), expected)


# --- training


def command(data, output, settings, *flags):
    """Return the words of ``destseg train``."""
    file = output.parent / f"{output.name}.yaml"
    file.write_text(settings.to_yaml(), encoding="utf-8")
    return ["train", str(data), "--output", str(output), "--settings", str(file), *flags]


def in_two_processes(words, folder, fault="none"):
    """Run a command in two processes; return how each ended and the lines that both said.

    When one has ended the other is told to, as by ``torchrun``.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    files = [folder / f"said-{rank}" for rank in range(2)]
    context = multiprocessing.get_context("forkserver")
    members = [
        context.Process(target=run_command, args=(rank, store.port, str(file), fault, words))
        for rank, file in enumerate(files)
    ]
    for each in members:
        each.start()
    try:
        multiprocessing.connection.wait([each.sentinel for each in members], timeout=300)
        if any(each.exitcode for each in members):
            for each in members:
                each.terminate()
        for each in members:
            each.join(60)
        codes = [each.exitcode for each in members]
    finally:
        for each in members:
            each.kill()
    return codes, "".join(file.read_text(encoding="utf-8") for file in files).splitlines()


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
    assert first.calibration.paths == second.calibration.paths
    for path in sorted(parts.iterdir())[:4]:
        a, b = first.predict(path), second.predict(path)
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, atol=1e-4)


@pytest.mark.slow
def test_several_processes_give_the_model_of_one(parts, settings, alone, tmp_path):
    # What it does for GPUs; with --cpu it would want MPI. The settings say that it is the CPU.
    launcher = "accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no"
    launcher += " --dynamo_backend no --num_processes 2 --main_process_port 0 -m destseg"
    done = subprocess.run(
        [
            *(sys.executable, "-m", *launcher.split()),
            *command(parts, tmp_path / "run", settings),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert_same_model(alone, tmp_path / "run", parts)
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["training"]
    assert facts["processes"] == 2
    # One of them spoke and wrote.
    assert done.stderr.count("model saved in") == 1
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    steps = [(each["phase"], each["step"]) for each in steps if each["event"] == "step"]
    phases = ("denoise", "segment")
    assert steps == [(phase, step) for phase in phases for step in (1, 2, 3)]
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

    class Stop(Interruption):
        """Asks for the end of the run when phase 2 has begun."""

        asked = 0

        @property
        def signal(self):
            Stop.asked += 1
            return 15 if Stop.asked == 5 else None  # after three steps and the end of phase 1

        @signal.setter
        def signal(self, value):
            pass

    monkeypatch.setattr("destseg.training.learn.Interruption", Stop)
    with pytest.raises(TrainingInterrupted, match="after step 1 of 3 of phase segment"):
        train(parts, output=tmp_path / "run", settings=settings, quiet=True)
    words = command(parts, tmp_path / "run", settings, "--resume")
    codes, said = in_two_processes(words, tmp_path)
    assert codes == [0, 0], said
    assert_same_model(alone, tmp_path / "run", parts)


# --- faults


@pytest.mark.slow
def test_a_fault_in_one_ends_all_and_leaves_the_run_that_was_to_be_replaced(
    parts, settings, alone, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    words = command(parts, folder, settings, "--overwrite")
    codes, said = in_two_processes(words, tmp_path, fault="image")
    assert codes[1] == 1
    assert codes[0] != 0
    assert "destseg (process 1): error: bad.png: expected an image, got words" in said
    assert not [line for line in said if "Traceback" in line]
    assert (folder / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    assert load(folder, backend="torch", device="cpu").calibration is not None


@pytest.mark.slow
def test_a_full_disk_ends_all_and_the_others_say_that_one_has_ended(parts, settings, tmp_path):
    words = command(parts, tmp_path / "run", settings)
    codes, said = in_two_processes(words, tmp_path, fault="state")
    assert codes == [1, 1]
    first, second = sorted(line for line in said if line.startswith("destseg"))
    assert "process 0" in first
    assert "No space left on device" in first
    assert "(process 1): error: another of the 2 processes has ended" in second


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_a_state_that_goes_on(parts, settings, alone, tmp_path):
    folder = tmp_path / "run"
    words = [
        *("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *(str(Path(__file__).with_name("faulty.py")), "slow"),
        *command(parts, folder, settings.replace(log_every=1000)),
    ]
    # A file, not a pipe: nobody reads a pipe while the signal is waited for.
    with (tmp_path / "said").open("w", encoding="utf-8") as said:
        process = subprocess.Popen([sys.executable, *words], stderr=said, stdout=said)
        deadline, log = time.monotonic() + 120, folder / "log.jsonl"
        while not log.is_file() or '"segment"' not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    lines = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    told = sorted(line for line in lines if line.startswith("destseg"))
    for rank, line in enumerate(told):
        assert line.startswith(f"destseg (process {rank}): stopped by SIGTERM after step ")
        assert "of 3 of phase segment; the state is saved" in line
    assert len(told) == 2
    train(parts, output=folder, resume=True, quiet=True)
    assert_same_model(alone, folder, parts)


def test_a_rank_without_others_is_no_part_of_a_batch(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert share_of(4) == slice(0, 4)


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
