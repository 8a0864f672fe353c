"""What bypasses the core where the bookends halve the resolution."""

from __future__ import annotations

import pytest
import torch

from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.bookends import Shortcut
from tests.networks.test_invertible_unet import small


def opened(shortcut: Shortcut) -> Shortcut:
    torch.nn.init.normal_(shortcut.project.weight)
    torch.nn.init.normal_(shortcut.project.bias)
    return shortcut


def means(x: torch.Tensor, side: int) -> torch.Tensor:
    """Every voxel replaced by the mean of its block of ``side`` voxels per axis."""
    for axis in range(2, x.ndim):
        blocks = x.unflatten(axis, (-1, side))
        x = blocks.mean(axis + 1, keepdim=True).expand_as(blocks).flatten(axis, axis + 1)
    return x


@pytest.mark.parametrize("dims", [2, 3])
def test_a_shortcut_adds_the_input_and_its_detail_in_their_proportions(dims):
    shortcut = opened(Shortcut(dims, 8, 3, 2, 5, 4)).double()
    size = (8, 4, 12)[:dims]
    y, x, embedding = (torch.randn(2, *shape).double() for shape in ((2, *size), (3, *size), (5,)))
    gates = torch.randn(2, 4, *(side // 2 for side in size)).double()
    found = shortcut(y, gates, x, embedding)
    for axis in range(2, 2 + dims):
        gates = gates.repeat_interleave(2, axis)
    fine, coarse = x - means(x, 2), means(x, 2) - means(x, 4)
    for sample in range(2):
        weights = torch.sinh(shortcut.project(embedding[sample])).reshape(3, 2, 3)
        for i in range(2):
            expected = y[sample, i].clone()
            for j in range(3):
                expected += weights[0, i, j] * x[sample, j]
                expected += weights[1, i, j] * torch.sigmoid(gates[sample, i]) * fine[sample, j]
                expected += weights[2, i, j] * torch.sigmoid(gates[sample, 2 + i]) * coarse[sample, j]
            torch.testing.assert_close(found[sample, i], expected)


def test_a_new_shortcut_is_closed_and_learns():
    net = InvertibleDiffusionUNet.from_preset(
        "light", bookend_stride=2, channels=(32,), num_res_blocks=1, attention_levels=(False,)
    )
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([700])
    y, gates = torch.randn_like(x), torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(net.shortcut(y, gates, x, net.embedding(t)), y)
    (net(x, t) * x).sum().backward()
    assert all(part.abs().max() > 0 for part in net.shortcut.project.weight.grad.chunk(3))
    opened(net.shortcut)
    (net(x, t) * x).sum().backward()
    assert net.shortcut.gates[1].weight.grad.abs().max() > 0


def test_noise_of_single_voxels_passes_only_through_a_shortcut():
    net = small(bookend_stride=2)
    opened(net.shortcut)
    with torch.no_grad():
        net.entry.conv1.weight.fill_(0.1)  # the core sees the means of the blocks
    board = torch.ones(1, 2, 8, 8, 8)
    board[..., ::2] = -1
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([700])
    change = (net(x + board, t) - net(x, t)) / board
    of_all, of_fine, _ = torch.sinh(net.shortcut.project(net.embedding(t))).reshape(3, 2, 2).sum(2)
    gate = (change - of_all[:, None, None, None]) / of_fine[:, None, None, None]
    assert gate.min() > 0
    assert gate.max() < 1
    torch.testing.assert_close(gate, means(gate, 2), rtol=1e-3, atol=1e-3)


def test_sides_that_do_not_fit_the_blocks_of_the_shortcut_are_refused():
    net = small(bookend_stride=2, channels=(16,), num_res_blocks=1, attention_levels=(False,))
    with pytest.raises(ValueError, match="not divisible by 4"):
        net(torch.zeros(1, 2, 6, 6, 6), torch.tensor([0]))


def test_a_checkpoint_with_the_shortcut_of_old_is_refused_by_name():
    net = small(bookend_stride=2)
    old = net.state_dict()
    old["shortcut.project.weight"] = old["shortcut.project.weight"][: 2 * 2]
    with pytest.raises(ValueError, match=r"version 0\.4\.0 or earlier.*another shortcut"):
        net.load_state_dict(old)


def test_without_halved_resolution_there_is_no_shortcut():
    assert small().shortcut is None
    assert small(bookends=False, in_channels=2).shortcut is None
