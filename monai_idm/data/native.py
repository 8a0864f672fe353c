"""Maps network output from the network's grid back to the grid of the input files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import EnsureTyped, Invertd, MapTransform

__all__ = ["ToNatived"]


class ToNatived(MapTransform):
    """MONAI's ``Invertd`` for volumes that a network has produced; they become MetaTensors.

    Args:
        keys: Keys of the volumes, ``(C, X, Y, Z)``.
        transform: Preprocessing of the input; its inverse is applied.
        orig_keys: Key of the preprocessed volume: ``"mask"`` inverts the spatial transforms only, ``"image"`` also
            the scaling of the intensities.
        allow_missing_keys: Skip keys that an item lacks, as in MONAI Label and Deploy, which only need ``pred``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Callable[..., Any],
        orig_keys: KeysCollection = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.steps = [
            EnsureTyped(self.keys, allow_missing_keys=allow_missing_keys),  # Invertd skips plain tensors
            Invertd(self.keys, transform, orig_keys, nearest_interp=False, allow_missing_keys=allow_missing_keys),  # type: ignore[arg-type]
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for step in self.steps:
            d = step(d)
        return d
