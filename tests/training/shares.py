"""What the processes of ``test_processes`` run: here, where a spawned one can import it."""

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

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
