"""Measure the error of rebuilt activations on a small sample of their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_idm.reversible.operation import Tensors

__all__ = ["SpotCheck", "relative_error"]


class SpotCheck:
    """Values sampled from tensors in the forward pass, to compare with those that the backward pass rebuilds.

    Args:
        tensors: ``(B, C, *spatial)``; up to 4 evenly spaced positions along each dimension are kept.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.numbers = [_sample(t).clone() for t in tensors]
        self.error: Tensor | None = None
        """The :func:`relative_error`; None until the backward pass has rebuilt the tensors."""

    def compare(self, rebuilt: Tensors) -> None:
        """Set :attr:`error` from the rebuilt tensors."""
        self.error = relative_error(self.numbers, [_sample(t) for t in rebuilt])

    def __deepcopy__(self, memo: Any) -> SpotCheck:
        return SpotCheck([])  # a copy of the network has not trained yet


def relative_error(values: Tensors, rebuilt: Tensors) -> Tensor:
    """Root mean square of the differences of rebuilt values, relative to that of the values; on the device.

    The largest difference would say little: it grows with the number of values and with their size, and gradients with
    neither.

    Args:
        values: Tensors of any shapes.
        rebuilt: What they should equal.
    """
    pairs = list(zip(values, rebuilt, strict=True))
    errors, sizes = ([torch.linalg.vector_norm(t) for t in ts] for ts in ([a - b for a, b in pairs], values))
    return torch.stack(errors).norm() / torch.stack(sizes).norm().clamp(min=1e-12)


def _sample(tensor: Tensor) -> Tensor:
    return tensor.detach()[tuple(slice(None, None, -(-side // 4)) for side in tensor.shape)]
