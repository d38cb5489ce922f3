import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from destseg.errors import DataError, TrainingError
from destseg.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def checkpoint(step=7):
    torch.manual_seed(step)
    return Checkpoint(
        phase="segment",
        step=step,
        settings={"preset": "fast", "data": {"image_size": 64}},
        images=["good/1.png", "good/ü.png"],
        teacher="file weights.pth",
        model={
            "head.weight": torch.randn(3, 2).t(),  # not contiguous
            "head.half": torch.randn(4).bfloat16(),
            "head.number": torch.tensor(5),
        },
        optimizer={"0/step": torch.tensor(7.0), "0/exp_avg": torch.randn(2)},
        scaler={"scale": 65536.0, "growth_factor": 2.0},
        seconds=12.25,
        data_sha256="c0ffee",
        textures_sha256="7ea",
    )


def assert_same(one, other):
    plain = ("phase", "step", "settings", "images", "scaler", "seconds")
    for name in (*plain, "data_sha256", "textures_sha256"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("model", "optimizer"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value.dtype == theirs[key].dtype
            assert torch.equal(value, theirs[key])


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "deep" / "state.safetensors"
    save_checkpoint(path, checkpoint())
    assert_same(load_checkpoint(path), checkpoint())
    save_checkpoint(path, checkpoint(8))
    assert_same(load_checkpoint(path), checkpoint(8))
    assert [p.name for p in path.parent.iterdir()] == ["state.safetensors"]


def test_the_file_is_safetensors_and_nothing_else(tmp_path):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, checkpoint())
    content = path.read_bytes()
    # By the format's own description: a length, a JSON header, the tensors' bytes.
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    assert 8 + length + max(ends) == len(content)
    assert json.loads(header["__metadata__"]["destseg"])["step"] == 7
    assert len(safetensors.torch.load(content)) == 5


@pytest.mark.parametrize("failing", ["replace", "open"])
def test_a_failed_write_leaves_the_earlier_state(tmp_path, monkeypatch, failing):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, failing, fail)
        with pytest.raises(DataError, match=r"state\.safetensors: .*disk full"):
            save_checkpoint(path, checkpoint(8))
    assert path.read_bytes() == before
    assert_same(load_checkpoint(path), checkpoint())
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_old_state_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, checkpoint())
    replace, seen = Path.replace, []

    def watched(self, target):
        assert_same(load_checkpoint(path), checkpoint())
        assert_same(load_checkpoint(self), checkpoint(8))
        seen.append(self)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    save_checkpoint(path, checkpoint(8))
    assert len(seen) == 1


def test_nothing_to_resume(tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume: expected a saved state at"):
        load_checkpoint(tmp_path / "state.safetensors")


def damaged(content):
    yield b""
    yield b"no state"
    yield content[:-1]
    yield content[: len(content) // 2]
    yield content + b"x"
    yield safetensors.torch.save({"a": torch.zeros(1)})
    yield safetensors.torch.save({"a": torch.zeros(1)}, {"destseg": "{"})


def test_damaged_states_are_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, checkpoint())
    for number, content in enumerate(damaged(path.read_bytes())):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"damaged file.*--overwrite") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value), number


@pytest.mark.parametrize("meta", ["[]", "{}", "null", '"text"'])
def test_states_without_their_facts_are_refused(tmp_path, meta):
    path = tmp_path / "state.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {"destseg": meta}))
    with pytest.raises(TrainingError, match="damaged file"):
        load_checkpoint(path)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    meta = json.dumps({"format": 2})
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {"destseg": meta}))
    with pytest.raises(TrainingError, match="expected format 1, got 2"):
        load_checkpoint(path)


OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_restored_optimiser_goes_on_as_the_first_would_have(kind):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def optimizer_of(module):
        first, second = list(module[0].parameters()), list(module[2].parameters())
        return OPTIMIZERS[kind]([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.02}])

    def steps(module, optimizer, numbers):
        for number in numbers:
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
            module(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole = network()
    steps(whole, optimizer_of(whole), range(6))

    part = network()
    optimizer = optimizer_of(part)
    steps(part, optimizer, range(3))
    tensors = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    assert tensors
    resumed = network()
    resumed.load_state_dict(part.state_dict())
    optimizer = optimizer_of(resumed)
    restore_optimizer(optimizer, tensors)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]
    steps(resumed, optimizer, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_an_optimiser_without_steps_has_nothing_to_save():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    assert optimizer_tensors(optimizer) == {}
    restore_optimizer(optimizer, {})
    assert optimizer.state_dict()["state"] == {}
