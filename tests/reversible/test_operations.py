"""Laws of each operation by itself."""

from __future__ import annotations

import pytest
import torch

from monai_idm.reversible import (
    AttentionScale,
    CheckerboardAttention,
    Merge,
    OrthogonalDownsample,
    OrthogonalMixing,
    OrthogonalUpsample,
    Split,
)
from monai_idm.reversible.resample import cayley
from tests.reversible.chains import disturb, halves


def quad(dims, skip=12, low=4, sides=(4, 2, 6)):
    make = lambda c: torch.randn(2, c // 2, *sides[:dims], dtype=torch.float64)  # noqa: E731
    return [make(skip), make(skip), make(low), make(low)]


OPERATIONS = {
    "mixing": lambda d: (OrthogonalMixing(16), halves(d, dtype=torch.float64)),
    "down": lambda d: (OrthogonalDownsample(d, 16), halves(d, dtype=torch.float64)),
    "up": lambda d: (OrthogonalUpsample(d, 16), halves(d, 16 * 2**d, dtype=torch.float64)),
    "split": lambda d: (Split(6), halves(d, dtype=torch.float64)),
    "merge": lambda d: (Merge(6), quad(d)),
    "attention": lambda d: (CheckerboardAttention(AttentionScale(d, 12, 6, 2)), quad(d)),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_inverse_undoes_map_and_changes_something(name, dims):
    operation, inputs = OPERATIONS[name](dims)
    operation = disturb(operation).double()
    condition = operation.condition(torch.zeros(2, 5, dtype=torch.float64))
    outputs = operation.map(list(inputs), condition)
    assert len(inputs) == operation.num_inputs
    assert len(outputs) == operation.num_outputs
    for x, back in zip(inputs, operation.inverse(outputs, condition), strict=True):
        torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    if name in ("mixing", "attention"):
        assert (outputs[0] - inputs[0]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["mixing", "down", "up", "split", "merge"])
def test_orthogonal_operations_keep_the_norm(name):
    operation, inputs = OPERATIONS[name](3)
    operation = disturb(operation).double()
    outputs = operation.map(list(inputs), operation.condition(torch.zeros(1)))
    before, after = (sum(x.square().sum() for x in tensors) for tensors in (inputs, outputs))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_the_gradient_of_cayley_is_that_of_its_formula():
    generator = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 5, 5, dtype=torch.float64)
    (actual,) = torch.autograd.grad(cayley(generator), generator, cotangent)
    s, identity = (generator - generator.mT) / 2, torch.eye(5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(torch.linalg.solve(identity + s, identity - s), generator, cotangent)
    assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_cayley_is_orthogonal_to_float32_rounding():
    w = cayley(torch.randn(512, 512)).float()
    torch.testing.assert_close(w @ w.mT, torch.eye(512), rtol=0, atol=2e-6)
    assert torch.equal(cayley(torch.zeros(4, 4)), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("dims", [2, 3])
def test_downsampling_is_a_strided_convolution(dims):
    operation = disturb(OrthogonalDownsample(dims, 4)).double()
    a, b = halves(dims, 4, dtype=torch.float64)
    (w,) = operation.condition(torch.zeros(1))
    convolution = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[dims]
    kernels = w.reshape(-1, 1, *[2] * dims)
    expected = convolution(torch.cat((a, b), 1), kernels, stride=2, groups=4)
    torch.testing.assert_close(torch.cat(operation.map([a, b], [w]), 1), expected)


def test_downsampling_starts_as_haar_and_its_first_band_is_the_mean():
    operation = OrthogonalDownsample(3, 2).double()
    a, b = halves(3, 2, dtype=torch.float64)
    low = operation.map([a, b], operation.condition(torch.zeros(1)))[0][:, :1]
    torch.testing.assert_close(low, torch.nn.functional.avg_pool3d(a, 2) * 8**0.5)


def test_attention_starts_as_the_identity_and_its_scale_is_bounded():
    operation, inputs = OPERATIONS["attention"](3)
    operation.double()
    for x, y in zip(inputs, operation.map(inputs, []), strict=True):
        assert torch.equal(x, y)
    torch.nn.init.normal_(operation.scale.out.weight, std=100)
    ratio = operation.map(inputs, [])[0] / inputs[0]
    assert 0.5 <= ratio.min() < 0.6
    assert 1.7 < ratio.max() <= 2.0


def test_attention_scales_each_parity_by_the_other_alone():
    scale = disturb(AttentionScale(2, 12, 6, 2)).double()
    known = torch.randn(1, 12, 8, dtype=torch.float64)
    shape = torch.Size((4, 4))
    assert scale(known, shape=shape, parity=0).shape == (1, 12, 8)
    # the first half-step does not change the even sites; only the second, which sees the scaled odd ones, does
    operation = CheckerboardAttention(scale)
    y = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    low = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    moved = y.clone()
    moved[:, :, 0, 1] += 1  # an odd site
    scaled, scaled_moved = (torch.cat(operation.map([*t.chunk(2, 1), low, low], [])[:2], 1) for t in (y, moved))
    odd = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1
    odd[0, 1] = False
    torch.testing.assert_close(scaled_moved[..., odd], scaled[..., odd])
    assert (scaled_moved - scaled)[..., 0, 0].abs().max() > 1e-6


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="choose a divisor of 12"):
        AttentionScale(3, 12, 5, 2)
