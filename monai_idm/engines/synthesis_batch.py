"""What a training step of synthesis draws: contrasts are noised, and known ones tell the network of the others."""

from __future__ import annotations

from typing import Any

from monai.utils.enums import CommonKeys

from monai_idm.engines.prepare_batch import DenoisingPrepareBatch

__all__ = ["SynthesisPrepareBatch"]


class SynthesisPrepareBatch(DenoisingPrepareBatch):
    """As :class:`DenoisingPrepareBatch`, of the batch's ``target``, under the condition of its ``image``.

    The image holds the contrasts and which of them are known, as ChooseKnownd leaves it. What is predicted of a known
    contrast is 0, as SynthesisTrainingInferer gives it, and so is its target.

    Args:
        kwargs: ``scheduler`` and ``timestep_power`` of DenoisingPrepareBatch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, condition_name="condition")

    def __call__(self, batchdata: Any, *args: Any, **kwargs: Any) -> Any:
        batch = {CommonKeys.IMAGE: batchdata["target"], "condition": batchdata[CommonKeys.IMAGE]}
        images, target, positional, named = super().__call__(batch, *args, **kwargs)
        known = named["condition"].chunk(2, 1)[1]
        return images, target * (1 - known), positional, {**named, "mode": "concat"}
