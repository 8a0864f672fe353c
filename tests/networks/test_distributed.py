"""Two processes train as one: the gradients of rebuilt activations pass through DDP and FSDP2 unchanged."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.networks.test_invertible_unet import small
from tests.two_processes import meet, run_two

STEPS = 3


def batch(step, dtype):
    generator = torch.Generator().manual_seed(step)
    x, target = torch.randn(2, 2, 2, 4, 4, 4, generator=generator, dtype=dtype)
    return x, target, torch.tensor([3, 700])


def train(net, dtype, part=slice(None)):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    for step in range(STEPS):
        x, target, t = (tensor[part] for tensor in batch(step, dtype))
        optimizer.zero_grad()
        (net(x, t) - target).square().mean().backward()
        optimizer.step()


def network(dtype):
    torch.manual_seed(0)
    return small().to(dtype)


def train_on_rank(rank, folder, wrap, dtype):
    meet(folder, rank)
    net = bare = network(dtype)
    if wrap == "ddp":
        net = DistributedDataParallel(net)
    if wrap == "fsdp of operations":
        for operation in bare.core.operations:
            fully_shard(operation)
    if wrap.startswith("fsdp"):
        fully_shard(bare)
    train(net, dtype, slice(rank, rank + 1))
    gradients = {n: p.grad if wrap == "ddp" else p.grad.full_tensor() for n, p in bare.named_parameters()}
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")


@pytest.mark.parametrize("wrap", ["ddp", "fsdp", "fsdp of operations"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_two_processes_give_the_gradients_of_one(wrap, dtype, bound, tmp_path):
    run_two(train_on_rank, tmp_path, wrap, dtype)
    alone = network(dtype)
    train(alone, dtype)
    expected = {name: p.grad for name, p in alone.named_parameters()}
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= bound * total, name
