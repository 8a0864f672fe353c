"""float32 stays float32 on cards that would multiply in TF32."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from monai_idm.metrics import ssim3d
from monai_idm.networks import InvertibleDiffusionUNet, step_choices
from monai_idm.reversible import true_float32
from tests.tf32 import EmulatedTF32

SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


@pytest.fixture(autouse=True)
def switches():
    before = [switch.fp32_precision for switch in SWITCHES]
    yield
    for switch, precision in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = precision


def gradients(net, activations):
    x = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    net.zero_grad()
    with true_float32():  # as in a training step: a stored network leaves its backward pass to torch
        nn.functional.mse_loss(net.with_activations(activations)(x, torch.tensor([500])), x.roll(1, 2)).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def network():
    torch.manual_seed(0)
    net = InvertibleDiffusionUNet(3, 2, 2, (16, 32, 64), 2, (False, True, False), 12, embedding_channels=64)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


def test_gradients_and_inverses_are_those_of_float32(monkeypatch):
    net, x = network(), torch.randn(1, 2, 16, 16, 16)
    expected, error = gradients(net, "stored"), net.reconstruction_error(x)
    for matmul in ("none", "tf32"):
        torch.backends.cuda.matmul.fp32_precision = matmul
        with EmulatedTF32() as tf32:
            for activations in ("rebuilt", "checkpointed", "stored"):
                found = gradients(net, activations)
                assert (found - expected).norm() <= 1e-5 * expected.norm()
            assert net.reconstruction_error(x) <= 2 * error + 1e-6
        assert tf32.rounded == 0
    # without it, a card would miss both laws
    monkeypatch.setattr(step_choices, "true_float32", nullcontext)
    with EmulatedTF32() as tf32:
        assert net.reconstruction_error(x) > 10 * error
    assert tf32.rounded > 0


@pytest.mark.parametrize(
    "setting", ["torch.backends.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('high')"]
)
def test_any_way_to_allow_tf32_works_and_stays_allowed_outside(setting):
    before = torch.backends.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    try:
        exec(setting)
        allowed = [switch.fp32_precision for switch in SWITCHES]
        assert "tf32" in allowed
        gradients(network(), "rebuilt")
        assert [switch.fp32_precision for switch in SWITCHES] == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before


def test_ssim_is_that_of_float32():
    a = torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    b = (a + 0.02 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    expected = ssim3d(a, b)
    with EmulatedTF32():
        assert torch.equal(ssim3d(a, b), expected)
