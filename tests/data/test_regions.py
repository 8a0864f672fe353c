"""Labels become the regions that BraTS is evaluated on, with the label numbers of every collection."""

from __future__ import annotations

import pytest
import torch

from monai_idm.data import LabelToRegionsd, RegionsToLabeld
from monai_idm.data.regions import LABEL_MAPS, REGIONS


@pytest.mark.parametrize("label_map", LABEL_MAPS)
def test_a_region_is_the_union_of_its_tissues(label_map):
    tissues = LABEL_MAPS[label_map]
    label = torch.tensor([0, *tissues.values()]).reshape(1, -1, 1, 1)
    names = ["air", *tissues]
    available = [region for region, parts in REGIONS.items() if {*parts} & {*tissues}]
    regions = LabelToRegionsd(regions=available, label_map=label_map)({"label": label})["label"]
    assert regions.shape == (len(available), len(names), 1, 1)
    assert regions.dtype == torch.float32
    for region, channel in zip(available, regions, strict=True):
        assert [name for name, inside in zip(names, channel.flatten(), strict=True) if inside] == [
            name for name in names if name in REGIONS[region]
        ]


def test_a_label_of_another_map_is_refused():
    with pytest.raises(ValueError, match=r"labels \[3\] are not in the map 'brats2020'.* choose the label_map of your"):
        LabelToRegionsd()({"label": torch.tensor([0, 3]).reshape(1, 2, 1, 1)})
    with pytest.raises(ValueError, match="must have one channel"):
        LabelToRegionsd()({"label": torch.zeros(2, 3, 3, 3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": ("liver",)}, "choose regions from whole, core"),
        ({"regions": ()}, "choose regions from whole, core"),
        ({"label_map": "brats"}, "choose a map from brats2020, .*, or write the numbers out"),
        ({"regions": ("whole", "cavity")}, "has necrosis, oedema, enhancing, none of which belongs to cavity"),
        ({"label_map": {"liver": 1}}, "name different numbers for some of cavity, cyst"),
        ({"label_map": {"oedema": 1, "necrosis": 1}}, "name different numbers"),
        ({"label_map": {"oedema": 0}}, "integers above 0"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    for transform in (LabelToRegionsd, RegionsToLabeld):
        with pytest.raises(ValueError, match=message):
            transform(**arguments)


def test_a_map_of_ones_own_is_taken():
    label = torch.tensor([0, 7, 9]).reshape(1, 3, 1, 1)
    regions = LabelToRegionsd(regions=["whole", "enhancing"], label_map={"oedema": 7, "enhancing": 9})
    assert regions({"label": label})["label"].flatten().tolist() == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("offset", [-9e-4, 9e-4])
def test_labels_that_were_stored_as_floats_are_their_numbers(offset):
    label = torch.tensor([offset, 1 + offset, 4 - offset]).reshape(1, 3, 1, 1)
    assert LabelToRegionsd(regions=["enhancing"])({"label": label})["label"].flatten().tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"labels \[0.5\] are not in the map"):
        LabelToRegionsd()({"label": torch.tensor([0, 0.5]).reshape(1, 2, 1, 1)})


@pytest.mark.parametrize("label_map", LABEL_MAPS)
@pytest.mark.parametrize("regions", [("whole",), ("core", "whole"), ("enhancing", "core", "whole"), ("oedema", "core")])
def test_regions_become_a_label_that_gives_them_back(regions, label_map):
    if label_map == "lesion":
        regions = ("lesion",)
    numbers = {part: n for part, n in LABEL_MAPS[label_map].items() if part not in ("cavity", "cyst")}
    label = torch.tensor([0, *numbers.values()]).reshape(1, -1, 1, 1)
    arguments = {"regions": regions, "label_map": label_map}
    masks = LabelToRegionsd(**arguments)({"label": label})["label"]
    painted = RegionsToLabeld(**arguments)({"pred": masks})["pred"]
    assert painted.dtype == torch.uint8
    assert painted.shape == label.shape
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
