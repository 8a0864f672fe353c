"""A few numbers of what will be rebuilt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_idm.reversible.operation import Tensors

__all__ = ["SpotCheck"]


class SpotCheck:
    """Numbers from the whole of some tensors, to see whether what the backward pass rebuilds is what was.

    Args:
        tensors: ``(B, C, *spatial)``; up to 4 places along each dimension are kept.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.numbers = [_few(t).clone() for t in tensors]
        self.error: Tensor | None = None
        """max |number - rebuilt number|, once the backward pass has been there."""

    def compare(self, rebuilt: Tensors) -> None:
        """Measure the error."""
        pairs = zip(self.numbers, rebuilt, strict=True)
        self.error = torch.stack([(number - _few(tensor)).abs().max() for number, tensor in pairs]).max()

    def __deepcopy__(self, memo: Any) -> SpotCheck:
        return SpotCheck([])  # a copy of the network has trained nothing


def _few(tensor: Tensor) -> Tensor:
    return tensor.detach()[tuple(slice(None, None, -(-side // 4)) for side in tensor.shape)]
