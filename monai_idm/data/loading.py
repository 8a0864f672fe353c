"""Reads the volumes of one case into one multi-channel tensor, and says where the brain is.

The brain is where any channel differs from the air around it (``air.py``), not where it exceeds it:
interpolation leaves voxels below the air inside.
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

_AFFINE_TOLERANCE = 1e-3  # mm, on every entry; headers of one case differ by rounding


class _Channel(NamedTuple):
    """One contrast of a case, ``(X, Y, Z)``, and what to call it in errors."""

    name: str
    voxels: Tensor


class LoadVolumesd(MapTransform):
    """Load the NIfTI files of a case as one volume, one channel per modality, and its brain mask.

    ``data[key]`` is a list of paths, one per channel: of 3D files, or of 4D files with ``data["channels"]``
    saying which channel to take from each. Or it is one path, all of whose channels are taken, or those that
    ``data["channels"]`` lists; or a tensor that another tool has loaded, ``(C, X, Y, Z)`` or, of one channel,
    ``(X, Y, Z)``, as MONAI Deploy hands it over. It becomes a float32 MetaTensor ``(C, X, Y, Z)`` with the file's
    scaling applied and the meta data of the first file, as MONAI's ``LoadImaged`` and ``EnsureChannelFirstd``
    would give it. ``data["mask"]`` becomes ``(1, X, Y, Z)``: 1 where a channel of the first key is not air, else 0.

    Args:
        keys: Keys of the paths.
        modalities: Names of the channels wanted. With them, names of files have to agree, and one 4D file is put in
            their order: by ``channel_order``, by a ``dataset.json`` beside it, or by the Decathlon's file names.
        channel_order: Names of the channels of one 4D file, or of a tensor, as they come.
        air: Value of the air in every file; None: found for each volume at its border.
    Raises:
        FileNotFoundError: When called, if a file is missing.
        ValueError: When called, if a file is cut short or no NIfTI, is not 3D, holds NaN, Inf or one value only, has a
            singular affine, lacks a channel, or differs from the first in shape or affine; if a name says another
            contrast, or nothing says the order of a 4D file; if there is no telling brain from air.
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
            d[key], masks[key] = self._case(d[key], d.get("channels"))
        d["mask"] = masks[self.keys[0]]
        return d

    def _case(
        self, given: str | os.PathLike | Sequence[str] | np.ndarray | Tensor, numbers: Sequence[int] | None
    ) -> tuple[MetaTensor, MetaTensor]:
        """The volume and its mask."""
        if isinstance(given, np.ndarray | Tensor):
            channels, meta = self._of_tensor(as_tensor(given))
        else:
            channels, meta = self._of_files(given, numbers)
        brain = torch.zeros_like(channels[0].voxels, dtype=torch.bool)
        for name, voxels in channels:
            _require_contrast_in(name, voxels)
            brain |= find_brain(name, voxels, self.air)
        require_brain(channels[0].name, brain, judged=self.air is None)
        image = MetaTensor(torch.stack([channel.voxels for channel in channels]), meta=meta)
        return image, MetaTensor(brain[None].to(image.dtype), meta=deepcopy(meta))

    def _of_files(
        self, given: str | os.PathLike | Sequence[str], numbers: Sequence[int] | None
    ) -> tuple[list[_Channel], dict[str, Any]]:
        single = isinstance(given, str | os.PathLike)
        paths = [str(given)] if isinstance(given, str | os.PathLike) else [str(path) for path in given]
        if single and numbers is not None:
            paths = paths * len(numbers)
        if not paths or (numbers is not None and len(numbers) != len(paths)):
            raise ValueError(
                f"paths {paths} with channels {numbers}; a case needs at least one path, and where it gives "
                "channels, one number per path: correct the datalist"
            )
        files = {path: read_volume(path) for path in dict.fromkeys(paths)}  # each file once, also a 4D one
        first = files[paths[0]]
        for path, volume in files.items():
            _check_same_grid(paths[0], first, path, volume)
        if numbers is not None:
            picked = [_channel(path, files[path], i) for path, i in zip(paths, numbers, strict=True)]
        elif single:
            picked = self._in_order(paths[0], first.as_tensor(), stated_order(paths[0]))
        else:
            picked = [_only_channel(path, files[path]) for path in paths]
            self._require_names(paths)
        return picked, first.meta

    def _of_tensor(self, given: Tensor) -> tuple[list[_Channel], dict[str, Any]]:
        volume = MetaTensor((given[None] if given.ndim == 3 else given).float())
        if volume.ndim != 4:
            raise ValueError(
                f"a tensor {tuple(given.shape)} instead of paths; it must be a volume, (X, Y, Z), or several, "
                "(C, X, Y, Z)"
            )
        require_affine("the tensor given", volume)
        file = volume.meta.get("filename_or_obj")
        # who hands over a tensor has read the order of its channels in the bundle's metadata, unless its file says more
        order = (stated_order(file) if isinstance(file, str) else None) or self.modalities
        return self._in_order("the tensor given", volume.as_tensor(), order), volume.meta

    def _in_order(self, name: str, volume: Tensor, order: Sequence[str] | None) -> list[_Channel]:
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
                f"{name} holds {len(channels)} channels, and nothing says which contrasts they are ({wanted} are "
                f"wanted); give their order, as {_as_option('channel_order', self.modalities)}, or one file for each"
            )
        missing = [modality for modality in self.modalities if modality not in order]
        if missing or len(order) != len(channels):
            raise ValueError(
                f"{name} holds {len(channels)} channels, and their order is said to be {', '.join(order)}; wanted are "
                f"{wanted}: correct channel_order or dataset.json, or give one file for each contrast"
            )
        return [channels[list(order).index(modality)] for modality in self.modalities]

    def _require_names(self, paths: Sequence[str]) -> None:
        if self.modalities is None:
            return
        if len(paths) != len(self.modalities):
            raise ValueError(
                f"{len(paths)} files, {', '.join(paths)}, for the contrasts {', '.join(self.modalities)}; give one "
                "for each"
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
            f"channel {index} asked of {path}, which has {len(volume)}, counted from 0: correct the datalist"
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


def _require_contrast_in(name: str, volume: Tensor) -> None:
    require_finite(name, volume)
    lowest, highest = volume.aminmax()
    if not highest > lowest:
        raise ValueError(
            f"{name} is {float(lowest):g} in every voxel; a volume must show a brain: convert it again, or leave "
            "the case out"
        )
