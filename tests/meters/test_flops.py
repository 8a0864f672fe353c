"""Counted operations against formulas, and fake tensors against real ones."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_idm.meters.flops import count_flops


def test_a_matrix_product_takes_two_operations_per_term_and_twice_that_backward():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert count_flops(lambda: (a @ b).sum().backward()) == 3 * (2 * 3 * 5 * 7)


def test_a_convolution_counts_its_kernel_at_every_voxel():
    net, x = nn.Conv3d(2, 4, 3, padding=1), torch.randn(1, 2, 5, 6, 7)
    assert count_flops(lambda: net(x)) == 2 * 27 * 2 * 4 * 5 * 6 * 7
    # x needs no gradient: only that of the weights is computed
    assert count_flops(lambda: net(x).sum().backward()) == 2 * (2 * 27 * 2 * 4 * 5 * 6 * 7)


def attend():
    q, k, v = (torch.randn(2, 3, tokens, 8, requires_grad=True) for tokens in (11, 7, 7))
    return nn.functional.scaled_dot_product_attention(q, k, v)


def test_attention_counts_on_a_cpu_too():
    product = 2 * 2 * 3 * 11 * 7 * 8
    assert count_flops(attend) == 2 * product
    assert count_flops(lambda: attend().sum().backward()) == (2 + 5) * product  # scores are computed again


def test_fake_tensors_count_as_real_ones_do():
    def step():
        net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))
        net(torch.randn(4, 1, 3, 3, 3)).sum().backward()
        attend().sum().backward()

    real = count_flops(step)
    with FakeTensorMode():
        assert count_flops(step) == real > 0


def test_what_cannot_be_computed_here_is_counted():
    with FakeTensorMode():
        x = torch.empty(2**20, 2**20)
        assert count_flops(lambda: x @ x) == 2 * 2**60


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        count_flops(lambda: 1 / 0)
