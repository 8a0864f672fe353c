r"""Muon for the kernels of convolutions: a step of equal size in all directions of a matrix.

A kernel is a matrix :math:`W \in R^{out \times in \cdot k^3}`, with a row for each output channel. Its step is the
orthogonal matrix nearest to the running mean :math:`M` of its gradients, so that directions with small gradients are
learned as fast as those with large ones:

.. math:: W \leftarrow W - 0.2\, \eta \sqrt{\max(out, in \cdot k^3)}\; U V^T, \qquad M = U S V^T

The factor makes the step about as large as AdamW's, so both take the same learning rate :math:`\eta`. A kernel has one
state of its size, where AdamW has two. The computation is that of ``torch.optim.Muon``.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the factor after Liu et al. 2025,
arXiv:2502.16982.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from monai_idm.distributed import distribute_like, to_local

__all__ = ["MOMENTUM", "is_kernel", "muon_step"]

MOMENTUM = "momentum_buffer"
"""Name of the state."""


def is_kernel(p: Tensor) -> bool:
    """Whether Muon suits a parameter: the kernel of a convolution between more than eight channels.

    First and last layers, biases, norms and depthwise kernels are better off with AdamW.
    """
    return p.ndim > 3 and min(p.shape[:2]) > 8


@torch.no_grad()
def muon_step(
    weights: Tensor, gradient: Tensor, group: Mapping[str, Any], state: dict[str, Any], skip: Tensor | None = None
) -> None:
    """Step a single kernel.

    If it is sharded, every process steps the full kernel: all must call this.

    Args:
        weights: The kernel, changed in place.
        gradient: Its gradient.
        group: Settings of its parameter group; ``lr`` and ``weight_decay`` are read.
        state: Its state, changed in place.
        skip: A boolean on the device: true leaves weights and state as they are. The host does not wait for it.
    """
    if MOMENTUM not in state:
        state[MOMENTUM] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
    matrix, momentum = _matrix(weights.detach()), _matrix(state[MOMENTUM])
    before = () if skip is None else (matrix.clone(), momentum.clone())
    matrix.grad = _matrix(gradient)
    optimizer: Any = object.__new__(torch.optim.Muon)  # for this step only, see ParameterStep
    settings = {key: group[key] for key in ("lr", "weight_decay")}
    vars(optimizer).update(
        vars(_muon()),
        param_groups=[{**_muon().defaults, **settings, "params": [matrix]}],
        state=defaultdict(dict, {matrix: {MOMENTUM: momentum}}),
    )
    optimizer.step()
    if skip is not None:
        for now, then in zip((matrix.detach(), momentum), before, strict=True):
            now.copy_(torch.where(to_local(skip), then, now))
    _write(matrix.detach(), weights.detach())
    _write(momentum, state[MOMENTUM])


@cache
def _muon() -> torch.optim.Muon:
    return torch.optim.Muon([torch.zeros(1, 1)], adjust_lr_fn="match_rms_adamw")


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel as a matrix, in the same memory if it is neither sharded nor permuted."""
    return (kernel.full_tensor() if hasattr(kernel, "full_tensor") else kernel).flatten(1)


def _write(matrix: Tensor, kernel: Tensor) -> None:
    """Write a matrix back to its kernel, unless it shares its memory."""
    values = to_local(distribute_like(matrix.view(kernel.shape), kernel))
    if values.data_ptr() != to_local(kernel).data_ptr():
        to_local(kernel).copy_(values)
