"""Normalisation and SiLU in one function equal those of torch, and keep only their input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_idm.meters import live_bytes
from monai_idm.networks import norm_act
from monai_idm.networks.norm_act import NormSiLU

VOXELS = (4, 6, 2)


def case(dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)
    layer = NormSiLU(3, 12).double()
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x, dy = torch.randn(2, batch, 12, *VOXELS, generator=generator, dtype=torch.float64).to(dtype)
    return layer.to(dtype), x.requires_grad_(), torch.randn(batch, 12, generator=generator).to(dtype), dy


def twin(layer, x, shift):
    h = nn.functional.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    return nn.functional.silu(h if shift is None else h + shift[:, :, None, None, None])


@pytest.fixture(params=["all voxels at once", "a few voxels at a time"])
def parts(request, monkeypatch):
    if request.param == "a few voxels at a time":
        monkeypatch.setattr(norm_act, "LARGE_VOXELS", 1)
        monkeypatch.setattr(norm_act, "_CACHED_PART", 5)


@pytest.fixture(params=["by torch's kernels", "by sums, as on CUDA"], autouse=True)
def sums(request, monkeypatch):
    if request.param == "by sums, as on CUDA":
        monkeypatch.setattr(norm_act, "_is_long_on_cuda", lambda x, values, limit: True)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last_3d], ids=["contiguous", "channels last"])
def memory_format(request):
    return request.param


@pytest.mark.parametrize("shifted", [True, False])
def test_it_equals_the_layers_of_torch(shifted, parts, memory_format):
    layer, x, shift, dy = case()
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    shift = shift.requires_grad_() if shifted else None
    inputs = [x, *layer.parameters(), *([shift] if shifted else [])]
    found = torch.autograd.grad(y := layer(x, shift), inputs, dy)
    expected = torch.autograd.grad(z := twin(layer, x, shift), inputs, dy)
    torch.testing.assert_close(y, z)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert y.is_contiguous(memory_format=memory_format)
    assert found[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("groups", [3, 4])
def test_two_halves_are_normalised_like_the_whole(groups, parts, memory_format):
    layer, x = NormSiLU(groups, 12).double(), case()[1].detach()
    halves = [half.contiguous(memory_format=memory_format).requires_grad_() for half in x.chunk(2, 1)]
    whole = torch.cat(halves, 1).detach().requires_grad_()
    dy = torch.randn_like(whole)
    found = torch.autograd.grad(y := layer.joined(*halves), [*halves, *layer.parameters()], dy)
    expected = torch.autograd.grad(z := layer(whole), [whole, *layer.parameters()], dy)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(torch.cat(found[:2], 1), expected[0])
    for a, b in zip(found[2:], expected[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_statistics_are_in_float32_and_the_result_in_bfloat16(parts, memory_format):
    layer, x, shift, dy = case(torch.float32)
    low = x.detach().bfloat16().contiguous(memory_format=memory_format)
    expected = twin(layer, low.float(), shift)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(low.requires_grad_(), shift.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    y.backward(dy.bfloat16())
    assert low.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32


def test_backward_needs_the_input_and_its_statistics_alone():
    layer, x, shift, _ = case(torch.float32)
    with live_bytes() as memory:
        y = layer(x, shift)
        statistics = 2 * x.element_size() * len(x) * layer.num_groups
        assert memory.current_bytes == y.nbytes + statistics
        z = twin(layer, x, shift)
        assert memory.current_bytes >= y.nbytes + statistics + 2 * z.nbytes


@pytest.mark.parametrize("mean", [0, 30])
def test_statistics_of_many_voxels_are_accurate(memory_format, mean):
    layer = NormSiLU(2, 4)
    x = torch.randn(2, 4, 48, 48, 24, generator=torch.Generator().manual_seed(0)) + mean
    expected = twin(layer.double(), x.double(), None).detach()
    found = layer.float()(x.contiguous(memory_format=memory_format), None).detach()
    assert float((found - expected).abs().max()) < 1e-5
