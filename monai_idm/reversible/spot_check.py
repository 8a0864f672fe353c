"""Measure the error of rebuilt activations on a small sample of their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_idm.reversible.operation import Tensors

__all__ = ["SpotCheck"]


class SpotCheck:
    """Values sampled from tensors in the forward pass, to compare with those that the backward pass rebuilds.

    Args:
        tensors: ``(B, C, *spatial)``; up to 4 evenly spaced positions along each dimension are kept.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.numbers = [_sample(t).clone() for t in tensors]
        self.error: Tensor | None = None
        """max |value - rebuilt value|; None until the backward pass has rebuilt the tensors."""

    def compare(self, rebuilt: Tensors) -> None:
        """Set :attr:`error` from the rebuilt tensors."""
        pairs = zip(self.numbers, rebuilt, strict=True)
        self.error = torch.stack([(number - _sample(tensor)).abs().max() for number, tensor in pairs]).max()

    def __deepcopy__(self, memo: Any) -> SpotCheck:
        return SpotCheck([])  # a copy of the network has not trained yet


def _sample(tensor: Tensor) -> Tensor:
    return tensor.detach()[tuple(slice(None, None, -(-side // 4)) for side in tensor.shape)]
