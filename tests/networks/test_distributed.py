"""Two processes train as one: the gradients of rebuilt activations pass through DDP and FSDP2 unchanged."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.networks.test_invertible_unet import small

STEPS = 3


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x, target = torch.randn(2, 2, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    return x, target, torch.tensor([3, 700])


def step(net, optimizer, x, target, t):
    optimizer.zero_grad()
    (net(x, t) - target).square().mean().backward()
    optimizer.step()


def train_alone():
    torch.manual_seed(0)
    net = small().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    for i in range(STEPS):
        step(net, optimizer, *batch(i))
    return {name: p.grad for name, p in net.named_parameters()}


def train_on_rank(rank, port, wrap, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    torch.manual_seed(0)
    net = bare = small().double()
    if wrap == "ddp":
        net = DistributedDataParallel(net)
    else:
        if wrap == "fsdp of operations":
            for operation in bare.core.operations:
                fully_shard(operation)
        fully_shard(bare)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    for i in range(STEPS):
        step(net, optimizer, *(part[rank : rank + 1] for part in batch(i)))
    gradients = {name: p.grad for name, p in bare.named_parameters()}
    if wrap != "ddp":
        gradients = {name: g.full_tensor() for name, g in gradients.items()}
    if rank == 0:
        torch.save(gradients, file)
    dist.destroy_process_group()


@pytest.mark.parametrize("wrap", ["ddp", "fsdp", "fsdp of operations"])
def test_two_processes_give_the_gradients_of_one(wrap, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_on_rank, (port, wrap, tmp_path / "gradients.pt"), nprocs=2)
    expected, found = train_alone(), torch.load(tmp_path / "gradients.pt", weights_only=True)
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-9 * total, name
