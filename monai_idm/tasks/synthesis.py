r"""Synthesis of missing contrasts: the network sees known contrasts clean, in place of their noisy versions.

.. math:: \mathrm{pack}(x_t, [i, m]) = m \odot i + (1 - m) \odot x_t, \qquad w = 1 - m

The network has one channel for each of the M contrasts, and :math:`m = 1` marks the known ones :math:`i`. A class label
encodes which contrasts are known, one class for each of the :math:`2^M` selections. So any contrast may be missing, and
the network has the same channels as one that generates all contrasts.

Source: generation around known parts, as in the inpainting of Saharia et al. 2022, arXiv:2111.05826.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.networks.schedulers.scheduler import Scheduler
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_idm.data.modalities import title_of
from monai_idm.data.tracked import as_tensor
from monai_idm.tasks.drawing import DrawingInferer
from monai_idm.tasks.task import Task

__all__ = ["ChooseKnownd", "DiffusionSynthesisInferer", "Synthesis"]


class Synthesis(Task):
    """Draw the contrasts that were not scanned under the condition of those that were.

    The ``target`` of a batch holds all contrasts, and its ``image`` the known contrasts followed by the masks that mark
    them, as prepared by :class:`ChooseKnownd`.

    Args:
        modalities: Names of the contrasts.
        known: Names of the known contrasts; None: any selection, at least one and never all.
        regression: Whether the missing contrasts are predicted in one pass, without noise.
    """

    name = "synthesis"
    title = "BraTS MRI synthesis of missing contrasts by invertible diffusion"
    description = (
        "Makes the MRI contrasts of a brain that were not scanned from those that were, by a reversible diffusion model"
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1", "t2"],
        "known": ["t1"],
        "regression": False,
        "prediction_type": "sample",
    }

    def __init__(self, modalities: Sequence[str], known: Sequence[str] | None = None, regression: bool = False) -> None:
        self.modalities = list(modalities)
        self.known = None if known is None else list(known)
        self.regression = regression

    @property
    def inputs(self) -> list[str]:
        return [f"{name}, noisy where not known" for name in self.drawn]

    @property
    def drawn(self) -> list[str]:
        return [title_of(name) for name in self.modalities]

    @property
    def num_classes(self) -> int:
        return 2 ** len(self.modalities)

    @classmethod
    def accepts(cls, setting: str, trained: Any, given: Any) -> bool:
        return (setting == "known" and trained is None) or super().accepts(setting, trained, given)

    def made(self, known: Sequence[str]) -> list[str]:
        """Names of the contrasts that are synthesised from the known ones."""
        return [name for name in self.modalities if name not in known]

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["target"]

    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]

    def pack(self, x_t: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        images, known = self._parts(condition)
        bits = known.flatten(2).amax(2) > 0.5  # amax: the mask is 0 in the padding of a sliding window
        classes = (bits * 2 ** torch.arange(bits.shape[1], device=bits.device)).sum(1)
        return {"x": torch.where(known > 0.5, images, x_t), "class_labels": classes}

    def weight(self, condition: Tensor | None) -> Tensor:
        return 1 - self._parts(condition)[1]

    def finished(self, draws: Tensor, condition: Tensor) -> Tensor:
        """All contrasts, the known ones as they were given."""
        images, known = self._parts(condition)
        return torch.where(known[:, None] > 0.5, images[:, None], draws)

    def _parts(self, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        expected = 2 * len(self.modalities)
        if condition is None or condition.shape[1] != expected:
            raise ValueError(
                f"a condition of shape {None if condition is None else tuple(condition.shape)} for "
                f"{len(self.modalities)} contrasts; it must have {expected} channels, the contrasts and which are "
                "known: use ChooseKnownd"
            )
        images, known = condition.chunk(2, 1)
        return images, known


class DiffusionSynthesisInferer(DrawingInferer):
    """``(contrasts and masks, network) -> contrasts``: a :class:`DrawingInferer` for M contrasts, without a task.

    The mean of several draws has a smaller error, but also less texture, than a single draw.

    Args:
        scheduler: Scheduler to sample with, at the timesteps that are set in it.
        num_contrasts: Number of contrasts M, which are the channels of the network.
        kwargs: ``num_draws``, ``window`` and ``seed`` of DrawingInferer.
    Raises:
        ValueError: As in DrawingInferer; when called, if the input does not have 2 M channels.
    """

    def __init__(self, scheduler: Scheduler, num_contrasts: int, **kwargs: Any) -> None:
        super().__init__(scheduler, Synthesis([f"contrast {i}" for i in range(num_contrasts)]), **kwargs)


class ChooseKnownd(Randomizable, MapTransform):
    """Keep some contrasts of a volume, hide the others, and add masks that mark which are known.

    The volume becomes ``(2 M, *spatial)``: the M contrasts, 0 where hidden, then M masks, 1 for known contrasts. The
    original volume is kept as ``target`` if it has all M contrasts.

    Args:
        keys: Keys of the volumes, ``(M, *spatial)``.
        modalities: Names of the M contrasts.
        known: Names of the contrasts to keep; None: a new random selection each time, at least one and never all.
        loaded: Names of the contrasts that the volumes contain, if some unknown ones are missing; None: all.
    Raises:
        ValueError: If no contrast or every contrast is known, or a known one is not loaded; when called, if a volume
            does not have one channel for each loaded contrast.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modalities: Sequence[str],
        known: Sequence[str] | None = None,
        loaded: Sequence[str] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.modalities = tuple(modalities)
        self.known = None if known is None else tuple(known)
        self.loaded = self.modalities if loaded is None else tuple(loaded)
        chosen = self.modalities[:1] if self.known is None else self.known
        if not chosen or not {*chosen} < {*self.modalities} or not {*chosen} <= {*self.loaded} <= {*self.modalities}:
            raise ValueError(
                f"known contrasts {self.known} of {self.modalities}, {self.loaded} of them loaded; what is known must "
                "be loaded, and something must be left to synthesise: name at least one contrast, and not all"
            )
        self._number = 1

    def randomize(self, data: Any = None) -> None:
        """Draw which contrasts are known: the bits of a number, neither all 0 nor all 1."""
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
                d["target"] = volume
            d[key] = convert_to_dst_type(images, volume)[0]
        return d
