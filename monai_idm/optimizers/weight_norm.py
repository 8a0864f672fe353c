r"""Eq. 8's regularisation as a part of the optimizer's step.

.. math:: \nabla_w\, \lambda_{L2} \|W\|_2 = \lambda_{L2}\, w / \|W\|_2

As a term of the loss it would cost one to four copies of the weights; here it costs a number. It is not weight decay:
the paper's norm is not squared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["AdamWWeightNorm", "weight_norm_groups"]


class AdamWWeightNorm(torch.optim.AdamW):
    """AdamW on the loss plus lambda_L2 times the norm of the weights.

    Args:
        params: Parameters or groups; a group's ``lambda_l2`` overrides the default. See :func:`weight_norm_groups`.
        lambda_l2: Weight of the norm; 0 is plain AdamW.
        kwargs: Of ``torch.optim.AdamW``; ``weight_decay`` is 0 unless given.
    Source: eq. 8 of arXiv:2504.10883.
    """

    def __init__(self, params: Any, lambda_l2: float = 1e-4, weight_decay: float = 0.0, **kwargs: Any) -> None:
        if lambda_l2 < 0:
            raise ValueError(f"lambda_l2={lambda_l2}; choose 0 or more")
        super().__init__(params, weight_decay=weight_decay, **kwargs)
        for group in self.param_groups:
            group.setdefault("lambda_l2", lambda_l2)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """Add the gradient of the norm, then step as AdamW."""
        if closure is not None:
            raise ValueError("AdamWWeightNorm takes no closure: the gradients must be complete before its step")
        regularised = [(p, group["lambda_l2"]) for group in self.param_groups for p in group["params"]]
        regularised = [(p, lambda_l2) for p, lambda_l2 in regularised if lambda_l2 and p.grad is not None]
        if regularised:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p) for p, _ in regularised]))
            for p, lambda_l2 in regularised:
                p.grad.add_(p / norm.clamp(min=1e-12), alpha=lambda_l2)
        return super().step()


def weight_norm_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of a network: W of eq. 8, and the parameters it leaves alone.

    Regularised are weights of two and more dimensions; not biases and norms, and not the generators of orthogonal
    matrices, whose size is an angle.
    """
    regularised: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        (regularised if p.ndim >= 2 and not name.endswith("generator") else free).append(p)
    return [{"params": regularised}, {"params": free, "lambda_l2": 0.0}]
