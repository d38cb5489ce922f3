"""What the processes of ``test_processes`` run: here, where a spawned one can import it."""

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from destseg.training.processes import WholeBatchNorm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.Conv2d(5, 1, 1))


def batch():
    # A large mean and unequal halves: what statistics of a share, or squares, would get wrong.
    pictures = torch.randn(6, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    return 100 + pictures * torch.linspace(0.1, 3, 6)[:, None, None, None]


def learn(module, pictures):
    module(pictures).sigmoid().mean().backward()
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
