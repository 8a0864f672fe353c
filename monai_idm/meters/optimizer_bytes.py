"""The memory that an optimizer needs, by formula, as it works on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from monai_idm.optimizers import AdamWInBackward
from monai_idm.optimizers.muon import PART, is_kernel

__all__ = [
    "EIGHT_BIT_IN_BACKWARD",
    "EIGHT_BIT_MUON_IN_BACKWARD",
    "IN_BACKWARD",
    "MUON",
    "MUON_IN_BACKWARD",
    "OptimizerBytes",
    "optimizer_bytes",
]


@dataclass(frozen=True)
class OptimizerBytes:
    """Memory that an optimizer needs; the default is AdamW as it runs on CUDA.

    Attributes:
        states: Bytes per weight between steps; or, if they depend on its size, a function from parameter to bytes.
        temporaries: Bytes per weight during the optimizer's step; or a function from parameter to bytes.
        all_at_once: Whether temporaries exist for all parameters at the same time, or for one parameter at a time.
        in_backward: Whether each parameter is updated, and its gradient freed, as soon as the gradient is complete.
        muon: Whether kernels are stepped by Muon, whose matrix products are FLOPs of the step.
        offload: Modules of the network whose weights and states are on the host while nobody needs them.
    """

    states: float | Callable[[Tensor], float] = 8.0
    temporaries: float | Callable[[Tensor], float] = 4.0
    all_at_once: bool = True
    in_backward: bool = False
    muon: bool = False
    offload: Sequence[nn.Module] = ()

    def state_bytes(self, p: Tensor) -> float:
        return self.states(p) if callable(self.states) else self.states * p.numel()

    def temporary_bytes(self, p: Tensor) -> float:
        return self.temporaries(p) if callable(self.temporaries) else self.temporaries * p.numel()


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> OptimizerBytes:
    """What an optimizer of this project, or AdamW, needs on CUDA.

    Args:
        optimizer: The optimizer.
    """
    muon = any(group.get("muon") for group in optimizer.param_groups)
    if not isinstance(optimizer, AdamWInBackward):
        fused = all(group.get("fused") for group in optimizer.param_groups)
        return MUON if muon else OptimizerBytes(temporaries=0) if fused else OptimizerBytes()
    if optimizer.states == "8bit":
        found = EIGHT_BIT_MUON_IN_BACKWARD if muon else EIGHT_BIT_IN_BACKWARD
    else:
        found = MUON_IN_BACKWARD if muon else IN_BACKWARD
    return replace(found, offload=optimizer.offloaded)


def _muon(p: Tensor) -> float:
    return 4.0 * p.numel() if is_kernel(p) else 8.0 * p.numel()


def _eight_bit(p: Tensor) -> float:
    """bitsandbytes: two bytes per weight and two float32 per block of 256; small parameters keep float32 states."""
    return 8.0 * p.numel() if p.numel() < 4096 else 2.0 * p.numel() + 8.0 * -(-p.numel() // 256)


def _eight_bit_muon(p: Tensor) -> float:
    """A byte per weight of a kernel and a float32 per block of 256."""
    return p.numel() + 4.0 * -(-p.numel() // 256) if is_kernel(p) else _eight_bit(p)


def _rounding(p: Tensor) -> float:
    """Of a bfloat16 weight, which is stepped in float32: a copy, and one of the gradient with room for random bits."""
    return 8.0 * p.numel() if p.dtype == torch.bfloat16 else 0.0


def _muon_step(p: Tensor) -> float:
    """The step of a kernel in bfloat16; and copies of a part of the values, or four small matrices, in float32."""
    if not is_kernel(p):
        return _rounding(p)
    copies = (12.0 if p.dtype == torch.bfloat16 else 8.0) * min(p.numel(), PART)
    return 2.0 * p.numel() + max(copies, 16.0 * min(p.shape[0], p.numel() // p.shape[0]) ** 2)


# those in the backward pass with float32 states: with fused=True, without which AdamW needs temporaries
MUON = OptimizerBytes(states=_muon, temporaries=_muon_step, all_at_once=False, muon=True)
IN_BACKWARD = OptimizerBytes(temporaries=_rounding, in_backward=True)
MUON_IN_BACKWARD = replace(MUON, in_backward=True)
EIGHT_BIT_IN_BACKWARD = OptimizerBytes(states=_eight_bit, temporaries=_rounding, in_backward=True)
EIGHT_BIT_MUON_IN_BACKWARD = replace(MUON_IN_BACKWARD, states=_eight_bit_muon)
