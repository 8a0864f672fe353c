"""The optimizers that are compared: how each is built, and what it takes where it is not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from monai_idm.meters import OptimizerBytes
from monai_idm.optimizers import AdamWInBackward

__all__ = ["OPTIMIZERS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """An optimizer.

    Attributes:
        build: From a network's parameters.
        bytes: As it runs on CUDA.
    """

    build: Callable[..., torch.optim.Optimizer]
    bytes: OptimizerBytes

    def __call__(self, network: nn.Module) -> torch.optim.Optimizer:
        return self.build(network.parameters(), lr=1e-4)


def _eight_bit(p: Tensor) -> float:
    """bitsandbytes: two bytes, and two float32 per block of 256; small parameters keep float32 states."""
    return 8.0 * p.numel() if p.numel() < 4096 else 2.0 * p.numel() + 8.0 * -(-p.numel() // 256)


# bfloat16 weights are stepped as float32: a copy of the weight, and one of the gradient that makes room for random bits
OPTIMIZERS: dict[str, Kind] = {
    "AdamW": Kind(torch.optim.AdamW, OptimizerBytes()),
    "AdamW, fused": Kind(partial(torch.optim.AdamW, fused=True), OptimizerBytes(temporaries=0)),
    "in backward": Kind(partial(AdamWInBackward, fused=True), OptimizerBytes(temporaries=0, in_backward=True)),
    "in backward, 8-bit": Kind(
        partial(AdamWInBackward, states="8bit"), OptimizerBytes(states=_eight_bit, temporaries=0, in_backward=True)
    ),
    "in backward, 8-bit, bf16": Kind(
        partial(AdamWInBackward, states="8bit"), OptimizerBytes(states=_eight_bit, temporaries=8, in_backward=True)
    ),
}
