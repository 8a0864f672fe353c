"""Loads the files of one case as one multi-channel volume with a brain mask.

The brain is where any channel differs from the air around it (``air.py``), above or below: interpolation leaves
voxels inside the brain that are darker than air.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_idm.data.air import find_brain, require_brain
from monai_idm.data.contrasts import require_contrast, stated_order
from monai_idm.data.nifti import read_volume, require_affine, require_finite
from monai_idm.data.tracked import as_tensor

__all__ = ["LoadVolumesd"]

_AFFINE_TOLERANCE = 1e-3  # mm, for every entry; headers of one case differ by rounding


class _Channel(NamedTuple):
    """One contrast of a case, ``(X, Y, Z)``, and its name in error messages."""

    name: str
    voxels: Tensor


class LoadVolumesd(MapTransform):
    """Load the NIfTI files of a case as one volume, one channel per modality, and its brain mask.

    ``data[key]`` is one of

    - a list of paths, one per channel: of 3D files, or of 4D files with the channel of each in ``data["channels"]``;
    - one path, whose channels are all loaded, or only those that ``data["channels"]`` lists;
    - a tensor that another tool has loaded, as MONAI Deploy does: ``(C, X, Y, Z)``, or ``(X, Y, Z)`` for one channel.

    It becomes a float32 MetaTensor ``(C, X, Y, Z)`` with the file's scaling applied and the metadata of the first
    file, as MONAI's ``LoadImaged`` and ``EnsureChannelFirstd`` would return it. ``data["mask"]`` becomes
    ``(1, X, Y, Z)``: 1 where a channel of the first key differs from air, 0 elsewhere.

    Args:
        keys: Keys of the paths.
        modalities: Names of the channels, in the order wanted. If given, file names must agree with them, and the
            channels of one 4D file are put in this order, which requires ``channel_order``, a ``dataset.json`` next to
            the file, or a file name of the Decathlon.
        channel_order: Names of the channels of one 4D file, or of a tensor, in the order in which they are stored.
        air: Value of air in every file; None: estimated from the border of each volume.
    Raises:
        FileNotFoundError: When called, if a file is missing.
        ValueError: When called, if a file is cut short or not NIfTI, is not 3D, holds NaN, Inf or only one value, has
            a singular affine, lacks a channel, or differs from the first in shape or affine; if a file name states
            another contrast, or the order of the channels is unknown; if brain and air cannot be told apart.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        modalities: Sequence[str] | None = None,
        channel_order: Sequence[str] | None = None,
        air: float | None = None,
    ) -> None:
        super().__init__(keys)
        self.modalities = None if modalities is None else tuple(modalities)
        self.channel_order = None if channel_order is None else tuple(channel_order)
        self.air = air

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        masks = {}
        for key in self.key_iterator(d):
            d[key], masks[key] = self._load_case(d[key], d.get("channels"))
        d["mask"] = masks[self.keys[0]]
        return d

    def _load_case(
        self, source: str | os.PathLike | Sequence[str] | np.ndarray | Tensor, indices: Sequence[int] | None
    ) -> tuple[MetaTensor, MetaTensor]:
        """The volume and its mask."""
        if isinstance(source, np.ndarray | Tensor):
            channels, meta = self._from_tensor(as_tensor(source))
        else:
            channels, meta = self._from_files(source, indices)
        brain = torch.zeros_like(channels[0].voxels, dtype=torch.bool)
        for name, voxels in channels:
            _check_intensities(name, voxels)
            brain |= find_brain(name, voxels, self.air)
        require_brain(channels[0].name, brain, refuse_box=self.air is None)
        image = MetaTensor(torch.stack([channel.voxels for channel in channels]), meta=meta)
        return image, MetaTensor(brain[None].to(image.dtype), meta=deepcopy(meta))

    def _from_files(
        self, source: str | os.PathLike | Sequence[str], indices: Sequence[int] | None
    ) -> tuple[list[_Channel], dict[str, Any]]:
        single = isinstance(source, str | os.PathLike)
        paths = [str(source)] if isinstance(source, str | os.PathLike) else [str(path) for path in source]
        if single and indices is not None:
            paths = paths * len(indices)
        if not paths or (indices is not None and len(indices) != len(paths)):
            raise ValueError(
                f"paths {paths} with channels {indices}; a case needs at least one path and, if it lists channels, "
                "one number per path: correct the datalist"
            )
        files = {path: read_volume(path) for path in dict.fromkeys(paths)}  # read a 4D file once, not per channel
        first = files[paths[0]]
        for path, volume in files.items():
            _check_same_grid(paths[0], first, path, volume)
        if indices is not None:
            channels = [_channel(path, files[path], i) for path, i in zip(paths, indices, strict=True)]
        elif single:
            channels = self._sort_channels(paths[0], first.as_tensor(), stated_order(paths[0]))
        else:
            channels = [_only_channel(path, files[path]) for path in paths]
            self._check_file_names(paths)
        return channels, first.meta

    def _from_tensor(self, tensor: Tensor) -> tuple[list[_Channel], dict[str, Any]]:
        volume = MetaTensor((tensor[None] if tensor.ndim == 3 else tensor).float())
        if volume.ndim != 4:
            raise ValueError(
                f"got a tensor of shape {tuple(tensor.shape)} instead of paths; it must be one volume, (X, Y, Z), or "
                "several channels, (C, X, Y, Z)"
            )
        require_affine("the input tensor", volume)
        file = volume.meta.get("filename_or_obj")
        # tools that pass a tensor follow the channel order in the bundle's metadata, unless its file states another
        order = (stated_order(file) if isinstance(file, str) else None) or self.modalities
        return self._sort_channels("the input tensor", volume.as_tensor(), order), volume.meta

    def _sort_channels(self, name: str, volume: Tensor, order: Sequence[str] | None) -> list[_Channel]:
        """The channels of one file or tensor in the order of ``modalities``."""
        channels = [_Channel(f"channel {i} of {name}" if len(volume) > 1 else name, v) for i, v in enumerate(volume)]
        if self.modalities is None:
            return channels
        wanted = ", ".join(self.modalities)
        if len(channels) == 1 == len(self.modalities):
            require_contrast(name, self.modalities[0])
            return channels
        order = self.channel_order or order
        if order is None:
            raise ValueError(
                f"{name} has {len(channels)} channels in unknown order, and the contrasts {wanted} are needed; give "
                f"the order, for example {_as_option('channel_order', self.modalities)}, or one file per contrast"
            )
        missing = [modality for modality in self.modalities if modality not in order]
        if missing or len(order) != len(channels):
            raise ValueError(
                f"{name} has {len(channels)} channels, but their order is given as {', '.join(order)}; the contrasts "
                f"needed are {wanted}: correct channel_order or dataset.json, or give one file per contrast"
            )
        return [channels[list(order).index(modality)] for modality in self.modalities]

    def _check_file_names(self, paths: Sequence[str]) -> None:
        if self.modalities is None:
            return
        if len(paths) != len(self.modalities):
            raise ValueError(
                f"{len(paths)} files, {', '.join(paths)}, for the contrasts {', '.join(self.modalities)}; give one "
                "file per contrast"
            )
        for path, modality in zip(paths, self.modalities, strict=True):
            require_contrast(path, modality)


def _as_option(name: str, values: Sequence[str]) -> str:
    return f'--{name} "{list(values)}"'


def _only_channel(path: str, volume: MetaTensor) -> _Channel:
    if len(volume) != 1:
        raise ValueError(
            f"{path} is 4D with {len(volume)} channels where a 3D file is needed: split the file, or give "
            '"channels": [...] in the datalist, one number per path'
        )
    return _Channel(path, volume.as_tensor()[0])


def _channel(path: str, volume: MetaTensor, index: int) -> _Channel:
    if not 0 <= index < len(volume):
        raise ValueError(
            f"channel {index} of {path} does not exist; the file has {len(volume)}, counted from 0: correct the "
            "datalist"
        )
    return _Channel(path if len(volume) == 1 else f"channel {index} of {path}", volume.as_tensor()[index])


def _check_same_grid(first_path: str, first: MetaTensor, path: str, volume: MetaTensor) -> None:
    way_out = "the volumes of a case must share one grid: co-register them, or resample one onto the other"
    if first.shape[1:] != volume.shape[1:]:
        raise ValueError(
            f"{first_path} has {tuple(first.shape[1:])} voxels, {path} has {tuple(volume.shape[1:])}; {way_out}"
        )
    if not np.allclose(first.affine, volume.affine, rtol=0, atol=_AFFINE_TOLERANCE):
        raise ValueError(
            f"the affines differ by more than {_AFFINE_TOLERANCE:g} mm: "
            f"{first_path} has {first.affine.tolist()}, {path} has {volume.affine.tolist()}; {way_out}"
        )


def _check_intensities(name: str, volume: Tensor) -> None:
    require_finite(name, volume)
    lowest, highest = volume.aminmax()
    if not highest > lowest:
        raise ValueError(
            f"{name} is {float(lowest):g} in every voxel; a volume must show a brain: convert it again, or leave "
            "the case out"
        )
