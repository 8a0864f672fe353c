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


def test_in_float32_it_is_torchs():
    torch.manual_seed(0)
    ours, torchs, x = convolution(3)(4, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 2, 5, 3)
    torchs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), torchs(x))
    assert convolution(2) is nn.Conv2d
