"""Which contrasts of a case are known, and which shall be synthesised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type

from monai_idm.data.tracked import as_tensor

__all__ = ["ChooseKnownd"]


class ChooseKnownd(Randomizable, MapTransform):
    """Keep some contrasts of a volume, hide the others, and say which are which.

    The volume becomes ``(2 M, *spatial)``: the contrasts, 0 where hidden, and M channels of 1 where known; as it was,
    it is kept under another key.

    Args:
        keys: Keys of the volumes, ``(M, *spatial)``.
        modalities: Names of the channels.
        known: Names of those that are kept; None: other ones every time, at least one and never all.
        loaded: Names of the channels that the volumes have, where they lack some that are not known.
        target_key: Key that receives the volume as it was, where it has all channels.
        allow_missing_keys: Pass over items that lack the volume.
    Raises:
        ValueError: If names do not fit; when called, if the channels are not the ones named.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modalities: Sequence[str],
        known: Sequence[str] | None = None,
        loaded: Sequence[str] | None = None,
        target_key: str = "target",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.modalities = tuple(modalities)
        self.known = None if known is None else tuple(known)
        self.loaded = self.modalities if loaded is None else tuple(loaded)
        self.target_key = target_key
        chosen = self.modalities[:1] if self.known is None else self.known
        if not chosen or not {*chosen} < {*self.modalities} or not {*chosen} <= {*self.loaded} <= {*self.modalities}:
            raise ValueError(
                f"known contrasts {self.known} of {self.modalities}, {self.loaded} of them loaded; what is known must "
                "be loaded, and something must be left to synthesise: name at least one contrast, and not all"
            )
        self._number = 1

    def randomize(self, data: Any = None) -> None:
        """Draw which contrasts are known: the bits of a number that are neither all 0 nor all 1."""
        self._number = int(self.R.randint(1, 2 ** len(self.modalities) - 1))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            volume = as_tensor(d[key])
            if len(volume) != len(self.loaded):
                raise ValueError(
                    f"'{key}' has the shape {tuple(volume.shape)}; it must have a channel for each of "
                    f"{', '.join(self.loaded)}"
                )
            if self.known is None:
                self.randomize()
            images = volume.new_zeros((2 * len(self.modalities), *volume.shape[1:]))
            for number, name in enumerate(self.modalities):
                if name in self.known if self.known is not None else self._number >> number & 1:
                    images[number] = volume[self.loaded.index(name)]
                    images[len(self.modalities) + number] = 1
            if self.loaded == self.modalities:
                d[self.target_key] = volume
            d[key] = convert_to_dst_type(images, volume)[0]
        return d
