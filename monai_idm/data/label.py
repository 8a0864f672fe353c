"""Loads the label of a case, and refuses one that does not lie on the case's images."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_idm.data.displacement import displacement
from monai_idm.data.label_maps import ROUNDING
from monai_idm.data.nifti import read_volume, require_affine, require_finite
from monai_idm.data.tracked import as_tensor

__all__ = ["LoadLabeld"]

_MAX_DISPLACEMENT = 0.1  # voxels, between a label and its image
_MAX_OUTSIDE = 0.5  # fraction of the labelled voxels that may be in the air


class LoadLabeld(MapTransform):
    """Load a label file, ``(1, X, Y, Z)``, and compare it with the case's images and brain mask.

    These are ``data["image"]`` and ``data["mask"]``, as LoadVolumesd leaves them. The label's voxels may be in another
    order than theirs, if its header says so. Put this before transforms that reorient or crop.

    Args:
        keys: Keys of the paths, or of tensors that another tool has loaded.
    Raises:
        FileNotFoundError: When called, if a file is missing.
        KeyError: When called, if there is no label.
        ValueError: When called, if a file cannot be read, has several channels, holds other values than whole numbers
            from 0 on, is not in the place of the images, or marks more air than brain.
    """

    def __init__(self, keys: KeysCollection = "label") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.keys:
            if key not in d:
                raise KeyError(
                    f"{d.get('subject', 'the case')} has no '{key}'; it must be the path of a label file: put one "
                    "beside the images, or send it with MONAI Label's request"
                )
            name, label = _read(d[key])
            require_finite(name, label)
            _require_numbers(name, label)
            _require_same_place(name, label, d["image"])
            _require_in_brain(name, label, d["mask"])
            d[key] = label
        return d


def _read(source: str | os.PathLike | np.ndarray | Tensor) -> tuple[str, MetaTensor]:
    if isinstance(source, np.ndarray | Tensor):
        name, voxels = "the label given", as_tensor(source)
        label = MetaTensor((voxels[None] if voxels.ndim == 3 else voxels).float())
        require_affine(name, label)
    else:
        name, label = str(source), read_volume(str(source))
    if label.ndim != 4 or len(label) != 1:
        raise ValueError(f"{name} has the shape {tuple(label.shape)}; a label has one volume, (1, X, Y, Z)")
    return name, label


def _require_numbers(name: str, label: MetaTensor) -> None:
    """Refuse what is no label, such as probabilities, or a label that was resampled like an image."""
    values = label.as_tensor()
    strange = values[((values - values.round()).abs() > ROUNDING) | (values < -ROUNDING)]
    if len(strange):
        raise ValueError(
            f"{name} holds {len(strange)} voxels such as {float(strange[0]):.4g}; a label holds whole numbers, 0 or "
            "above: resample it with nearest neighbours, or set a threshold if it holds probabilities"
        )


def _require_same_place(name: str, label: MetaTensor, image: MetaTensor) -> None:
    sizes, affines = [tuple(x.shape[1:]) for x in (image, label)], [np.asarray(x.affine) for x in (image, label)]
    apart = displacement(sizes[0], affines[0], sizes[1], affines[1])
    if apart <= _MAX_DISPLACEMENT:
        return
    of = image.meta.get("filename_or_obj", "the image")
    by = f"{apart:.1f} voxels" if np.isfinite(apart) else "another grid"
    raise ValueError(
        f"{name} does not lie on {of} ({by} apart): it has {sizes[1]} voxels and the affine {affines[1].tolist()}, the "
        f"image {sizes[0]} and {affines[0].tolist()}; a label must mark the voxels of its image: resample it onto the "
        "image, or, if only its header is wrong, copy the image's header to it"
    )


def _require_in_brain(name: str, label: MetaTensor, mask: MetaTensor) -> None:
    """Refuse a label that is mostly in the air: it is another case's, or its voxels are not in its header's order."""
    marked = label.as_tensor()[0].nonzero().double()
    if not 0 < len(marked) < label.numel() / 2:  # nothing, or a background that is not 0, which no label map allows
        return
    to_mask = torch.linalg.inv(mask.affine.double()) @ label.affine.double()
    places = (marked @ to_mask[:3, :3].T + to_mask[:3, 3]).round().long()
    brain = mask.as_tensor()[0]
    places = torch.minimum(places.clamp(min=0), torch.tensor(brain.shape) - 1)
    outside = float((brain[tuple(places.T)] == 0).double().mean())
    if outside > _MAX_OUTSIDE:
        raise ValueError(
            f"{name} marks {len(marked)} voxels, {outside:.0%} of them in the air; a label must lie in the brain of "
            "its images: is it another case's, or are its voxels in another order than its header says?"
        )
