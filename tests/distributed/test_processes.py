"""Two processes train one network: gradients of rebuilt activations pass through DDP and FSDP2 unchanged."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from monai_idm.distributed import full_tensor, initialize_processes, replicated, require_equal_settings, sharded
from tests.distributed.two_processes import ask_two
from tests.networks.test_invertible_unet import SHALLOW, small

STEPS = 3
WRAPS = {
    "ddp": DistributedDataParallel,
    "replicated": lambda net: replicated(net, torch.optim.SGD(net.parameters())),
    "fsdp": fully_shard,
    "sharded": sharded,
}
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
    return small(**SHALLOW).to(dtype)


def agree_and_train(rank):
    require_equal_settings({"batch_size": 2, "preset": "light"})
    with pytest.raises(ValueError, match="process 1 has batch_size=3, process 0 has 2; start all with the same"):
        require_equal_settings({"batch_size": 2 + rank})
    found = {}
    for wrap, dtype in product(WRAPS, BOUNDS):
        bare = network(dtype)
        train(WRAPS[wrap](bare), dtype, slice(rank, rank + 1))
        found[f"{wrap}, {dtype}"] = {name: full_tensor(p.grad) for name, p in bare.named_parameters()}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The gradients of the two processes, by wrapper and type; ``agree_and_train`` also checks their settings."""
    return ask_two(agree_and_train, tmp_path_factory.mktemp("processes"))


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


def test_without_torchrun_its_config_says_so(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="none were started; run it as torchrun"):
        initialize_processes()
