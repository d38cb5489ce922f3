import timm
import torch
from torch import nn

from destseg.model.chance import OwnChance


def draw():
    """All ways in which networks get their first weights."""
    network = timm.create_model("test_efficientnet")
    weight = nn.init.trunc_normal_(torch.empty(4, 5))
    return [
        *network.state_dict().values(),
        weight,
        torch.randn(3),
        torch.rand(2),
        torch.randperm(9),
    ]


def test_the_numbers_are_those_of_the_seed_and_the_process_keeps_its_own():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = draw()
    before = torch.get_rng_state()
    with OwnChance(7):
        drawn = draw()
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)


def test_what_has_no_memory_draws_nothing():
    with OwnChance(), torch.device("meta"):
        assert nn.Linear(3, 4).weight.is_meta
        assert torch.randn(3).is_meta
