"""Keep the weights of the best validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_idm.checkpoints import write_checkpoint

__all__ = ["BestWeights"]


class BestWeights:
    """Write a network's weights to a file whenever a validation is better than all before it.

    Attach it to a MONAI evaluator whose key metric is better when larger. Pass it to the
    :class:`~monai_idm.handlers.TrainingCheckpoint` too, so that a resumed run remembers the best validation. The file
    is replaced in one step, and never because of a metric that is NaN or infinite.

    Args:
        network: The network that the evaluator runs.
        file: File for the bare ``state_dict``, which all MONAI tools can load.
    """

    def __init__(self, network: Any, file: str | Path) -> None:
        self.network = network
        self.file = Path(file)
        self.metric: float | None = None
        self.epoch = -1

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._publish)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = cast(Any, engine.state)
        metric = float(state.metrics[state.key_metric_name])
        if math.isfinite(metric) and (self.metric is None or metric > self.metric):
            self.metric, self.epoch = metric, state.epoch
            weights = self.network.state_dict()  # in every process: sharded weights are gathered from all of them
            if idist.get_rank() == 0:
                write_checkpoint(self.file, weights)
        self._publish(engine)

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metric, self.epoch = state_dict["metric"], state_dict["epoch"]

    def _publish(self, engine: Engine) -> None:
        """Correct MONAI's own record of the best, which is lost in a resumed run and spoiled by NaN."""
        if self.metric is not None:
            state = cast(Any, engine.state)
            state.best_metric, state.best_metric_epoch = self.metric, self.epoch
