"""Weights in bfloat16: which weights they are, and that little except the memory changes."""

from __future__ import annotations

import pytest
import torch

from monai_idm.handlers import HostEMA
from tests.networks.test_invertible_unet import gradients, small, worst_error

ARGUMENTS = {"precision": "mixed", "weight_dtype": "bfloat16"}


def pair():
    """The same network twice, with weights that bfloat16 represents exactly."""
    low = small(**ARGUMENTS)
    full = small(precision="mixed")
    full.load_state_dict(low.state_dict())
    return low, full


def test_large_weights_of_the_core_are_low_and_all_else_is_not():
    for name, p in small(**ARGUMENTS).named_parameters():
        low = name.startswith("core") and p.ndim >= 2 and not name.endswith("generator")
        assert p.dtype == (torch.bfloat16 if low else torch.float32), name


def test_a_mixed_network_computes_the_same_with_them():
    low, full = pair()
    x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([3, 700])
    assert torch.equal(low(x, t), full(x, t))
    expected = gradients(full, x, t)
    found = {name: gradient.float() for name, gradient in gradients(low, x, t).items()}
    assert worst_error(found, expected) < 1e-2


def test_policies_agree_bit_for_bit_where_streams_are_exact():
    net = small(weight_dtype="bfloat16", precision="exact-mixed")
    x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([3, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    for name, gradient in gradients(net, x, t).items():
        assert torch.equal(gradient, expected[name]), name


def test_checkpoints_go_both_ways():
    low, full = pair()
    full.load_state_dict(small(precision="mixed").state_dict())
    low.load_state_dict(full.state_dict())
    conv = "core.operations.0.f.conv1.weight"
    assert torch.equal(low.state_dict()[conv], full.state_dict()[conv].bfloat16())


def test_their_average_is_in_float32():
    net = small(**ARGUMENTS)
    ema = HostEMA(net, decay=0.999)
    weight, mean = net.core.operations[0].f.conv1.weight, ema.weights["core.operations.0.f.conv1.weight"]
    ema.updates = 10**6
    start = mean.detach().clone()
    weight.data.add_(1.0)
    ema.update()
    torch.testing.assert_close(mean - start, 0.001 * (weight.float() - start), rtol=1e-3, atol=1e-7)


def test_they_need_a_mixed_precision():
    with pytest.raises(ValueError, match="choose 'mixed' or 'exact-mixed'"):
        small(weight_dtype="bfloat16")
    with pytest.raises(ValueError, match="'float32', 'bfloat16'"):
        small(weight_dtype="half")
