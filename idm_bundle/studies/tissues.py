"""A small network that segments tissues, alike in real and in generated brains.

It is MONAI's SegResNet, trained on the machine-made labels beside the images (DLMUSE, merged to tissues). Volumes of
regions are compared by its labels, and sets of brains by its features: the means of its deepest feature maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset, pad_list_data_collate
from monai.losses import DiceCELoss
from monai.metrics import DiceHelper
from monai.networks.nets import SegResNet
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    SelectItemsd,
)
from monai.utils import set_determinism
from torch import Tensor

from monai_idm.data import BrainToGridd, LoadLabeld, LoadVolumesd

__all__ = ["STEPS", "TISSUES", "dice", "features", "segment", "segmenter"]

STEPS = 1000
"""Steps of its training."""
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


@torch.no_grad()
def dice(network: SegResNet, items: Sequence[Mapping[str, Any]], side: int, key: str = "image") -> dict[str, float]:
    """Mean Dice of each tissue, of the segmented volumes with the labels.

    Args:
        network: The network of :func:`segmenter`.
        items: Items with an ``image`` that has a file ``*_dlmuse.nii.gz`` beside it.
        side: Voxels per axis.
        key: Key of the volumes, if others than the images shall be segmented; they are brought onto the grid alike.
    """
    helper = DiceHelper(include_background=False, apply_argmax=True, reduction="none", num_classes=1 + len(TISSUES))
    dataset = Dataset(_labelled(items), Compose(_preprocessing(side, dict.fromkeys(["image", key]))))
    found = [
        helper(network(item[key][None]), item["label"][None])[0]
        for item in map(dataset.__getitem__, range(len(dataset)))
    ]
    return dict(zip(TISSUES, torch.cat(found).nanmean(0).tolist(), strict=True))


def _preprocessing(side: int, keys: Iterable[str]) -> list[Any]:
    image, *others = keys
    return [
        LoadVolumesd(image, modalities=["t1"]),
        # these may be noise, in which no brain can be found
        *([LoadImaged(others, ensure_channel_first=True)] if others else []),
        LoadLabeld("label"),
        Lambdad("label", _tissues),  # a channel each, since labels are interpolated
        BrainToGridd([image, *others], spatial_size=side, label_keys="label", network_range=(0.0, 1.0)),
        AsDiscreted("label", argmax=True, keepdim=True),
        SelectItemsd([image, *others, "label"]),
        EnsureTyped([image, *others, "label"], track_meta=False),
    ]


def _train(network: SegResNet, datalist: Mapping[str, Any], side: int, steps: int) -> dict[str, float]:
    # generated volumes are smoother or noisier than real ones, and must be segmented alike
    random = [
        RandFlipd(["image", "label"], 0.5, spatial_axis=0),
        RandAdjustContrastd("image", 0.5, gamma=(0.7, 1.4)),
        RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), (0.3, 1.0), prob=0.5),
        RandGaussianNoised("image", 0.5, std=0.05),
    ]
    transform = Compose([*_preprocessing(side, ["image"]), *random])
    dataset = CacheDataset(_labelled(datalist["training"]), transform, progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, drop_last=True, collate_fn=pad_list_data_collate)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        optimizer.zero_grad()
        loss(network(batch["image"]), batch["label"]).backward()
        optimizer.step()
        schedule.step()
    return dice(network.eval(), datalist["test"], side)


def _labelled(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "label": str(item["image"][0]).replace("_t1.", "_dlmuse.")} for item in items]


def _tissues(label: Tensor) -> Tensor:
    """A channel for the background and for each tissue, 0 or 1, of DLMUSE's numbers ``(1, *spatial)``."""
    tissues = torch.zeros_like(label, dtype=torch.uint8)
    for number, members in enumerate(TISSUES.values(), 1):
        tissues[torch.isin(label, torch.tensor([*members]))] = number
    return torch.cat([tissues == number for number in range(1 + len(TISSUES))]).float()
