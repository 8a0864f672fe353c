"""Processes with unequal free memory train with the same policies, as sharded weights require."""

from __future__ import annotations

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from monai_idm.distributed import all_gather_objects, full_tensor, sharded
from monai_idm.networks import plan
from tests.distributed.two_processes import ask_two
from tests.networks.test_invertible_unet import SHALLOW, small

WRAPS = {"ddp": DistributedDataParallel, "sharded": sharded}
FREE = {"enough in one": (2**40, 0), "enough in both": (2**40, 2**41), "unknown in one": (None, 2**40)}


def step(network, activations=None):
    torch.manual_seed(0)
    bare = small(**SHALLOW, activations=activations or "auto")
    x, t = torch.randn(2, 2, 4, 4, 4), torch.tensor([3, 700])
    network(bare)(x, t).square().mean().backward()
    return bare, {name: full_tensor(p.grad) for name, p in bare.named_parameters()}


def plans(rank):
    found = {}
    for name, wrap in WRAPS.items():
        for case, free in FREE.items():
            plan.free_memory_bytes = lambda device, bytes_=free[rank]: bytes_
            bare, gradients = step(wrap)
            found[f"{name}, {case}"] = all_gather_objects(bare.choices()["activations"]), gradients
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ask_two(plans, tmp_path_factory.mktemp("plans"))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("case", FREE)
def test_the_process_with_least_memory_decides_for_all(wrap, case, found):
    policy = "stored" if case == "enough in both" else "rebuilt"
    by_rank, gradients = found[f"{wrap}, {case}"]
    assert by_rank == [{(2, 4, 4, 4): (policy,) * 2}] * 2
    for name, gradient in step(lambda net: net, policy)[1].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6)
