"""Labels become the regions that BraTS is judged by, in every collection's numbers."""

from __future__ import annotations

import pytest
import torch

from monai_idm.data import LabelToRegionsd, RegionsToLabeld
from monai_idm.data.regions import LABEL_MAPS, REGIONS


@pytest.mark.parametrize("label_map", LABEL_MAPS)
def test_a_region_is_the_union_of_its_tissues(label_map):
    tissues = LABEL_MAPS[label_map]
    label = torch.tensor([0, *tissues.values()]).reshape(1, 4, 1, 1)
    names = ["air", *tissues]
    regions = LabelToRegionsd(regions=tuple(REGIONS), label_map=label_map)({"label": label})["label"]
    assert regions.shape == (len(REGIONS), 4, 1, 1)
    assert regions.dtype == torch.float32
    for region, channel in zip(REGIONS, regions, strict=True):
        assert [name for name, inside in zip(names, channel.flatten(), strict=True) if inside] == [
            name for name in names if name in REGIONS[region]
        ]


def test_a_label_of_another_map_is_refused():
    with pytest.raises(ValueError, match=r"labels \[3\] are not in the map 'brats2020'.* choose the map of your data"):
        LabelToRegionsd()({"label": torch.tensor([0, 3]).reshape(1, 2, 1, 1)})
    with pytest.raises(ValueError, match="must have one channel"):
        LabelToRegionsd()({"label": torch.zeros(2, 3, 3, 3)})


@pytest.mark.parametrize("arguments", [{"regions": ("liver",)}, {"regions": ()}, {"label_map": "brats"}])
def test_unknown_names_are_refused(arguments):
    with pytest.raises(ValueError, match="choose regions from whole, core"):
        LabelToRegionsd(**arguments)


@pytest.mark.parametrize("label_map", LABEL_MAPS)
@pytest.mark.parametrize("regions", [("whole",), ("core", "whole"), ("enhancing", "core", "whole"), ("oedema", "core")])
def test_regions_become_a_label_that_gives_them_back(regions, label_map):
    label = torch.tensor([0, *LABEL_MAPS[label_map].values()]).reshape(1, 4, 1, 1)
    arguments = {"regions": regions, "label_map": label_map}
    masks = LabelToRegionsd(**arguments)({"label": label})["label"]
    painted = RegionsToLabeld(**arguments)({"pred": masks})["pred"]
    assert painted.dtype == torch.uint8
    assert painted.shape == (1, 4, 1, 1)
    assert torch.equal(LabelToRegionsd(**arguments)({"label": painted})["label"], masks)
    if len(regions) == 3:
        assert torch.equal(painted.long(), label)


def test_the_smaller_region_is_painted_over_the_larger_also_where_it_sticks_out():
    masks = torch.tensor([[1.0, 1, 0], [0, 1, 1]]).reshape(2, 3, 1, 1)
    painted = RegionsToLabeld(regions=("whole", "enhancing"))({"pred": masks})["pred"]
    assert painted.flatten().tolist() == [2, 4, 4]


def test_masks_of_other_regions_are_refused():
    with pytest.raises(
        ValueError, match=r"'pred' has the shape \(2, 3, 3, 3\); it must have a channel for each .* whole"
    ):
        RegionsToLabeld()({"pred": torch.zeros(2, 3, 3, 3)})
    with pytest.raises(ValueError, match="choose regions from whole, core"):
        RegionsToLabeld(regions=("tumour",))
