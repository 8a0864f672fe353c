r"""Regions of a brain that are hidden, for a network that learns to fill them with healthy tissue.

A blob is an ellipsoid with a rough surface: with half axes :math:`a_i`, a centre :math:`p` in the brain and smooth
noise :math:`\nu`,

.. math:: \sum_i \Big(\frac{x_i - p_i}{a_i}\Big)^2 < (1 + 0.3\, \nu(x))^2, \qquad 2 a_i \sim U(d_1, d_2)

A box has sides from the same range. A mirrored lesion is a real one on the other side of the same brain, where the
tissue is healthy but the shape is that of a lesion.

Source: healthy tissue in the shape of lesions, as in the BraTS challenge on local synthesis, Kofler et al. 2023,
arXiv:2305.08992.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn.functional import interpolate

from monai_idm.data.harmonic import harmonic_fill
from monai_idm.data.tracked import as_tensor
from monai_idm.noise import mixed_seed

__all__ = ["HOLE_KINDS", "HideHoled", "LabelToHoled", "RandHoled"]

HOLE_KINDS = ("blob", "box", "mirrored")
_ROUGHNESS = 0.3  # of a blob's surface, relative to its half axes
_KNOTS_MM = 10.0  # distance of the independent values of its noise
_TRACE = 1e-3  # share of a voxel from which on it counts as lesion


class RandHoled(Randomizable, Transform):
    """Draw a hole in the brain of an item, or several: ``data["hole"]``, ``(1, *spatial)``, 1 inside.

    They lie in the brain, ``data["mask"]``, and outside lesions, ``data["label"]``, if the item has one: what is hidden
    is healthy.

    Args:
        kinds: Some of ``"blob"``, ``"box"`` and ``"mirrored"``, chosen with equal probability. A case without a lesion,
            or with one whose mirror image is not in healthy brain, gets a blob instead of a mirrored lesion.
        diameter_mm: Smallest and largest extent of blobs and boxes along an axis.
        seed: Seed with which a case, known by its ``subject``, has the same hole always; None: a new one each time.
        max_holes: Largest number of holes. How many there are is random, from 1 to this number, but no more than hide
            half of the brain.
    Raises:
        ValueError: If a kind is unknown, the extents are not two lengths in order, or the number is below 1; when
            called, if the image is no MetaTensor, which knows its voxels' size, or no healthy brain is left.
    """

    def __init__(
        self,
        kinds: Sequence[str] = ("blob", "box"),
        diameter_mm: Sequence[float] = (20.0, 40.0),
        seed: int | None = None,
        max_holes: int = 1,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in HOLE_KINDS]
        if unknown or not kinds or isinstance(kinds, str):
            raise ValueError(f"hole_kinds={kinds!r}; choose some of {', '.join(HOLE_KINDS)}")
        if len(diameter_mm) != 2 or not 0 < diameter_mm[0] <= diameter_mm[1]:
            raise ValueError(
                f"hole_diameter_mm={list(diameter_mm)}; give the smallest and the largest extent, such as [20, 40]"
            )
        if isinstance(max_holes, bool) or not isinstance(max_holes, int) or max_holes < 1:
            raise ValueError(f"max_holes={max_holes!r}; give the largest number of holes in a volume, 1 or more")
        self.kinds = tuple(kinds)
        self.diameter_mm = diameter_mm[0], diameter_mm[1]
        self.seed = seed
        self.max_holes = max_holes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, brain = d["image"], as_tensor(d["mask"])[0] > 0.5
        if not isinstance(image, MetaTensor):
            raise ValueError(
                f"'image' is a {type(image).__name__}, which does not know the size of its voxels, and holes have a "
                "size in mm; draw them before EnsureTyped drops the metadata"
            )
        lesion = as_tensor(d["label"]).amax(0) > _TRACE if "label" in d else torch.zeros_like(brain)
        healthy = (brain & ~lesion).as_subclass(Tensor)
        if not healthy.any():
            name = d.get("subject", "a case")
            raise ValueError(f"{name} has no healthy brain to hide; is its label the brain itself?")
        if self.seed is not None:
            self.set_random_state(mixed_seed(self.seed, "hole", str(d.get("subject", ""))))
        spacing = affine_to_spacing(image.affine).cpu().numpy()
        hole = self._one(lesion, healthy, spacing)
        for _ in range(self.R.randint(self.max_holes)):
            more = hole | self._one(lesion, healthy, spacing)
            if 2 * more.sum() > brain.sum():
                break
            hole = more
        d["hole"] = convert_to_dst_type(hole[None], image, dtype=torch.float32)[0]
        return d

    def randomize(self, data: Any = None) -> None:
        """Draw the kind of a hole."""
        self._kind = self.kinds[self.R.randint(len(self.kinds))]

    def _one(self, lesion: Tensor, healthy: Tensor, spacing: np.ndarray) -> Tensor:
        self.randomize()
        hole = self._mirrored(lesion, healthy) if self._kind == "mirrored" else None
        return self._drawn(healthy, spacing, box=self._kind == "box") if hole is None else hole

    def _mirrored(self, lesion: Tensor, healthy: Tensor) -> Tensor | None:
        hole = lesion.as_subclass(Tensor).flip(0) & healthy
        return hole if hole.any() else None

    def _drawn(self, healthy: Tensor, spacing: np.ndarray, box: bool) -> Tensor:
        places = healthy.nonzero()
        centre = places[self.R.randint(len(places))]
        smallest, largest = self.diameter_mm
        half = torch.tensor(self.R.uniform(smallest, largest, 3) / spacing / 2, dtype=torch.float32)
        axes = [(torch.arange(n) - c).abs() / a for n, c, a in zip(healthy.shape, centre, half, strict=True)]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        if box:
            inside = torch.maximum(torch.maximum(x, y), z) <= 1
        else:
            knots = [max(2, round(n * mm / _KNOTS_MM)) for n, mm in zip(healthy.shape, spacing, strict=True)]
            rough = torch.from_numpy(self.R.normal(size=(1, 1, *knots))).float()
            rough = interpolate(rough, tuple(healthy.shape), mode="trilinear", align_corners=True)[0, 0].clamp(-2, 2)
            inside = (x.square() + y.square() + z.square()).sqrt() <= 1 + _ROUGHNESS * rough
        return inside & healthy


class LabelToHoled(MapTransform):
    """Turn a label into the mask of what is to be replaced: 1 inside, 0 elsewhere.

    Args:
        keys: Keys of the labels, ``(1, *spatial)``.
        labels: Numbers of the parts to replace; None: every number above 0.
        allow_missing_keys: Whether to skip keys that an item lacks.
    Raises:
        ValueError: If there are no numbers, or one of them is not above 0.
    """

    def __init__(
        self, keys: KeysCollection, labels: Sequence[int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if labels is not None and (isinstance(labels, str) or not labels or min(labels) <= 0):
            raise ValueError(f"hole_labels={labels!r}; give numbers above 0, such as [1, 4], or null for all of them")
        self.labels = None if labels is None else tuple(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            label = as_tensor(d[key])
            numbers = label.round()
            chosen = numbers > 0 if self.labels is None else torch.isin(numbers, numbers.new_tensor(self.labels))
            d[key] = convert_to_dst_type(chosen, label, dtype=torch.float32)[0]
        return d


class HideHoled(MapTransform):
    """Hide the hole of an item, and append it as a channel: ``(C, *spatial)`` becomes ``(C + 1, *spatial)``.

    Inside, the volume is the smooth fill (:func:`~monai_idm.data.harmonic_fill`); ``target`` keeps the original one.

    Args:
        keys: Keys of the volumes.
        hole_key: Key of the hole, ``(1, *spatial)``, above 0 inside.
        mask_key: Key of the brain mask, ``(1, *spatial)``.
    Raises:
        ValueError: When called, if shapes differ, or the hole covers nothing or all of the brain.
    """

    def __init__(self, keys: KeysCollection, hole_key: str = "hole", mask_key: str = "mask") -> None:
        super().__init__(keys)
        self.hole_key = hole_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        hole = as_tensor(d[self.hole_key]).as_subclass(Tensor) > _TRACE
        brain = as_tensor(d[self.mask_key]).as_subclass(Tensor) > 0.5
        for key in self.key_iterator(d):
            volume = as_tensor(d[key])
            if hole.shape != (1, *volume.shape[1:]):
                raise ValueError(
                    f"the hole has the shape {tuple(hole.shape)}, '{key}' {tuple(volume.shape)}; the hole must be "
                    "(1, X, Y, Z) on the volume's grid: resample it onto the volume"
                )
            _require_part(str(d.get("subject", "the case")), hole, brain)
            d["target"] = volume
            d[key] = convert_to_dst_type(torch.cat([harmonic_fill(volume, hole), hole.cpu()]), volume)[0]
        return d


class FillHoled(MapTransform):
    """Keep of a volume what is in the hole; around it, put the voxels of another volume, to the bit.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``.
        around_key: Key of the volume around the hole, ``(C, *spatial)``.
        hole_key: Key of the hole, ``(1, *spatial)``, above 0 inside.
    Raises:
        ValueError: When called, if shapes differ.
    """

    def __init__(self, keys: KeysCollection, around_key: str, hole_key: str = "hole") -> None:
        super().__init__(keys)
        self.around_key = around_key
        self.hole_key = hole_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        hole, around = (as_tensor(d[key]).as_subclass(Tensor).cpu() for key in (self.hole_key, self.around_key))
        for key in self.key_iterator(d):
            volume = as_tensor(d[key])
            if not (volume.shape == around.shape and hole.shape == (1, *around.shape[1:])):
                raise ValueError(
                    f"'{key}' has the shape {tuple(volume.shape)}, '{self.around_key}' {tuple(around.shape)} and the "
                    f"hole {tuple(hole.shape)}; they must be (C, X, Y, Z), the same, and (1, X, Y, Z): put ToNatived "
                    "before"
                )
            filled = torch.where(hole > 0, volume.as_subclass(Tensor).cpu().to(around.dtype), around)
            d[key] = convert_to_dst_type(filled, volume, dtype=around.dtype)[0]
        return d


def _require_part(name: str, hole: Tensor, brain: Tensor) -> None:
    if not hole.any():
        raise ValueError(f"the mask of {name} marks nothing; mark the voxels that are to be replaced")
    if not (brain & ~hole).any():
        raise ValueError(
            f"the mask of {name} covers the whole brain, and nothing is left to continue from; to make a brain from "
            "noise, use inference.yaml"
        )
