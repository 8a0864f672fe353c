"""What must be the same when an operation runs again: weights, autocast and, with dropout, the random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_idm.float32 import float32_as, float32_precisions
from monai_idm.reversible.operation import ReversibleOperation
from monai_idm.reversible.random_state import random_states, restored_random_states

__all__ = ["Replay"]


@dataclass(frozen=True)
class Replay:
    """Weights, autocast and random state at the moment an operation ran forward."""

    weights: list[tuple[int, int]]
    device: torch.device
    float32_precisions: list[str]
    autocast_enabled: bool
    autocast_dtype: torch.dtype
    random_states: tuple[Tensor, ...]

    @classmethod
    def capture(cls, operation: ReversibleOperation, device: torch.device) -> Replay:
        states = random_states(operation, device)
        return cls(
            cls.of_weights(operation),
            device,
            float32_precisions(),
            torch.is_autocast_enabled(device.type),
            torch.get_autocast_dtype(device.type),
            states,
        )

    @staticmethod
    def of_weights(operation: ReversibleOperation) -> list[tuple[int, int]]:
        """Identity and version counter of each weight."""
        return [(id(w), w._version) for w in operation.weights()]

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in the precision of the forward pass: autocast, and float32 or TF32."""
        # no cache: it would keep a copy of every weight, and hand copies made without autograd to code that needs it
        with (
            float32_as(self.float32_precisions),
            torch.autocast(
                self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_enabled, cache_enabled=False
            ),
        ):
            yield

    @contextmanager
    def random(self) -> Iterator[None]:
        """Draw the random numbers of the forward pass again, and restore the generators afterwards."""
        with restored_random_states(self.random_states, self.device):
            yield
