"""A network whose passes are launched on a GPU as one graph each.

A training step of a small network consists of thousands of short kernels, and the GPU waits while Python launches them
one by one. A CUDA graph records them once and launches them together: the same kernels on the same numbers, bit for
bit. The graphs keep a step's memory, activations and gradients, between the steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GraphedNetwork"]


class GraphedNetwork:
    """Calls a network through CUDA graphs; they are recorded at the first call with inputs of a shape.

    Its gradients lie in the graphs' memory and are overwritten by the next backward pass: set gradients to None after
    each step, and do not accumulate them. Weights may change, but must stay where they are in memory.

    Args:
        network: Network on a CUDA device, in training mode. It draws no random numbers.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._graphed: dict[Any, Any] = {}

    def __call__(self, x: Tensor, **inputs: Tensor) -> Tensor:
        values = (x, *inputs.values())
        key = (*inputs, *((value.shape, value.dtype) for value in values))
        if key not in self._graphed:
            samples = tuple(value.detach().clone() for value in values)  # the graphs' own inputs
            # weights of the inverse head take no part in a prediction
            self._graphed[key] = torch.cuda.make_graphed_callables(
                _Positional(self.network, tuple(inputs)), samples, allow_unused_input=True
            )
        return self._graphed[key](*values)


class _Positional(nn.Module):
    """The network with named inputs in a fixed order: graphs have no names."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, x: Tensor, *values: Tensor) -> Tensor:
        return self.network(x, **dict(zip(self.names, values, strict=True)))
