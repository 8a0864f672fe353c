"""What bypasses the core where the bookends halve the resolution."""

from __future__ import annotations

import pytest
import torch

from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.bookends import Shortcut
from tests.networks.test_invertible_unet import small


@pytest.mark.parametrize("dims", [2, 3])
def test_a_shortcut_adds_each_channel_of_the_input_in_its_proportion(dims):
    shortcut = Shortcut(5, 3, 2).double()
    torch.nn.init.normal_(shortcut.project.weight)
    torch.nn.init.normal_(shortcut.project.bias)
    size = (4, 2, 3)[:dims]
    y, x, embedding = (torch.randn(2, *shape).double() for shape in ((2, *size), (3, *size), (5,)))
    found = shortcut(y, x, embedding)
    for sample in range(2):
        weights = shortcut.project(embedding[sample])
        for i in range(2):
            expected = y[sample, i] + sum(weights[3 * i + j] * x[sample, j] for j in range(3))
            torch.testing.assert_close(found[sample, i], expected)


def test_a_new_shortcut_is_closed_and_learns():
    net = InvertibleDiffusionUNet.from_preset(
        "light", bookend_stride=2, channels=(32,), num_res_blocks=1, attention_levels=(False,)
    )
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([700])
    y = net(x, t)
    assert net.shortcut is not None
    assert torch.equal(net.shortcut(y, x, net.embedding(t)), y)
    (y * x).sum().backward()
    assert net.shortcut.project.weight.grad.abs().max() > 0


def test_noise_of_single_voxels_passes_only_through_a_shortcut():
    net = small(bookend_stride=2)
    with torch.no_grad():
        net.entry.conv1.weight.fill_(0.1)  # the core sees the means of the cells
    board = torch.ones(1, 2, 8, 8, 8)
    board[..., ::2] = -1
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([700])
    change = net(x + board, t) - net(x, t)
    through = net.shortcut.project(net.embedding(t)).reshape(2, 2).sum(1)
    torch.testing.assert_close(change, board * through[:, None, None, None], rtol=1e-4, atol=1e-4)


def test_without_halved_resolution_there_is_no_shortcut():
    assert small().shortcut is None
    assert small(bookends=False, in_channels=2).shortcut is None
