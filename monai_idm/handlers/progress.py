"""Ignite's progress bar as a handler for MONAI's handler lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from monai.utils.enums import CommonKeys
from torch import Tensor

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """A progress bar per epoch with the loss, shown by process 0 and only in a terminal.

    Args:
        kwargs: Arguments for ``tqdm``.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.bar = ProgressBar(**{"disable": None, **kwargs})

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.bar.attach(engine, output_transform=_loss)


def _loss(output: Any) -> dict[str, float]:
    """The loss in an output: a list of cases, one dictionary (with ``decollate=False``), or the loss itself."""
    if isinstance(output, list | tuple) and output:
        output = output[0]  # decollating copies the loss to each case
    if isinstance(output, Mapping):
        output = output.get(CommonKeys.LOSS)
    if isinstance(output, Tensor):
        output = output.detach().mean().item()
    return {"loss": float(output)} if isinstance(output, float | int) else {}
