"""An exponential moving average of the weights, kept on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_idm.distributed import distribute_like, from_local, full_tensor, to_local

__all__ = ["HostEMA", "UpdateEMA", "UseEMA"]


class HostEMA:
    """An exponential moving average of a network's weights, kept on the host.

    :class:`UpdateEMA` updates it during training, :class:`UseEMA` evaluates with it. The average of bfloat16 weights is
    float32, because updates would be rounded away in bfloat16. Of sharded weights (FSDP2) each process averages its own
    shard.

    Args:
        network: The network being trained.
        decay: Decay per update; smaller in the first updates, so that the initial weights are forgotten.
        every: Iterations between updates.
        device: Device that holds the average. The default, the host, takes no memory on the training device and copies
            the weights once per update.
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
        """Move the average towards the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        weights: Iterable[tuple[str, Tensor]]
        weights = ((name, self._copy(p, non_blocking=True)) for name, p in self.network.named_parameters())
        if any(p.is_cuda for p in self.network.parameters()):
            weights = list(weights)
            torch.cuda.current_stream().synchronize()  # once, for the copies of all weights
        for name, weight in weights:
            self.weights[name].lerp_(weight, 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the network the averaged weights inside the block: a second network would take memory on the device."""
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

    def _copy(self, p: Tensor, non_blocking: bool = False) -> Tensor:
        dtype = torch.float32 if p.dtype == torch.bfloat16 else p.dtype
        return to_local(p.detach()).to(self.device, dtype, copy=True, non_blocking=non_blocking)

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        for name, p in self.network.named_parameters():
            to_local(p).copy_(weights[name])


class UpdateEMA:
    """Update the average while a trainer runs. Attach it to the trainer.

    Args:
        ema: The average to update.
    """

    def __init__(self, ema: HostEMA) -> None:
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.ema.every), self)

    def __call__(self, engine: Engine) -> None:
        self.ema.update()


class UseEMA:
    """Give the network the averaged weights while an evaluator runs. Attach it to the evaluator first.

    Args:
        ema: The average to use.
    """

    def __init__(self, ema: HostEMA) -> None:
        self.ema = ema
        self._swapped = ExitStack()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.swap_in)
        engine.add_event_handler(Events.COMPLETED, self.swap_out)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._swap_out_and_raise)

    def swap_in(self, engine: Engine) -> None:
        if self.ema.updates:  # otherwise nothing is averaged yet, as in an evaluation without training
            self._swapped.enter_context(self.ema.swapped_in())

    def swap_out(self, engine: Engine) -> None:
        self._swapped.close()

    def _swap_out_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.swap_out(engine)
        raise error
