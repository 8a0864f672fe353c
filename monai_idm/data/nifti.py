"""Reads one NIfTI file and reports what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

__all__ = ["read_volume", "require_affine", "require_finite"]

_COMPLEX = (32, 1792, 2048)  # NIfTI's codes for complex types


def read_volume(path: str) -> MetaTensor:
    """Read one file as ``(N, X, Y, Z)``, float32, with its scaling applied.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is cut short, not NIfTI, complex, does not hold 3D volumes, or has a singular affine.
    """
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(
            f"{path} is missing; every file that the datalist names must exist: restore it, or "
            "prepare the datalist again"
        )
    try:
        volume = LoadImage(ensure_channel_first=True)(path)
    except Exception as error:  # damaged files raise OSError, EOFError, zlib.error, nibabel's own ...
        raise ValueError(
            f"cannot read {path} as NIfTI ({type(error).__name__}: {error}); it must be a complete .nii or "
            ".nii.gz file: download or convert it again"
        ) from error
    if not isinstance(volume, MetaTensor):
        raise ValueError(
            f"{path} was loaded without its affine, which defines the voxel size; call "
            "monai.data.set_track_meta(True) first, and drop the metadata later (EnsureTyped)"
        )
    if int(volume.meta.get("datatype", 0)) in _COMPLEX:
        raise ValueError(f"{path} holds complex numbers, but intensities must be real: convert it to magnitudes")
    if volume.ndim != 4:
        raise ValueError(
            f"{path} has the shape {tuple(volume.shape)}, channels first; it must be (C, X, Y, Z), from a 3D "
            "file, or from a 4D one with its channels last: convert it"
        )
    require_affine(path, volume)
    return volume


def require_affine(name: str, volume: MetaTensor) -> None:
    """Raise a ValueError if the map from voxels to mm has no inverse."""
    affine = volume.affine
    if not (affine.isfinite().all() and float(torch.linalg.det(affine[:3, :3])) != 0):
        raise ValueError(
            f"{name} has the affine {affine.tolist()}, which has no inverse; it must map voxels "
            "to mm: repair the header"
        )


def require_finite(name: str, volume: torch.Tensor) -> None:
    """Raise a ValueError if a voxel is NaN or infinite."""
    broken = int((~torch.isfinite(volume)).sum())
    if broken:
        raise ValueError(
            f"{name} holds {broken} NaN or Inf voxels out of {volume.numel()}; all must be finite: "
            "repair the file, for instance with numpy.nan_to_num"
        )
