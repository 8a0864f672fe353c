"""What the engine costs, in bytes and operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_idm.meters import live_bytes
from monai_idm.reversible import (
    AdditiveCoupling,
    Merge,
    OrthogonalMixing,
    ReversibleSequence,
    Split,
    mixing,
    outer_product,
)
from tests.reversible.chains import coupling, halves, unet, with_branch_batch


def bytes_after_forward(activations: str, couplings: int) -> int:
    chain = unet(3, couplings=couplings)
    inputs = [x.requires_grad_() for x in halves(3, batch=1, sides=(8, 8, 8))]
    with live_bytes() as live:
        outputs = chain(inputs, torch.randn(1, 5), activations)
        held = live.current_bytes
    assert outputs[0].requires_grad
    return held


def test_bytes_held_for_backward_do_not_grow_with_depth():
    shallow, deep = (bytes_after_forward("rebuilt", n) for n in (1, 8))
    assert deep == shallow
    # the same count grows where activations are kept, so it would reveal any that are kept by mistake
    assert bytes_after_forward("stored", 8) > 2 * bytes_after_forward("stored", 1)
    assert bytes_after_forward("checkpointed", 8) > 1.5 * bytes_after_forward("checkpointed", 1)


def peak_bytes(activations: str, couplings: int) -> int:
    chain = unet(3, couplings=couplings)
    inputs = [x.requires_grad_() for x in halves(3, batch=1, sides=(8, 8, 8))]
    for p in chain.parameters():
        p.grad = torch.zeros_like(p)
    with live_bytes() as live:
        sum(y.square().sum() for y in chain(inputs, torch.randn(1, 5), activations)).backward()
    return live.peak_bytes


def test_peak_of_a_step_does_not_grow_with_depth():
    assert peak_bytes("rebuilt", 8) <= 1.01 * peak_bytes("rebuilt", 1)
    assert peak_bytes("stored", 8) > 2 * peak_bytes("stored", 1)


class Passes(nn.Module):
    """A branch without activations."""

    def forward(self, x, e):
        return torch.zeros_like(x).requires_grad_(torch.is_grad_enabled())


def test_streams_and_their_gradients_exist_once(monkeypatch):
    monkeypatch.setattr(outer_product, "_ELEMENTS", 2**18)
    monkeypatch.setattr(mixing, "_VOXELS", 2**14)

    def peak(gradient_dtype):
        operations = [AdditiveCoupling(Passes()), OrthogonalMixing(16), Split(6), Merge(6), AdditiveCoupling(Passes())]
        chain = ReversibleSequence(operations, gradient_dtype=gradient_dtype)
        inputs = [x.requires_grad_() for x in halves(3, batch=1, sides=(64, 64, 128))]
        with live_bytes() as live:
            outputs = chain(iter([x.clone() for x in inputs]), torch.randn(1, 5))
            loss = sum(y.mean() for y in outputs)
            del outputs
            loss.backward()
        return live.peak_bytes / sum(x.nbytes for x in inputs)

    # the streams, their gradients, and half as much at a time for what is split, merged or passed to a branch
    assert peak(None) == pytest.approx(2.5, abs=0.1)
    assert peak(torch.bfloat16) == pytest.approx(2.25, abs=0.1)


def test_a_step_costs_four_thirds_of_the_stored_flops():
    chain = ReversibleSequence([coupling(3, 16) for _ in range(4)])
    inputs = [x.requires_grad_() for x in halves(3, sides=(8, 8, 8))]

    def flops(activations):
        with FlopCounterMode(display=False) as counter:
            sum(y.sum() for y in chain(inputs, torch.randn(2, 5), activations)).backward()
        return counter.get_total_flops()

    assert flops("rebuilt") / flops("stored") == pytest.approx(4 / 3, rel=0.01)


def test_a_stored_operation_between_rebuilt_ones_keeps_no_skip_connection():
    chain, inputs = unet(3), [x.requires_grad_() for x in halves(3, batch=1, sides=(8, 8, 8))]
    stored = [type(operation).__name__ == "OrthogonalDownsample" for operation in chain.operations]
    skip_bytes = 2 * inputs[0].nbytes * 3 // 4
    held = []
    for policies in ("rebuilt", ["stored" if s else "rebuilt" for s in stored]):
        with live_bytes() as live:
            outputs = chain(inputs, torch.randn(1, 5), policies)
            held.append(live.current_bytes)
        assert outputs[0].requires_grad
    assert 0 < held[1] - held[0] < skip_bytes


def test_a_sample_more_costs_its_streams_but_no_branch():
    def peak(batch: int, branch_batch: int) -> int:
        chain = with_branch_batch(ReversibleSequence([coupling(3, 16), coupling(3, 16)]), branch_batch)
        inputs = [x.requires_grad_() for x in halves(3, batch=batch, sides=(8, 8, 8))]
        for p in chain.parameters():
            p.grad = torch.zeros_like(p)
        with live_bytes() as live:
            outputs = chain(inputs, torch.randn(batch, 5))
            torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
        return live.peak_bytes

    half = halves(3, batch=1, sides=(8, 8, 8))[0].nbytes
    # outputs, their copies on the tape, incoming and outgoing gradients: two halves each, and one half as a margin
    assert (peak(4, 1) - peak(1, 1)) / 3 <= 9 * half
    assert (peak(4, 4) - peak(1, 4)) / 3 > 12 * half
