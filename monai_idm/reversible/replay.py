"""What must be the same when an operation runs again: weights, autocast and, with dropout, the random state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_idm.reversible.operation import ReversibleOperation
from monai_idm.reversible.random_state import random_states, restored_random_states

__all__ = ["Replay", "full_precision", "true_float32"]

# torch's switches of this kind; the older ones, allow_tf32, must not be mixed with them
_SWITCHES: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
)


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
            [switch.fp32_precision for switch in _SWITCHES],
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
            _float32_as(self.float32_precisions),
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


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in true float32: neither under autocast, nor in TF32 or bfloat16 products.

    An orthogonal map in TF32 is off by 4e-4, and every inversion would add to that.
    """
    with true_float32(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def true_float32() -> Iterator[None]:
    """Multiply float32 tensors in float32, whatever faster precision is allowed for them outside.

    In TF32, which cuDNN's convolutions use by default, a branch rounds its input to 10 bits: inputs that differ in the
    last bit, as rebuilt ones do, may be rounded to different numbers, and the error of the rebuilt activations grows
    from 1e-6 to 1e-3.
    """
    with _float32_as(["ieee"] * len(_SWITCHES)):
        yield


@contextmanager
def _float32_as(precisions: Sequence[str]) -> Iterator[None]:
    before = [switch.fp32_precision for switch in _SWITCHES]
    try:
        for switch, precision in zip(_SWITCHES, precisions, strict=True):
            switch.fp32_precision = precision
        yield
    finally:
        for switch, precision in zip(_SWITCHES, before, strict=True):
            switch.fp32_precision = precision
