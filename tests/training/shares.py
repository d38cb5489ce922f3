"""What the processes of ``test_processes`` run: here, where a spawned one can import it."""

import os
import sys

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from destseg.cli.main import main
from destseg.training.processes import WholeBatchNorm

MEAN = 100
"""Of what is normalised, whose deviations are near 1: a mean of squares would lose them."""


def network():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 5, 3)
    # Not of the images: in the gradient of the first weights a mean of those would cancel.
    nn.init.constant_(first.bias, MEAN)
    return nn.Sequential(first, nn.BatchNorm2d(5, momentum=0.3), nn.Conv2d(5, 1, 1))


def batch():
    # Unequal halves: what statistics of a share would get wrong.
    images = torch.randn(6, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    return images * torch.linspace(0.1, 3, 6)[:, None, None, None]


def learn(module, images):
    module(images).sigmoid().mean().backward()
    gradients = {f"{name}/gradient": value.grad for name, value in module.named_parameters()}
    return {**module.state_dict(), **gradients}


def share_of_learning(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    shared = nn.parallel.DistributedDataParallel(network())
    with WholeBatchNorm():
        learned = learn(shared, batch()[3 * rank : 3 * rank + 3])
    safetensors.torch.save_file(learned, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def run_command(rank, port, said, fault, words):
    """Be one of two processes that run a command of ``destseg``, as a launcher begins them.

    ``port`` is that of the parent's store; what goes to standard error is written to ``said``.
    """
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    from training.faulty import break_it  # wants to know which process it is in

    break_it(fault)
    sys.exit(main(words))
