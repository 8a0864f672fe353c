"""The one state of Muon, read and written a few values at a time, in float32 or with a byte per value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CODES", "EightBitMomentum", "FullMomentum", "Momentum", "dequantize", "quantize"]

CODES, _SCALES = "momentum_codes", "momentum_scales"
_BLOCK = 256  # values with one scale, as in bitsandbytes' AdamW


class Momentum(Protocol):
    """A running mean of gradients."""

    def read(self, part: slice) -> Tensor:
        """Some of its values."""

    def write(self, part: slice, values: Tensor, skip: Tensor | None) -> None:
        """Write values, unless ``skip``, a boolean on the device, is true."""


class FullMomentum:
    """One in the precision of a tensor.

    Args:
        values: One-dimensional; read and written.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def read(self, part: slice) -> Tensor:
        return self.values[part]

    def write(self, part: slice, values: Tensor, skip: Tensor | None) -> None:
        _replace(self.values[part], values, skip)


class EightBitMomentum:
    """One with a byte per value and a scale per 256 of them.

    Args:
        state: State of a parameter, which holds it; it is made there if it is not.
        size: Number of its values.
        device: Where they are.
    """

    def __init__(self, state: dict[str, Any], size: int, device: torch.device) -> None:
        if CODES not in state:
            state |= quantize(torch.zeros(size, device=device))
        self.codes, self.scales = state[CODES].view(-1), state[_SCALES]

    def read(self, part: slice) -> Tensor:
        return dequantize({CODES: self.codes[part], _SCALES: self.scales[self._blocks(part)]})

    def write(self, part: slice, values: Tensor, skip: Tensor | None) -> None:
        new = quantize(values)  # where skipped, the old codes stay: rounding twice is not rounding once
        _replace(self.codes[part], new[CODES], skip)
        _replace(self.scales[self._blocks(part)], new[_SCALES], skip)

    def _blocks(self, part: slice) -> slice:
        return slice(part.start // _BLOCK, -(-part.stop // _BLOCK))


def quantize(values: Tensor) -> dict[str, Tensor]:
    """A byte per value, and a scale per block, as the state of a parameter holds them."""
    from bitsandbytes.functional import quantize_blockwise  # here because it is optional

    codes, state = quantize_blockwise(values.contiguous(), blocksize=_BLOCK)
    return {CODES: codes, _SCALES: state.absmax}


def dequantize(state: Mapping[str, Tensor]) -> Tensor:
    """The values again."""
    from bitsandbytes.functional import dequantize_blockwise

    return dequantize_blockwise(state[CODES], absmax=state[_SCALES], blocksize=_BLOCK)


def _replace(old: Tensor, new: Tensor, skip: Tensor | None) -> None:
    old.copy_(new if skip is None else torch.where(skip, old, new))
