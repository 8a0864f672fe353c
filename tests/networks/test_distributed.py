"""Two processes train as one: the gradients of rebuilt activations pass through DDP and FSDP2 unchanged."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.two_processes import ask_two
from tests.networks.test_invertible_unet import small

STEPS = 3
WRAPS = ("ddp", "fsdp", "fsdp of operations")
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}


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


def train_on_rank(rank):
    found = {}
    for wrap, dtype in product(WRAPS, BOUNDS):
        net = bare = network(dtype)
        if wrap == "ddp":
            net = DistributedDataParallel(net)
        if wrap == "fsdp of operations":
            for operation in bare.core.operations:
                fully_shard(operation)
        if wrap.startswith("fsdp"):
            fully_shard(bare)
        train(net, dtype, slice(rank, rank + 1))
        whole = {n: p.grad if wrap == "ddp" else p.grad.full_tensor() for n, p in bare.named_parameters()}
        found[f"{wrap}, {dtype}"] = whole
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ask_two(train_on_rank, tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_two_processes_give_the_gradients_of_one(wrap, dtype, found):
    alone = network(dtype)
    train(alone, dtype)
    expected = {name: p.grad for name, p in alone.named_parameters()}
    gradients = found[f"{wrap}, {dtype}"]
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    assert expected.keys() == gradients.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= BOUNDS[dtype] * total, name
