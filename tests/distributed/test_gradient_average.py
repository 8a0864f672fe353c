"""Two processes step one network: replicated weights, whose gradients the optimizer averages, and FSDP2's shards."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from monai_idm.distributed import full_tensor, sharded
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, weight_norm_groups
from tests.distributed.two_processes import meet, run_two
from tests.networks.test_invertible_unet import SHALLOW, small

RATE, STEPS = 1e-3, 3
EXACT = ["replicated", "replicated, clipped", "replicated, offloaded", "fsdp", "sharded"]
ROUNDED = ["replicated, bfloat16", "fsdp, bfloat16"]
if importlib.util.find_spec("bitsandbytes"):
    ROUNDED += ["replicated, 8bit", "fsdp, 8bit"]


def network(case):
    torch.manual_seed(0)
    if case in EXACT:
        return small(2, **SHALLOW).double()
    net = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))
    return net.bfloat16() if "bfloat16" in case else net  # FSDP2 leaves the last bias on one process only


def inputs(case, step):
    generator = torch.Generator().manual_seed(step)
    if case in EXACT:
        return torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64), torch.tensor([3, 700])
    x = torch.randn(2, 32, generator=generator)
    return (x.bfloat16() if "bfloat16" in case else x,)


def train(net, optimizer, case, part=slice(None)):
    for step in range(STEPS):
        optimizer.zero_grad()
        y = net(*(x[part] for x in inputs(case, step)))
        with optimizer.hold() if hasattr(optimizer, "hold") and "clipped" in case else torch.enable_grad():
            y.square().mean().backward()
        if "clipped" in case:
            clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()


def run(case, part):
    net = network(case)
    torch.manual_seed(part.start)  # the processes draw different noise
    if part.start and "replicated" in case:
        nn.init.zeros_(next(net.parameters()))  # to be replaced by the weights of process 0
    if case == "sharded":
        sharded(net)
        with pytest.raises(ValueError, match="sharded weights cannot be offloaded"):
            AdamWInBackward(net.parameters(), offload=net.deep_couplings(1))
    elif "fsdp" in case:
        fully_shard(net)
    settings = {"lambda_l2": 0.1, "states": "8bit" if "8bit" in case else "float32"}
    if "offloaded" in case:
        settings["offload"] = net.deep_couplings(2)
    train(net, AdamWInBackward(weight_norm_groups(net), RATE, **settings), case, part)
    return [full_tensor(p.detach()) for p in net.parameters()]


def ddp(as_views):
    net = network("bare")
    wrapped = DistributedDataParallel(net, gradient_as_bucket_view=as_views)
    with pytest.raises(RuntimeError, match="pass the bare network"):
        train(wrapped, AdamWInBackward(net.parameters()), "bare")


def work(rank, folder):
    net = network("bare")
    too_early = AdamWInBackward(net.parameters())
    meet(folder, rank)
    with pytest.raises(RuntimeError, match="initialise torch"):
        train(net, too_early, "bare")
    for as_views in (False, True):
        ddp(as_views)
    torch.save({case: run(case, slice(rank, rank + 1)) for case in EXACT + ROUNDED}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The final weights of the two processes, by case; ``work`` also checks the errors."""
    folder = tmp_path_factory.mktemp("processes")
    run_two(work, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def alone(case):
    net = network(case).float() if case in ROUNDED else network(case)
    start = [p.detach().clone() for p in net.parameters()]
    train(net, AdamWWeightNorm(weight_norm_groups(net), 0.1, lr=RATE), case.replace("bfloat16", "float32"))
    return start, [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("case", [case for case in EXACT + ROUNDED if "replicated" in case])
def test_all_processes_have_the_same_weights(case, found):
    for p, q in zip(found[0][case], found[1][case], strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("case", EXACT)
def test_two_processes_come_to_the_weights_of_one(case, found):
    _, expected = alone(case)
    for p, q in zip(found[0][case], expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", ROUNDED)
def test_what_is_rounded_goes_the_same_way(case, found):
    start, expected = (torch.cat([p.flatten() for p in weights]) for weights in alone(case))
    change = torch.cat([p.flatten() for p in found[0][case]]).float() - start
    assert torch.cosine_similarity(change, expected - start, dim=0) > 0.98
    assert (change.norm() / (expected - start).norm()).item() == pytest.approx(1, rel=0.02)
