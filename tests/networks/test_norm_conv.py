"""A convolution of a normalised large volume keeps no normalised copy and costs no second convolution."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from monai_idm.meters import live_bytes
from monai_idm.networks import norm_act
from monai_idm.networks.norm_act import NormSiLU
from monai_idm.networks.norm_conv import norm_conv
from monai_idm.reversible import convolution


def case(count, shifted, seed=0):
    generator = torch.Generator().manual_seed(seed)
    norm, conv = NormSiLU(4, 12).double(), convolution(3)(12, 6, 3, padding=1).double()
    x = torch.randn(2, 12, 6, 5, 4, generator=generator, dtype=torch.float64)
    shift = torch.randn(2, 12, generator=generator, dtype=torch.float64).requires_grad_() if shifted else None
    return norm, conv, [part.clone().requires_grad_() for part in x.chunk(count, 1)], shift


@pytest.mark.parametrize(("count", "shifted"), [(1, False), (1, True), (2, False)])
def test_it_is_the_convolution_of_the_normalised(count, shifted, monkeypatch):
    norm, conv, parts, shift = case(count, shifted)
    inputs = [*parts, *norm.parameters(), *conv.parameters(), *([shift] if shifted else [])]
    expected = conv(norm(torch.cat(parts, 1), shift))
    monkeypatch.setattr(norm_act, "LARGE_VOXELS", 1)
    found = norm_conv(norm, conv, *parts, shift=shift)
    torch.testing.assert_close(found, expected)
    dy = torch.randn_like(found)
    pairs = zip(torch.autograd.grad(found, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_weights_that_are_replaced_for_one_call_are_those_of_the_backward_pass(monkeypatch):
    norm, conv, parts, _ = case(1, False)
    monkeypatch.setattr(norm_act, "LARGE_VOXELS", 1)
    found = norm_conv(norm, conv, *parts)
    weight = norm.weight
    norm.weight = torch.nn.Parameter(10 * weight.detach())
    twin = conv(torch.nn.functional.silu(torch.nn.functional.group_norm(parts[0], 4, weight, norm.bias)))
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), parts)[0] for y in (found, twin)))


def test_no_normalised_copy_is_kept_and_nothing_is_convolved_again(monkeypatch):
    norm, conv, parts, _ = case(1, False)

    def held_and_flops():
        with live_bytes() as live, FlopCounterMode(display=False) as flops:
            y = norm_conv(norm, conv, *parts)
            held = live.current_bytes - y.nbytes
            y.sum().backward()
        return held, flops.get_total_flops()

    held, flops = held_and_flops()
    monkeypatch.setattr(norm_act, "LARGE_VOXELS", 1)
    statistics_alone = held - parts[0].nbytes
    assert held_and_flops() == (pytest.approx(statistics_alone, abs=1000), flops)
