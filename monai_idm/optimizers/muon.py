r"""Muon for the kernels of convolutions: a step of equal size in all directions of a matrix.

A kernel is a matrix :math:`W \in R^{out \times in \cdot k^3}`, with a row for each output channel. Its step is the
orthogonal matrix nearest to the running mean :math:`M` of its gradients, so that directions with small gradients are
learned as fast as those with large ones:

.. math:: W \leftarrow W - 0.2\, \eta \sqrt{\max(out, in \cdot k^3)}\; U V^T, \qquad M = U S V^T

The factor makes the step about as large as AdamW's, so both take the same learning rate :math:`\eta`. A kernel has one
state of its size, where AdamW has two. The numbers are those of ``torch.optim.Muon``, which needs 12 bytes per weight
while it steps; here a bfloat16 copy is made orthogonal in place, and the rest is done with a part of the values at a
time.

Every iteration towards :math:`U V^T` multiplies :math:`X`, at first :math:`M / \lVert M \rVert`, by a polynomial of
:math:`X X^T`, which is small, because a kernel has many more columns than rows. So the iterations are done on
:math:`X X^T` alone, and :math:`M` is multiplied once, by the product of the polynomials: a quarter of the FLOPs. All
products are float32: with rounding to bfloat16 or TF32 these iterations would diverge.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the factor after Liu et al. 2025,
arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from monai_idm.float32 import full_precision
from monai_idm.optimizers.momentum import Momentum

__all__ = ["PART", "is_kernel", "muon_step", "orthogonalise_"]

_DECAY = 0.95  # of the running mean
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a polynomial that takes singular values from 0 to 1 to about 1
_ITERATIONS = 5
PART = 2**20
"""Values that are stepped at a time; a multiple of the blocks of 8-bit states."""


def is_kernel(p: Tensor) -> bool:
    """Whether Muon suits a parameter: the kernel of a convolution between more than eight channels.

    First and last layers, biases, norms and depthwise kernels are better off with AdamW.
    """
    return p.ndim > 3 and min(p.shape[:2]) > 8


@torch.no_grad()
def muon_step(
    weights: Tensor,
    gradient: Tensor,
    momentum: Momentum,
    lr: float,
    weight_decay: float = 0.0,
    skip: Tensor | None = None,
    regularised: Callable[[Tensor, Tensor], Tensor] | None = None,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Step a single kernel.

    Args:
        weights: The kernel as a matrix, ``(out, in * voxels)``, contiguous; changed in place.
        gradient: Its gradient, contiguous.
        momentum: Its state, changed in place.
        lr: Learning rate.
        weight_decay: That of AdamW.
        skip: A boolean on the device: true leaves weights and state as they are. The host does not wait for it.
        regularised: The gradient, from gradient and weights, with a term that is not in the loss.
        rounded: What becomes of float32 weights before they are written; needed if weights are bfloat16.
    """
    precision = torch.promote_types(weights.dtype, torch.float32)
    w, g = weights.view(-1), gradient.view(-1)
    step = torch.empty(weights.shape, dtype=torch.bfloat16, device=weights.device)
    s = step.view(-1)
    for part in _parts(len(w), PART):
        new = g[part].to(precision)
        if regularised is not None:
            new = regularised(new, w[part].to(precision))
        mean = momentum.read(part).lerp(new, 1 - _DECAY)
        momentum.write(part, mean, skip)
        s[part] = new.lerp(mean, _DECAY)
    del new, mean  # which are as large as what comes now
    orthogonalise_(step)
    size = 0.2 * lr * math.sqrt(max(weights.shape))
    for part in _parts(len(w), PART):
        after = w[part].to(precision).mul(1 - lr * weight_decay).add_(s[part], alpha=-size)
        after = after if rounded is None else rounded(after)
        w[part] = after if skip is None else torch.where(skip, w[part], after.to(w.dtype))


def orthogonalise_(matrix: Tensor) -> None:
    """Bring all singular values of a bfloat16 matrix near 1, in place, by a Newton-Schulz iteration."""
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    with full_precision(x.device):
        factor = _factor(x)
        for columns in _columns(x):
            x[:, columns] = factor @ x[:, columns].float()


def _factor(x: Tensor) -> Tensor:
    """The matrix from X to the result."""
    gram = _gram(x)
    squared_norm = gram.trace().clamp(min=1e-14)
    gram /= squared_norm
    product = factor = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        torch.mm(factor @ gram, factor, out=gram)  # that of X after this iteration
        factor = _polynomial(gram)
        product = factor @ product
    return product.div_(squared_norm.sqrt())


def _gram(x: Tensor) -> Tensor:
    """X X^T in float32."""
    gram = torch.zeros(len(x), len(x), device=x.device)
    for columns in _columns(x):
        part = x[:, columns].float()
        gram = torch.addmm(gram, part, part.mT)
    return gram


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial


def _columns(x: Tensor) -> Iterator[slice]:
    return _parts(x.shape[1], max(1, PART // len(x)))


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
