"""What an evaluator that samples takes from a batch: noise, and each sample's seed and class."""

from __future__ import annotations

from typing import Any

from monai.engines.utils import PrepareBatch
from monai.utils.enums import CommonKeys

__all__ = ["SamplingPrepareBatch"]


class SamplingPrepareBatch(PrepareBatch):
    """``prepare_batch`` of MONAI's SupervisedEvaluator, whose inferer is a SamplingInferer.

    Of the batch, ``image`` is the noise ``(B, C, *spatial)``; ``seed`` and, where there is one, ``class_label`` go to
    the inferer as ``seeds`` and ``class_labels``.
    """

    def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        noise = batchdata[CommonKeys.IMAGE].to(device, non_blocking=non_blocking, **kwargs)
        named = {"seeds": batchdata["seed"].tolist()}
        if "class_label" in batchdata:
            named["class_labels"] = batchdata["class_label"].to(device, non_blocking=non_blocking)
        return noise, None, (), named
