"""Make a module draw the same random numbers again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["random_states", "restored_random_states"]


def random_states(module: nn.Module, device: torch.device) -> tuple[Tensor, ...]:
    """States of the generators if the module is about to draw from them (active dropout), or an empty tuple."""
    if not any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in module.modules()):
        return ()
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device)


@contextmanager
def restored_random_states(states: tuple[Tensor, ...], device: torch.device) -> Iterator[None]:
    """Set the generators to these states within the block, and restore their own states afterwards."""
    if not states:
        yield
        return
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.set_rng_state(states[0])
        if devices:
            torch.get_device_module(device).set_rng_state(states[1], device)
        yield
