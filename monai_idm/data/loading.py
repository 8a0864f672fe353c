"""Reads the volumes of one case into one multi-channel tensor, and says where the brain is.

The brain is where any channel differs from 0, not where it exceeds 0: skull-stripped data are 0 outside, and
interpolation leaves negative voxels inside.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform
from monai.utils import convert_to_tensor

__all__ = ["LoadVolumesd"]

_COMPLEX = (32, 1792, 2048)  # NIfTI's numbers of such types
_AFFINE_TOLERANCE = 1e-3  # mm, on every entry; headers of one case differ by rounding


class LoadVolumesd(MapTransform):
    """Load the NIfTI files of a case as one volume, one channel per modality, and its brain mask.

    ``data[key]`` is a list of paths, one per channel: of 3D files, or of 4D files with ``data[channels_key]``
    saying which channel to take from each. Or it is one path, all of whose channels are taken, or those that
    ``data[channels_key]`` lists; or voxels that another tool has loaded, ``(C, X, Y, Z)`` or, of one channel,
    ``(X, Y, Z)``, as MONAI Deploy hands it over. It becomes a float32 MetaTensor ``(C, X, Y, Z)`` with the file's
    scaling applied and the meta data of the first file, as MONAI's ``LoadImaged`` and ``EnsureChannelFirstd``
    would give it. ``data[mask_key]`` becomes ``(1, X, Y, Z)``: 1 where a channel of the first key is not 0, else 0.

    Args:
        keys: Keys of the paths.
        mask_key: Key that receives the brain mask.
        channels_key: Key of the list of channels.
        allow_missing_keys: Pass over keys that an item lacks.
    Raises:
        FileNotFoundError: When called, if a file is missing.
        ValueError: When called, if a file is cut short or no NIfTI, is not 3D, holds NaN, Inf or nothing but
            zeros, has a singular affine, lacks a channel, or differs from the first in shape or affine.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_key: str = "mask",
        channels_key: str = "channels",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.channels_key = channels_key
        self._load = LoadImage(ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._case(d[key], d.get(self.channels_key))
        first = self.first_key(d)
        if first in d:
            d[self.mask_key] = _brain(d[first])
        return d

    def _case(
        self, given: str | os.PathLike | Sequence[str] | torch.Tensor | np.ndarray, channels: Sequence[int] | None
    ) -> MetaTensor:
        if isinstance(given, torch.Tensor | np.ndarray):
            return _loaded(convert_to_tensor(given, track_meta=isinstance(given, MetaTensor)))
        if isinstance(given, str | os.PathLike):
            paths = [str(given)] * (1 if channels is None else len(channels))
        else:
            paths = [str(path) for path in given]
        if not paths or (channels is not None and len(channels) != len(paths)):
            raise ValueError(
                f"paths {paths} with channels {channels}; a case needs at least one path, and where it gives "
                "channels, one number per path: correct the datalist"
            )
        files = {path: self._read(path) for path in dict.fromkeys(paths)}  # each file once, also a 4D one
        first = files[paths[0]]
        for path, volume in files.items():
            _check_same_grid(paths[0], first, path, volume)
        if channels is not None:
            picked = [_channel(path, files[path], i) for path, i in zip(paths, channels, strict=True)]
        elif isinstance(given, str | os.PathLike):
            picked = list(first.as_tensor())
            paths = paths * len(picked)
        else:
            picked = [_only_channel(path, files[path]) for path in paths]
        for path, channel in zip(paths, picked, strict=True):
            _check_values(path, channel)
        return MetaTensor(torch.stack(picked), meta=first.meta)

    def _read(self, path: str) -> MetaTensor:
        """One file as ``(N, X, Y, Z)``."""
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(
                f"{path} is missing; every file that the datalist names must be there: restore it, or "
                "prepare the datalist anew"
            )
        try:
            volume = self._load(path)
        except Exception as error:  # damaged files raise OSError, EOFError, zlib.error, nibabel's own ...
            raise ValueError(
                f"cannot read {path} as NIfTI ({type(error).__name__}: {error}); it must be a whole .nii or "
                ".nii.gz file: download or convert it again"
            ) from error
        if not isinstance(volume, MetaTensor):
            raise ValueError(
                f"{path} was loaded without its affine, which the voxels' size needs; LoadVolumesd works under "
                f"monai.data.set_track_meta(True): switch it on, and drop the metadata later (EnsureTyped)"
            )
        if int(volume.meta.get("datatype", 0)) in _COMPLEX:
            raise ValueError(f"{path} holds complex numbers, and intensities are real: convert it to its magnitude")
        if volume.ndim != 4:
            raise ValueError(
                f"{path} gives an array {tuple(volume.shape)}, channels first; it must be (C, X, Y, Z), from a 3D "
                "file, or a 4D one with its channels last: convert it"
            )
        _check_affine(path, volume)
        return volume


def _loaded(given: torch.Tensor) -> MetaTensor:
    volume = MetaTensor((given[None] if given.ndim == 3 else given).float())
    if volume.ndim != 4:
        raise ValueError(
            f"a tensor {tuple(given.shape)} instead of paths; it must be a volume, (X, Y, Z), or several, (C, X, Y, Z)"
        )
    _check_affine("the tensor given", volume)
    for number, channel in enumerate(volume.as_tensor()):
        _check_values(f"channel {number} of the tensor given", channel)
    return volume


def _check_affine(path: str, volume: MetaTensor) -> None:
    if not _invertible(volume.affine):
        raise ValueError(
            f"{path} has the affine {volume.affine.tolist()}, which has no inverse; it must map voxels "
            "to mm: repair the header"
        )


def _only_channel(path: str, volume: MetaTensor) -> torch.Tensor:
    if len(volume) != 1:
        raise ValueError(
            f"{path} is 4D with {len(volume)} channels where a 3D file is needed: split the file, or give "
            '"channels": [...] in the datalist, one number per path'
        )
    return volume.as_tensor()[0]


def _channel(path: str, volume: MetaTensor, index: int) -> torch.Tensor:
    if not 0 <= index < len(volume):
        raise ValueError(
            f"channel {index} asked of {path}, which has {len(volume)}, counted from 0: correct the datalist"
        )
    return volume.as_tensor()[index]


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


def _check_values(path: str, volume: torch.Tensor) -> None:
    broken = int((~torch.isfinite(volume)).sum())
    if broken:
        raise ValueError(
            f"{path} holds {broken} NaN or Inf voxels of {volume.numel()}; all must be finite numbers: "
            "repair the file, for instance with numpy.nan_to_num"
        )
    if not volume.any():
        raise ValueError(
            f"{path} is 0 in every voxel; a volume must show a brain: convert it again, or leave the case out"
        )


def _invertible(affine: torch.Tensor) -> bool:
    return bool(affine.isfinite().all()) and float(torch.linalg.det(affine[:3, :3])) != 0


def _brain(image: MetaTensor) -> MetaTensor:
    mask = (image.as_tensor() != 0).any(dim=0, keepdim=True).to(image.dtype)
    return MetaTensor(mask, meta=deepcopy(image.meta))
