"""Inpainting: what the network sees, and what comes back."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_idm.schedulers import StridedDDIMScheduler
from monai_idm.tasks import DrawingInferer, Inpainting

SIZE = (8, 12, 8)


class Watched(nn.Module):
    """Predicts a function of its input, and records it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, timesteps, context=None):
        self.seen.append(x)
        return torch.tanh(x[:, :2] + 0.1)


def condition():
    volume = torch.rand(2, 2, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hole = torch.zeros(2, 1, *SIZE)
    hole[0, :, 2:6, 3:9, 2:5] = 1
    hole[1, :, 1:3, 1:4, 5:8] = 1
    return volume, hole, torch.cat([volume.masked_fill(hole > 0, 0.25), hole], 1)


@pytest.mark.parametrize("window", [None, SlidingWindowInferer((8, 8, 8), overlap=0.25)])
def test_the_network_sees_what_is_known_clean_and_where_the_hole_is(window):
    volume, hole, given = condition()
    network = Watched()
    sampler = StridedDDIMScheduler(100, "cosine", "sample", num_inference_steps=3)
    draws = DrawingInferer(sampler, Inpainting(["t1", "t2"]), num_draws=2, window=window).draws(given, network)
    around = (hole == 0).expand_as(volume)
    for number in range(2):
        assert torch.equal(draws[:, number][around], volume[around])
    inside = (hole > 0).expand_as(volume)
    assert not torch.equal(draws[:, 0][inside], draws[:, 1][inside])
    for x in network.seen if window is None else ():
        case = volume.repeat_interleave(len(x) // 2, 0)
        holes = hole.repeat_interleave(len(x) // 2, 0)
        assert torch.equal(x[:, 2:], given.repeat_interleave(len(x) // 2, 0))
        known = (holes == 0).expand_as(case)
        assert torch.equal(x[:, :2][known], case[known])
        assert not torch.equal(x[:, :2][~known], torch.zeros_like(case)[~known])


def test_a_condition_without_the_hole_is_refused():
    with pytest.raises(ValueError, match="3 channels, the contrasts and the hole: use HideHoled"):
        Inpainting(["t1", "t2"]).pack(torch.zeros(1, 2, *SIZE), torch.zeros(1, 2, *SIZE))
