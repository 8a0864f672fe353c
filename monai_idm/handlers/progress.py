"""Ignite's progress bar in the form that MONAI's handler lists take: ``attach(engine)``."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys

__all__ = ["TrainingProgress"]

_loss = from_engine(CommonKeys.LOSS, first=True)


class TrainingProgress:
    """A progress bar per epoch with the loss; nothing where the output is not a terminal, nor in further processes.

    Args:
        kwargs: Of ``tqdm``.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.bar = ProgressBar(**{"disable": None, **kwargs})

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.bar.attach(engine, output_transform=lambda output: {"loss": float(_loss(output))})
