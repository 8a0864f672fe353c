"""Estimates the memory and the FLOPs of a training step without running it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_idm.meters.flops import count_flops
from monai_idm.meters.memory import live_bytes
from monai_idm.optimizers.muon import is_kernel

__all__ = [
    "EIGHT_BIT_IN_BACKWARD",
    "EIGHT_BIT_MUON_IN_BACKWARD",
    "IN_BACKWARD",
    "Estimate",
    "OptimizerBytes",
    "denoising_step",
    "estimate",
    "estimate_flops",
]


class Estimate(NamedTuple):
    """Memory of a training step.

    Attributes:
        resident_bytes: Weights, buffers and optimizer states, which stay allocated between steps.
        peak_bytes: Maximum at any time, from the image to the optimizer's step, resident bytes included.
    """

    resident_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class OptimizerBytes:
    """Memory that an optimizer needs; the default is AdamW as it runs on CUDA.

    Attributes:
        states: Bytes per weight between steps; or, if they depend on its size, a function from parameter to bytes.
        temporaries: Bytes per weight during the optimizer's step; or a function from parameter to bytes.
        all_at_once: Whether temporaries exist for all parameters at the same time, or for one parameter at a time.
        in_backward: Whether each parameter is updated, and its gradient freed, as soon as the gradient is complete.
    """

    states: float | Callable[[Tensor], float] = 8.0
    temporaries: float | Callable[[Tensor], float] = 4.0
    all_at_once: bool = True
    in_backward: bool = False

    def state_bytes(self, p: Tensor) -> float:
        return self.states(p) if callable(self.states) else self.states * p.numel()

    def temporary_bytes(self, p: Tensor) -> float:
        return self.temporaries(p) if callable(self.temporaries) else self.temporaries * p.numel()


def _eight_bit(p: Tensor) -> float:
    """bitsandbytes: two bytes per weight and two float32 per block of 256; small parameters keep float32 states."""
    return 8.0 * p.numel() if p.numel() < 4096 else 2.0 * p.numel() + 8.0 * -(-p.numel() // 256)


def _eight_bit_muon(p: Tensor) -> float:
    """A byte per weight of a kernel and a float32 per block of 256."""
    return p.numel() + 4.0 * -(-p.numel() // 256) if is_kernel(p) else _eight_bit(p)


def _muon_temporaries(p: Tensor) -> float:
    """Of a kernel: its momentum and its step in float32, and the step in bfloat16 before and after an iteration."""
    return 12.2 * p.numel() if is_kernel(p) else 0.0


IN_BACKWARD = OptimizerBytes(temporaries=0, in_backward=True)
EIGHT_BIT_IN_BACKWARD = OptimizerBytes(states=_eight_bit, temporaries=0, in_backward=True)
EIGHT_BIT_MUON_IN_BACKWARD = OptimizerBytes(states=_eight_bit_muon, temporaries=_muon_temporaries, in_backward=True)


def estimate(network: nn.Module, shape: Sequence[int], optimizer: OptimizerBytes | None = None) -> Estimate:
    """Count the bytes of one training step on fake tensors, which have a shape and a device but no memory.

    The forward and the backward pass are run; the optimizer's states and temporaries are added by formula.

    Args:
        network: A diffusion network ``net(x, timesteps)``; its weights are neither read nor copied, and may be on the
            device ``"meta"``.
        shape: Shape of its input, ``(B, C, *spatial)``.
        optimizer: Memory of the optimizer; None: AdamW as it runs on CUDA.
    Returns:
        The bytes of tensors only, without scratch memory inside kernels and the allocator's cache.
    """
    optimizer = optimizer or OptimizerBytes()
    trained = [p for p in network.parameters() if p.requires_grad]
    states = int(sum(optimizer.state_bytes(p) for p in trained))
    with FakeTensorMode():
        twin = _fake(network)
        with live_bytes(twin) as memory:
            resident = memory.current_bytes
            if optimizer.in_backward:
                for p in twin.parameters():
                    p.register_post_accumulate_grad_hook(partial(_step, optimizer))
            denoising_step(twin, shape)
            if not optimizer.in_backward:
                together = (sum if optimizer.all_at_once else max)(optimizer.temporary_bytes(p) for p in trained)
                torch.empty(int(together), dtype=torch.uint8)
    return Estimate(resident + states, memory.peak_bytes + states)


def estimate_flops(network: nn.Module, shape: Sequence[int]) -> int:
    """Count the FLOPs of a forward and a backward pass on fake tensors; arguments as in :func:`estimate`."""
    with FakeTensorMode():
        twin = _fake(network)
        return count_flops(lambda: denoising_step(twin, shape))


def denoising_step(network: nn.Module, shape: Sequence[int]) -> None:
    """Run a forward and a backward pass on noise, with the tensors that a trainer holds during a step.

    Args:
        network: A diffusion network ``net(x, timesteps)``, trained to predict the noise. If it has classes
            (``num_class_embeds``), the first one is used.
        shape: Shape of its input, ``(B, C, *spatial)``.
    """
    weight = next(network.parameters())
    image, noise = (torch.randn(tuple(shape), device=weight.device) for _ in range(2))
    noisy = image + noise
    timesteps = torch.zeros(shape[0], dtype=torch.long, device=weight.device)
    classes = {} if getattr(network, "num_class_embeds", None) is None else {"class_labels": timesteps}
    prediction = network(noisy, timesteps, **classes)
    # clone: torch's loss keeps memory as large as the prediction, which fake tensors do not show
    nn.functional.mse_loss(prediction, noise[:, : prediction.shape[1]]).clone().backward()


def _step(optimizer: OptimizerBytes, p: Tensor) -> None:
    torch.empty(int(optimizer.temporary_bytes(p)), dtype=torch.uint8)
    p.grad = None


def _fake(network: nn.Module) -> nn.Module:
    """A copy whose tensors are fake; call it in a FakeTensorMode."""

    def like(tensor: Tensor) -> Tensor:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu" if tensor.is_meta else tensor.device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake

    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    for module in network.modules():  # MONAI's attention holds tensors that are neither parameters nor buffers
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(network, {id(t): like(t) for t in tensors})  # deepcopy keeps what is in the memo
