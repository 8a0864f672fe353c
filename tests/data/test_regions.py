"""Labels become the regions that BraTS is judged by, in every collection's numbers."""

from __future__ import annotations

import pytest
import torch

from monai_idm.data import LabelToRegionsd
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
