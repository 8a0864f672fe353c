"""Running a few samples at a time gives the same result as running them all together."""

from __future__ import annotations

import pytest
import torch

from monai_idm.meters import live_bytes
from monai_idm.reversible import recomputed_in_chunks
from monai_idm.reversible.chunks import in_chunks


def pair(a, b):
    return [a.sin() * b, (a + b).exp()]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("graded", [True, False])
def test_chunks_are_put_where_they_belong(size, graded):
    a, b = torch.randn(2, 5, 3, 4)
    with torch.set_grad_enabled(graded):
        for found, expected in zip(in_chunks(pair, a, b, size=size), pair(a, b), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("stored", [True, False])
def test_recomputing_gives_the_same_gradients(stored):
    a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    a.requires_grad_()
    y = recomputed_in_chunks(pair, a, b, branch_batch=2, stored=stored)
    (expected,) = torch.autograd.grad(sum(z.sum() for z in pair(a, b)), a)
    (found,) = torch.autograd.grad(sum(z.sum() for z in y), a)
    torch.testing.assert_close(found, expected)


def test_recomputing_keeps_the_inputs_alone_and_works_on_one_chunk():
    def deep(x):
        for _ in range(20):
            x = x.sin()
        return [x]

    held, peak = {}, {}
    for stored in (True, False):
        x = torch.randn(8, 1000, requires_grad=True)
        with live_bytes() as memory:
            (y,) = recomputed_in_chunks(deep, x, branch_batch=1, stored=stored)
            held[stored] = memory.current_bytes - y.nbytes
            y.sum().backward()
            peak[stored] = memory.peak_bytes
    assert held[False] == 0
    assert held[True] >= 19 * x.nbytes
    assert peak[False] < 5 * x.nbytes


def test_the_gradient_of_a_batch_exists_once_and_is_that_of_every_pass():
    x = torch.randn(64, 1000, requires_grad=True)
    (y,) = recomputed_in_chunks(lambda few: [few.sin().cos()], x, branch_batch=1)
    loss = y.sum()
    with live_bytes() as memory:
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        del first
    assert memory.peak_bytes < 1.2 * x.nbytes  # sums have an expanded gradient
    for _ in range(2):
        (found,) = torch.autograd.grad(loss, x, retain_graph=True)
        torch.testing.assert_close(found, -x.sin().sin() * x.cos())


def test_without_gradients_the_whole_is_there_once():
    x = torch.randn(8, 1000)
    with live_bytes() as memory, torch.no_grad():
        in_chunks(lambda few: [few + 1], x, size=1)
    assert memory.peak_bytes < 1.2 * x.nbytes
