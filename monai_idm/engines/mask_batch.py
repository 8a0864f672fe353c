"""What a training step of segmentation by diffusion draws: the mask is noised, the images are the condition."""

from __future__ import annotations

from typing import Any

from monai.utils.enums import CommonKeys

from monai_idm.engines.prepare_batch import DenoisingPrepareBatch

__all__ = ["MaskPrepareBatch"]


class MaskPrepareBatch(DenoisingPrepareBatch):
    """As :class:`DenoisingPrepareBatch`, of the batch's ``label``, under the condition of its ``image``.

    The label's 0 and 1 become -1 and 1; the image, with coordinates where the network takes them, is concatenated.

    Args:
        kwargs: ``scheduler`` and ``timestep_power`` of DenoisingPrepareBatch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, condition_name="condition")

    def __call__(self, batchdata: Any, *args: Any, **kwargs: Any) -> Any:
        mask = 2 * batchdata[CommonKeys.LABEL] - 1
        batch = {CommonKeys.IMAGE: mask, "condition": batchdata[CommonKeys.IMAGE]}
        images, target, positional, named = super().__call__(batch, *args, **kwargs)
        return images, target, positional, {**named, "mode": "concat"}
