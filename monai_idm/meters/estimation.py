"""What a training step will take, without taking it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_idm.meters.memory import live_bytes

__all__ = ["Estimate", "estimate"]


class Estimate(NamedTuple):
    """Bytes of a training step.

    Attributes:
        resident_bytes: Weights, buffers and optimizer states: there between steps.
        peak_bytes: The most there is at one time during forward and backward pass, resident bytes included.
    """

    resident_bytes: int
    peak_bytes: int


def estimate(network: nn.Module, shape: Sequence[int], state_bytes_per_weight: float = 8.0) -> Estimate:
    """Count the bytes of one training step on fake tensors, which have a shape and a device but no memory.

    Args:
        network: A diffusion network ``net(x, timesteps)``; its weights are neither read nor copied.
        shape: Of its input, ``(B, C, *spatial)``.
        state_bytes_per_weight: Of the optimizer's states; AdamW keeps two float32 numbers.
    Returns:
        Tensors alone: neither scratch memory inside kernels nor the allocator's cache.
    """
    states = int(state_bytes_per_weight * sum(p.numel() for p in network.parameters() if p.requires_grad))
    with FakeTensorMode():
        twin = _fake(network)
        with live_bytes(twin) as memory:
            resident = memory.current_bytes
            weight = next(twin.parameters())
            x = torch.empty(tuple(shape), dtype=weight.dtype, device=weight.device)
            timesteps = torch.zeros(shape[0], dtype=torch.long, device=weight.device)
            y = twin(x, timesteps)
            nn.functional.mse_loss(y, torch.empty_like(y)).backward()
    return Estimate(resident + states, memory.peak_bytes + states)


def _fake(network: nn.Module) -> nn.Module:
    """A copy whose tensors are fake. Called in a FakeTensorMode."""

    def like(tensor: Tensor) -> Tensor:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake

    # deepcopy takes what is in its memo for copied already
    return copy.deepcopy(network, {id(t): like(t) for t in (*network.parameters(), *network.buffers())})
