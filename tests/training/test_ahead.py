import contextlib
import copy
import threading

import pytest
import torch

from destseg.config import TrainingSettings
from destseg.errors import DataError
from destseg.model.destseg import build_model
from destseg.synthesis.batches import Batch
from destseg.training.ahead import prepared
from destseg.training.phases import DenoisePhase, SegmentPhase, build_optimizer, freeze_all_but

CPU = torch.device("cpu")


class Drawn:
    """Batches of noise by step number, which remember who asked for them."""

    def __init__(self, vanished_at=None):
        self.threads = set()
        self.vanished_at = vanished_at

    def make(self, _phase, step):
        self.threads.add(threading.current_thread())
        if step == self.vanished_at:
            raise DataError("3.png: expected an image, got nothing there")
        generator = torch.Generator().manual_seed(step)
        noise = 255 * torch.rand(4, 3, 64, 64, generator=generator)
        masks = torch.zeros(4, 1, 64, 64)
        masks[:, :, 10:40, 20:50] = 1
        return Batch(noise.to(torch.uint8), noise * (1 - masks), masks, torch.arange(4) == 3)


@contextlib.contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
        assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)


def phase_of(tiny_settings, kind):
    torch.manual_seed(0)
    phase = kind(build_model(tiny_settings.model), TrainingSettings())
    freeze_all_but(phase)
    return phase


def learned(phase, steps=range(4), batches=None):
    optimizer = build_optimizer(phase, phase.settings)
    source = batches or Drawn()
    with prepared(phase, source, steps, CPU, contextlib.nullcontext) as stream:
        for inputs in stream:
            phase(*inputs).backward()
            optimizer.step()
            optimizer.zero_grad()
    return copy.deepcopy(phase.learns.state_dict())


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("kind", [DenoisePhase, SegmentPhase])
@pytest.mark.parametrize("steps", [range(0, 4), range(2, 5), range(3, 4), range(0), range(3, 3)])
def test_every_step_learns_from_its_own_batch(tiny_settings, kind, steps, number):
    phase = phase_of(tiny_settings, kind)
    source = Drawn()
    with threads(number), prepared(phase, source, steps, CPU, contextlib.nullcontext) as stream:
        losses = [phase(*inputs).item() for inputs in stream]
    expected = [phase(*phase.prepare(Drawn().make("", step))).item() for step in steps]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert threading.current_thread() not in source.threads


@pytest.mark.parametrize("kind", [DenoisePhase, SegmentPhase])
def test_two_threads_learn_what_one_does_to_the_last_bit(tiny_settings, kind):
    """Each has a half of the work to itself, so no sum is split between them."""
    with threads(1):
        one = learned(phase_of(tiny_settings, kind))
    with threads(2):
        two = learned(phase_of(tiny_settings, kind))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_threads_are_shared_out_and_given_back(tiny_settings, monkeypatch, number):
    phase = phase_of(tiny_settings, SegmentPhase)
    counted = []
    prepare = phase.prepare

    def counting(batch):
        counted.append((threading.current_thread(), torch.get_num_threads()))
        return prepare(batch)

    monkeypatch.setattr(phase, "prepare", counting)
    here = threading.current_thread()
    with threads(number), prepared(phase, Drawn(), range(3), CPU, contextlib.nullcontext) as stream:
        next(stream)
        ours = torch.get_num_threads()
        list(stream)
    if number == 1:
        assert (ours, set(counted)) == (1, {(here, 1)})
    else:
        assert {ours + theirs for _, theirs in counted} == {number}
        assert here not in {thread for thread, _ in counted}


@pytest.mark.parametrize("number", [1, 2])
def test_an_image_that_vanishes_ends_the_step_that_needs_it(tiny_settings, number):
    phase = phase_of(tiny_settings, DenoisePhase)
    with (
        threads(number),
        prepared(phase, Drawn(2), range(4), CPU, contextlib.nullcontext) as stream,
    ):
        next(stream)
        next(stream)
        with pytest.raises(DataError, match=r"3\.png.*nothing there"):
            next(stream)
