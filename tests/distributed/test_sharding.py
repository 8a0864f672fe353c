"""Sharded weights, their optimizers and averages are saved as full tensors, and resume from full tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_idm.distributed import full_states, sharded, to_local
from monai_idm.handlers import HostEMA
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, weight_norm_groups
from tests.distributed.two_processes import ask_two
from tests.networks.test_invertible_unet import SHALLOW, small

OPTIMIZERS = {"AdamWWeightNorm": AdamWWeightNorm, "AdamWInBackward": AdamWInBackward}
STEPS = 2


def training(optimizer: str, share: bool):
    torch.manual_seed(0)
    network = small(**SHALLOW, inverse_head=True).double()
    if share:
        network = sharded(network)
    steps = OPTIMIZERS[optimizer](weight_norm_groups(network, muon=True), lr=1e-2, lambda_l2=0.1)
    return network, full_states(steps) if share else steps, HostEMA(network, every=1)


def train(network, optimizer, ema, steps):
    for step in steps:
        x = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        y = network(x, torch.tensor([3]))
        (y.square().mean() + network.inverse(y).square().mean()).backward()
        optimizer.step()
        ema.update()


def states(parts):
    return copy.deepcopy([part.state_dict() for part in parts])


def save_and_go_on(rank):
    found = {}
    for name in OPTIMIZERS:
        first = training(name, share=True)
        train(*first, range(STEPS))
        saved = states(first)
        assert all(hasattr(p, "to_local") for p in first[0].parameters())
        assert sum(to_local(p).numel() for p in first[0].parameters()) < 0.6 * sum(
            p.numel() for p in first[0].parameters()
        )
        second = training(name, share=True)
        for p in second[0].parameters():
            nn.init.zeros_(to_local(p))
        for part, state in zip(second, saved, strict=True):
            part.load_state_dict(copy.deepcopy(state))  # a copy, because torch keeps counting steps in the loaded one
        with second[2].swapped_in():
            averaged = second[0].state_dict()
        train(*second, range(STEPS, 2 * STEPS))
        found[name] = saved, averaged, states(second)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return ask_two(save_and_go_on, tmp_path_factory.mktemp("sharding"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_wholes_are_those_of_one_process_that_never_stopped(name, found):
    parts = training(name, share=False)
    train(*parts, range(STEPS))
    saved, averaged, later = found[name]
    close(saved, states(parts))
    close(averaged, parts[2].weights)
    train(*parts, range(STEPS, 2 * STEPS))
    close(later, states(parts))


def test_weights_of_two_types_are_refused():
    with pytest.raises(ValueError, match=r"torch\.bfloat16, torch\.float32; use --weight_dtype float32"):
        sharded(small(precision="mixed", weight_dtype="bfloat16"))


def test_states_in_8_bits_are_not_shared():
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match="--optimizer#states float32"):
        full_states(AdamWInBackward([nn.Parameter(torch.zeros(8, 8))], states="8bit"))


def close(found, expected):
    """Require equality up to rounding, tensor by tensor, at any depth."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            close(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == expected
