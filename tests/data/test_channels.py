"""Channels are selected by name."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_idm.data import SelectChannelsd

NAMES = ["t1", "t1ce", "t2"]
VOLUME = torch.arange(3.0).view(3, 1, 1, 1) * torch.ones(3, 2, 3, 4)


@pytest.mark.parametrize("select", [["t2"], ["t2", "t1"], ["t1ce", "t1ce"], NAMES, []])
def test_those_named_are_kept_in_their_order(select):
    found = SelectChannelsd("image", NAMES, select)({"image": VOLUME, "other": 1})
    assert found["image"].shape == (len(select), 2, 3, 4)
    assert [float(channel.max()) for channel in found["image"]] == [NAMES.index(name) for name in select]
    assert found["other"] == 1


def test_an_affine_stays():
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    found = SelectChannelsd("image", NAMES, ["t2"])({"image": MetaTensor(VOLUME, affine=affine)})["image"]
    assert torch.equal(found.affine, affine)


def test_several_volumes_are_cut_alike():
    found = SelectChannelsd(["pred", "variance"], NAMES, ["t2"])({"pred": VOLUME, "variance": VOLUME + 1})
    assert [float(found[key].max()) for key in ("pred", "variance")] == [2, 3]


def test_names_and_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no channel is named flair, pd; choose from t1, t1ce, t2"):
        SelectChannelsd("image", NAMES, ["flair", "t1", "pd"])
    with pytest.raises(ValueError, match=r"'image' has the shape \(2, 2, 3, 4\); .* for each of t1, t1ce, t2"):
        SelectChannelsd("image", NAMES, ["t1"])({"image": VOLUME[:2]})
