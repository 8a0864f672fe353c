"""Convolutions in bfloat16 have the gradients of float32, for volumes of every depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_idm.reversible import convolution


def gradients(conv, x, autocast):
    conv.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach().float(), x.grad, *(p.grad.clone() for p in conv.parameters())]


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("size", [(n, m, n) for n in (1, 2, 3, 4, 8) for m in (2, 5)])
def test_bfloat16_has_the_gradients_of_float32(size, groups):
    torch.manual_seed(0)
    x = torch.randn(2, 16, *size).contiguous(memory_format=torch.channels_last_3d)
    conv = convolution(3)(16, 16, 3, padding=1, groups=groups)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).is_contiguous(memory_format=torch.channels_last_3d)
    for found, expected in zip(gradients(conv, x, True), gradients(conv, x, False), strict=True):
        assert (found - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("stride", "padding", "bias"), [(1, 1, True), (2, 0, False)])
def test_in_float32_it_is_torchs(batch, stride, padding, bias):
    torch.manual_seed(0)
    arguments = {"kernel_size": 3, "stride": stride, "padding": padding, "bias": bias}
    ours, torchs = convolution(3)(4, 6, **arguments), nn.Conv3d(4, 6, **arguments).double()
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, 4, 5, 7, 6).contiguous(memory_format=torch.channels_last_3d)
    assert ours(x).is_contiguous(memory_format=torch.channels_last_3d)
    for found, expected in zip(gradients(ours, x, False), gradients(torchs, x.double(), False), strict=True):
        torch.testing.assert_close(found, expected.float())


def test_a_single_small_volume_does_not_take_the_slow_kernel():
    x = torch.randn(1, 4, 5, 7, 6, requires_grad=True)
    with torch.profiler.profile() as profile:
        convolution(3)(4, 6, 3)(x).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow" in name for name in names)


def test_frozen_weights_get_no_gradient():
    conv, x = convolution(3)(4, 6, 3).requires_grad_(False), torch.randn(1, 4, 5, 7, 6, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


def test_in_two_dimensions_it_is_torchs_class():
    assert convolution(2) is nn.Conv2d
