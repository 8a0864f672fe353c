"""A small network that segments tissues, alike in real and in generated brains.

It is MONAI's SegResNet, trained on the machine-made labels beside the images (DLMUSE, merged to tissues). Volumes of
regions are compared by its labels, and sets of brains by its features: the means of its deepest feature maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, pad_list_data_collate
from monai.losses import DiceCELoss
from monai.metrics import DiceHelper
from monai.networks.nets import SegResNet
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureTyped,
    Lambdad,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    SelectItemsd,
)
from monai.utils import set_determinism
from torch import Tensor

from monai_idm.data import BrainToGridd, LoadLabeld, LoadVolumesd

__all__ = ["TISSUES", "features", "segment", "segmenter"]

# by the numbers of DLMUSE; 1 is fluid outside the brain, what is left is mostly brain stem
TISSUES: dict[str, Sequence[int]] = {
    "fluid": (1,),
    "ventricles": (4, 11, 46, 49, 50, 51, 52),
    "cerebellum": (38, 39, 40, 41, 71, 72, 73),
    "white matter": range(81, 96),
    "grey matter": (23, 30, 31, 32, 36, 37, 47, 48, 55, 56, 57, 58, 59, 60, 75, 76, *range(100, 208)),
    "rest": (35, 61, 62, 69),
}


def segmenter(datalist: Mapping[str, Any], side: int, steps: int, file: Path) -> tuple[SegResNet, dict[str, Any]]:
    """Train the network, or load the one that was trained before.

    Args:
        datalist: The split, whose items have an ``image`` with a file ``*_dlmuse.nii.gz`` beside it.
        side: Voxels per axis.
        steps: Steps of batch 2.
        file: File that keeps the weights and figures.
    Returns:
        The network, in evaluation mode, and its mean Dice of each tissue in the test cases.
    """
    set_determinism(0)
    network = SegResNet(3, init_filters=8, in_channels=1, out_channels=1 + len(TISSUES))
    if not file.is_file():
        dice = _train(network, datalist, side, steps)
        torch.save({"weights": network.state_dict(), "dice": dice}, file)
    kept = torch.load(file, weights_only=True)
    network.load_state_dict(kept["weights"])
    return network.eval(), kept["dice"]


@torch.no_grad()
def segment(network: SegResNet, volume: Tensor) -> Tensor:
    """The tissue of each voxel, numbered from 1 as in ``TISSUES``, 0 outside; of ``(1, *spatial)``, 0 to 1."""
    return network(volume[None])[0].argmax(0)


@torch.no_grad()
def features(network: SegResNet, volume: Tensor) -> Tensor:
    """The means of the deepest feature maps, ``(F,)``, of ``(1, *spatial)``, 0 to 1."""
    return network.encode(volume[None])[0].mean((0, 2, 3, 4))


def _train(network: SegResNet, datalist: Mapping[str, Any], side: int, steps: int) -> dict[str, float]:
    plain = [
        LoadVolumesd("image", modalities=["t1"]),
        LoadLabeld("label"),
        Lambdad("label", _tissues),  # a channel each, since labels are interpolated
        BrainToGridd("image", spatial_size=side, label_keys="label", network_range=(0.0, 1.0)),
        AsDiscreted("label", argmax=True, keepdim=True),
        SelectItemsd(["image", "label"]),
        EnsureTyped(["image", "label"], track_meta=False),
    ]
    # generated volumes are smoother or noisier than real ones, and must be segmented alike
    random = [
        RandFlipd(["image", "label"], 0.5, spatial_axis=0),
        RandAdjustContrastd("image", 0.5, gamma=(0.7, 1.4)),
        RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), (0.3, 1.0), prob=0.5),
        RandGaussianNoised("image", 0.5, std=0.05),
    ]
    dataset = CacheDataset(_labelled(datalist["training"]), Compose([*plain, *random]), progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, drop_last=True, collate_fn=pad_list_data_collate)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        optimizer.zero_grad()
        loss(network(batch["image"]), batch["label"]).backward()
        optimizer.step()
        schedule.step()
    network.eval()
    helper = DiceHelper(include_background=False, softmax=True, reduction="none", num_classes=1 + len(TISSUES))
    test = CacheDataset(_labelled(datalist["test"]), Compose(plain), progress=False)
    with torch.no_grad():
        items = [test[i] for i in range(len(test))]
        dice = torch.cat([helper(network(item["image"][None]), item["label"][None])[0] for item in items])
    return dict(zip(TISSUES, dice.nanmean(0).tolist(), strict=True))


def _labelled(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"image": item["image"], "label": str(item["image"][0]).replace("_t1.", "_dlmuse.")} for item in items]


def _tissues(label: Tensor) -> Tensor:
    """A channel for the background and for each tissue, 0 or 1, of DLMUSE's numbers ``(1, *spatial)``."""
    tissues = torch.zeros_like(label, dtype=torch.uint8)
    for number, members in enumerate(TISSUES.values(), 1):
        tissues[torch.isin(label, torch.tensor([*members]))] = number
    return torch.cat([tissues == number for number in range(1 + len(TISSUES))]).float()
