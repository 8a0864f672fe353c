"""How float32 tensors are multiplied: in float32, or faster, in TF32 or bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["float32_as", "float32_precisions", "full_precision", "true_float32"]

# torch's switches of this kind; the older ones, allow_tf32, must not be mixed with them
_SWITCHES: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
)


def float32_precisions() -> list[str]:
    """The precisions that are allowed now, one for each of torch's switches."""
    return [switch.fp32_precision for switch in _SWITCHES]


@contextmanager
def float32_as(precisions: Sequence[str]) -> Iterator[None]:
    """Multiply float32 tensors as :func:`float32_precisions` said."""
    before = float32_precisions()
    try:
        for switch, precision in zip(_SWITCHES, precisions, strict=True):
            switch.fp32_precision = precision
        yield
    finally:
        for switch, precision in zip(_SWITCHES, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def true_float32() -> Iterator[None]:
    """Multiply float32 tensors in float32, whatever faster precision is allowed for them outside.

    In TF32, which cuDNN's convolutions use by default, a branch rounds its input to 10 bits: inputs that differ in the
    last bit, as rebuilt ones do, may be rounded to different numbers, and the error of the rebuilt activations grows
    from 1e-6 to 1e-3.
    """
    with float32_as(["ieee"] * len(_SWITCHES)):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in true float32: neither under autocast, nor in TF32 or bfloat16 products.

    An orthogonal map in TF32 is off by 4e-4, and every inversion would add to that.
    """
    with true_float32(), torch.autocast(device.type, enabled=False):
        yield
