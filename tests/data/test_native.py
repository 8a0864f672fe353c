"""Network output is mapped back to the grid of the input files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from monai_idm.data import BrainToGridd, LoadVolumesd, ToNatived
from tests.data.cases import SHAPE, affine, write_case

MATRIX = affine((1.2, 1, 1), "LPS", 9)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    transform = Compose([LoadVolumesd("image"), BrainToGridd("image", (20, 16, 24))])
    return transform, transform(write_case(tmp_path_factory.mktemp("case"), matrix=MATRIX))


@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
@pytest.mark.parametrize("orig_keys", ["mask", "image"])
def test_it_is_monai_s_inverse_whatever_holds_the_volume(kind, orig_keys, case):
    transform, data = case
    made = torch.rand(2, 20, 16, 24, generator=torch.Generator().manual_seed(0))
    expected = Invertd("pred", transform, orig_keys, nearest_interp=False)({**data, "pred": MetaTensor(made.clone())})
    found = ToNatived("pred", transform, orig_keys)({**data, "pred": kind(made.clone())})
    assert torch.equal(found["pred"].as_tensor(), expected["pred"].as_tensor())
    assert found["pred"].shape == (2, *SHAPE)
    np.testing.assert_allclose(found["pred"].affine, MATRIX, atol=1e-6)
    assert torch.equal(found["image"], data["image"])


def test_through_space_alone_values_stay_as_they_are(case):
    transform, data = case
    found = ToNatived("pred", transform)({**data, "pred": torch.full((1, 20, 16, 24), 0.75)})["pred"]
    torch.testing.assert_close(found[:, 13, 16, 11].as_tensor(), torch.tensor([0.75]))
    assert 0 <= found.min() <= found.max() <= 0.75 + 1e-6


def test_several_volumes_go_back_each_with_its_channels_and_missing_ones_where_they_may(case):
    transform, data = case
    data = {**data, "pred": torch.rand(1, 20, 16, 24), "mean": torch.rand(3, 20, 16, 24)}
    found = ToNatived(["pred", "mean"], transform)(data)
    assert [len(found[key]) for key in ("pred", "mean")] == [1, 3]
    found = ToNatived(["pred", "variance"], transform, allow_missing_keys=True)(data)
    assert found["pred"].shape == (1, *SHAPE)
    assert "variance" not in found
    with pytest.raises(KeyError, match="variance"):
        ToNatived(["pred", "variance"], transform)(data)
