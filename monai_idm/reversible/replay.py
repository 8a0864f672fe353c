"""What must be the same when an operation runs again: weights, autocast and, with dropout, the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_idm.reversible.operation import ReversibleOperation
from monai_idm.reversible.random_state import random_states, restored_random_states

__all__ = ["Replay", "full_precision"]


@dataclass(frozen=True)
class Replay:
    """Weights, autocast and random state at the moment an operation ran forward."""

    weights: list[tuple[int, int]]
    device: torch.device
    autocast_enabled: bool
    autocast_dtype: torch.dtype
    random_states: tuple[Tensor, ...]

    @classmethod
    def capture(cls, operation: ReversibleOperation, device: torch.device) -> Replay:
        states = random_states(operation, device)
        return cls(
            cls.of_weights(operation),
            device,
            torch.is_autocast_enabled(device.type),
            torch.get_autocast_dtype(device.type),
            states,
        )

    @staticmethod
    def of_weights(operation: ReversibleOperation) -> list[tuple[int, int]]:
        """Identity and version counter of each weight."""
        return [(id(w), w._version) for w in operation.weights()]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        # no cache: it would keep a copy of every weight, and pass copies made without autograd to code that needs it
        with torch.autocast(
            self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_enabled, cache_enabled=False
        ):
            yield

    @contextmanager
    def random(self) -> Iterator[None]:
        """Draw the random numbers of the forward pass again, and restore the generators afterwards."""
        with restored_random_states(self.random_states, self.device):
            yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn autocast and TF32 off: an orthogonal map in TF32 is off by 4e-4, and every inversion would add that."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
