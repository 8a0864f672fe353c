"""Exact precision: every policy gives the same gradients, bit for bit."""

from __future__ import annotations

import pytest
import torch

from monai_idm.meters import live_bytes
from monai_idm.networks import norm_act
from monai_idm.reversible import chunks, mixing
from monai_idm.reversible.fixed_point import GRID_BITS
from tests.networks.test_invertible_unet import gradients, small, worst_error
from tests.reversible.chains import disturb, halves, unet

SIZES = [(12, 12, 12), (16, 12, 20)]  # bfloat16 on a CPU needs at least 3 voxels a side


@pytest.mark.parametrize(
    ("stride", "size", "seed"), [*((1, size, seed) for size in SIZES for seed in (0, 1, 2)), (2, SIZES[0], 0)]
)
@pytest.mark.parametrize("precision", ["exact", "exact-mixed"])
def test_gradients_of_all_policies_are_equal_bit_for_bit(precision, stride, size, seed):
    torch.manual_seed(seed)
    net = small(precision=precision, bookend_stride=stride)
    x, t = torch.randn(2, 2, *(stride * side for side in size)), torch.tensor([3, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    for activations in ("rebuilt", "checkpointed"):
        found = gradients(net.with_activations(activations), x, t)
        unequal = [name for name in expected if not torch.equal(found[name], expected[name])]
        assert not unequal, activations


@pytest.fixture
def of_large_volumes(monkeypatch):
    """What is done with large volumes, done with any: a few samples or voxels at a time, norms recomputed."""
    monkeypatch.setattr(chunks, "AUTO_VOXELS", 1)
    monkeypatch.setattr(mixing, "_VOXELS", 100)
    monkeypatch.setattr(norm_act, "LARGE_VOXELS", 1)
    monkeypatch.setattr(norm_act, "_CACHED_PART", 100)


@pytest.mark.parametrize("gradient_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["exact", "exact-mixed"])
def test_large_volumes_and_short_gradients_keep_gradients_equal_bit_for_bit(
    precision, gradient_dtype, of_large_volumes
):
    net = small(precision=precision, gradient_dtype=gradient_dtype)
    x, t = torch.randn(3, 2, 12, 12, 12), torch.tensor([3, 50, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    for activations in ("rebuilt", "checkpointed", ("stored", "rebuilt", "checkpointed")):
        found = gradients(net.with_activations(activations), x, t)
        unequal = [name for name in expected if not torch.equal(found[name], expected[name])]
        assert not unequal, activations


@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_done_with_large_volumes_changes_no_gradient_but_by_rounding(stride, request):
    net = small(bookend_stride=stride)
    x, t = torch.randn(2, 2, *[12 * stride] * 3), torch.tensor([3, 700])
    expected = gradients(net, x, t)
    request.getfixturevalue("of_large_volumes")
    assert worst_error(gradients(net, x, t), expected) < 1e-4


def test_without_exactness_the_last_bits_differ():
    net = small(precision="float32")
    x, t = torch.randn(2, 2, 12, 12, 12), torch.tensor([3, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    found = gradients(net.with_activations("rebuilt"), x, t)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)


def test_streams_lie_on_the_grid_and_the_result_is_close_to_float32():
    chain = disturb(unet(3, couplings=2), 0.02)
    inputs, embedding = halves(3, sides=(8, 8, 8)), torch.randn(2, 5)
    plain = chain(inputs, embedding, "stored")
    chain.exact = True
    for operation in chain.operations:
        operation.exact = True
    exact = chain(inputs, embedding, "stored")
    for y, z in zip(exact, plain, strict=True):
        assert torch.equal(y, torch.round(y * 2**GRID_BITS) / 2**GRID_BITS)
        assert (y - z).norm() / z.norm() < 1e-3


def held_and_peak(couplings, exact):
    chain = unet(3, couplings=couplings)
    chain.exact = exact
    for operation in chain.operations:
        operation.exact = exact
    inputs = [x.requires_grad_() for x in halves(3, batch=1, sides=(8, 8, 8))]
    with live_bytes() as live:
        outputs = chain(inputs, torch.randn(1, 5), "rebuilt")
        held = live.current_bytes
        sum(y.sum() for y in outputs).backward()
    return held, sum(x.numel() for x in inputs)


def test_the_side_information_is_two_bytes_per_element_at_most_and_does_not_grow_with_depth():
    plain, elements = held_and_peak(1, exact=False)
    exact, _ = held_and_peak(1, exact=True)
    assert 0 < exact - plain <= 2 * elements
    assert held_and_peak(6, exact=True)[0] == exact
