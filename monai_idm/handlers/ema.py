"""An exponential moving average of the weights that lives on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_idm.distributed import distribute_like, from_local, full_tensor, to_local

__all__ = ["HostEMA", "UpdateEMA", "UseEMA"]


class HostEMA:
    """An average of a network's weights, kept on the host; :class:`UpdateEMA` and :class:`UseEMA` work with it.

    It is of float32 where the weights are bfloat16, in which a mean of many would stand still. Of weights that
    processes share (FSDP2) each averages its part.

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
        self.device = device
        self.updates = 0
        self.weights = {name: self._copy(p) for name, p in network.named_parameters()}

    def update(self) -> None:
        """Take the weights as they are now into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        for name, p in self.network.named_parameters():
            self.weights[name].lerp_(self._copy(p), 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """In the block the network has the averaged weights; a second network on the device would cost its memory."""
        trained = {name: to_local(p.detach()).cpu().clone() for name, p in self.network.named_parameters()}
        self._write(self.weights)
        try:
            yield
        finally:
            self._write(trained)

    def state_dict(self) -> dict[str, Any]:
        shapes = dict(self.network.named_parameters())
        weights = {name: full_tensor(from_local(average, shapes[name])) for name, average in self.weights.items()}
        return {"updates": self.updates, "weights": weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        for name, p in self.network.named_parameters():
            self.weights[name].copy_(to_local(distribute_like(state_dict["weights"][name], p)))

    def _copy(self, p: Tensor) -> Tensor:
        dtype = torch.float32 if p.dtype == torch.bfloat16 else p.dtype
        return to_local(p.detach()).to(self.device, dtype, copy=True)

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        for name, p in self.network.named_parameters():
            to_local(p).copy_(weights[name])


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
        self.ema.update()


class UseEMA:
    """While an evaluator runs, the network has the averaged weights. Attach it to the evaluator, first.

    Args:
        ema: The average.
    """

    def __init__(self, ema: HostEMA) -> None:
        self.ema = ema
        self._swapped = ExitStack()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.swap_in)
        engine.add_event_handler(Events.COMPLETED, self.swap_out)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._swap_out_and_raise)

    def swap_in(self, engine: Engine) -> None:
        if self.ema.updates:  # or there is nothing averaged yet, as in an evaluation without training
            self._swapped.enter_context(self.ema.swapped_in())

    def swap_out(self, engine: Engine) -> None:
        self._swapped.close()

    def _swap_out_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.swap_out(engine)
        raise error
