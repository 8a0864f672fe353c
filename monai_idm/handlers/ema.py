"""An exponential moving average of the weights that lives on the host."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["HostEMA", "UpdateEMA", "UseEMA"]


class HostEMA:
    """An average of a network's weights, kept on the host; :class:`UpdateEMA` and :class:`UseEMA` work with it.

    Args:
        network: The network being trained.
        decay: Per update; in the first updates less, so that the initial weights are forgotten.
        every: Iterations between updates.
        device: Of the average. The default, the host, costs the device nothing and a copy of the weights per update.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99, every: int = 10, device: str = "cpu") -> None:
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(f"decay={decay}, every={every}; choose 0 <= decay < 1 and every >= 1")
        self.network = network
        self.decay = decay
        self.every = every
        self.average = AveragedModel(network, torch.device(device), avg_fn=self._mean)
        for p in self.average.module.parameters():
            if p.dtype == torch.bfloat16:  # in which a mean of many would stand still
                p.data = p.data.float()

    def state_dict(self) -> dict[str, Any]:
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average.load_state_dict(state_dict)

    def _mean(self, averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        decay = min(self.decay, (1 + int(updates)) / (10 + int(updates)))
        return averaged.lerp(current.to(averaged.dtype), 1 - decay)


class UpdateEMA:
    """Updates the average while a trainer runs. Attach it to the trainer.

    Args:
        ema: The average.
    """

    def __init__(self, ema: HostEMA) -> None:
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.ema.every), self)

    def __call__(self, engine: Engine) -> None:
        self.ema.average.update_parameters(self.ema.network)


class UseEMA:
    """While an evaluator runs, the network has the averaged weights. Attach it to the evaluator, first.

    The weights change places in the network itself: a second network on the device would cost its memory.

    Args:
        ema: The average.
    """

    def __init__(self, ema: HostEMA) -> None:
        self.ema = ema
        self._trained: dict[str, Tensor] | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.swap_in)
        engine.add_event_handler(Events.COMPLETED, self.swap_out)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._swap_out_and_raise)

    def swap_in(self, engine: Engine) -> None:
        if self.ema.average.n_averaged == 0:
            return  # nothing averaged yet, e.g. an evaluation without training
        self._trained = {name: p.detach().cpu().clone() for name, p in self.ema.network.state_dict().items()}
        self.ema.network.load_state_dict(self.ema.average.module.state_dict())

    def swap_out(self, engine: Engine) -> None:
        if self._trained is not None:
            self.ema.network.load_state_dict(self._trained)
            self._trained = None

    def _swap_out_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.swap_out(engine)
        raise error
