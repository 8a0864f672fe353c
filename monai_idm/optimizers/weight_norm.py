r"""Eq. 8's regularisation as part of the optimizer's step.

.. math:: \nabla_w\, \lambda_{L2} \|W\|_2 = \lambda_{L2}\, w / \|W\|_2

As a term of the loss it would take the memory of one to four copies of the weights; here it takes one number. It is not
weight decay: the paper's norm is not squared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.optimizers.kernel_step import kernel_step
from monai_idm.optimizers.muon import is_kernel

__all__ = ["AdamWWeightNorm", "norm_of_weights", "require_same_use_of_muon", "weight_norm", "weight_norm_groups"]


class AdamWWeightNorm(torch.optim.AdamW):
    """AdamW, and Muon for kernels of convolutions, on the loss plus lambda_L2 times the norm of the weights.

    Args:
        params: Parameters or groups; a group's ``lambda_l2`` overrides the default, and ``muon=True`` makes it step its
            kernels by Muon. See :func:`weight_norm_groups`.
        lambda_l2: Factor of the norm; 0 is plain AdamW.
        weight_decay: The same as for ``torch.optim.AdamW``, but 0 by default.
        kwargs: Other arguments of ``torch.optim.AdamW``.
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
        """Add the gradient of the norm, then step like AdamW."""
        if closure is not None:
            raise ValueError("AdamWWeightNorm takes no closure: the gradients must be complete before its step")
        regularised = [group for group in self.param_groups if group["lambda_l2"]]
        if regularised:
            norm = norm_of_weights(regularised)
            for group in regularised:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.addcdiv_(p, norm, value=group["lambda_l2"])  # no temporary as large as p
        groups = self.param_groups
        for group in groups:
            for p in group["params"] if group.get("muon") else ():
                if p.grad is not None:
                    kernel_step(p, p.grad, {**group, "lambda_l2": 0.0}, self.state[p])
        self.param_groups = _without_muon(groups)
        try:
            return super().step()
        finally:
            self.param_groups = groups

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict()``.

        Raises:
            ValueError: If the groups differ.
        """
        require_same_use_of_muon(self, state_dict)
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called when a state is loaded: torch's AdamW expects states of its own in all groups that it sees."""
        super().__setstate__({**state, "param_groups": _without_muon(state["param_groups"])})
        self.param_groups = state["param_groups"]


def weight_norm_groups(network: nn.Module, muon: bool = False) -> list[dict[str, Any]]:
    """Parameter groups of a network: W of eq. 8, and the parameters that are not regularised.

    Weights of two or more dimensions are regularised, except the generators of orthogonal matrices, whose size is an
    angle. Biases and norms are not.

    Args:
        network: Network to train.
        muon: Whether the kernels of convolutions are to be stepped by Muon.
    Returns:
        Two groups for the constructor of an optimizer; with ``muon`` a third, the kernels.
    """
    kernels: list[nn.Parameter] = []
    regularised: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.ndim < 2 or name.endswith("generator"):
            free.append(p)
        else:
            (kernels if muon and is_kernel(p) else regularised).append(p)
    of_muon: list[dict[str, Any]] = [{"params": kernels, "muon": True}] if muon else []
    return [{"params": regularised}, {"params": free, "lambda_l2": 0.0}, *of_muon]


def require_same_use_of_muon(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Refuse the state of an optimizer that uses Muon where this one does not, or the other way round.

    Raises:
        ValueError: If it does.
    """
    theirs, ours = (
        any(group.get("muon") for group in groups) for groups in (state_dict["param_groups"], optimizer.param_groups)
    )
    if theirs != ours:
        word = "with" if theirs else "without"
        raise ValueError(f"the checkpoint is of a run {word} Muon; resume it with --muon {str(theirs).lower()}")


def _without_muon(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if not group.get("muon")]


def norm_of_weights(groups: Iterable[Mapping[str, Any]], norm_of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The norm of all weights in the groups whose ``lambda_l2`` is not 0: one number, detached, larger than 0.

    Sharded weights (DTensors) count with all their shards, so every process must call this.

    Args:
        groups: Parameter groups.
        norm_of: The norm of a parameter; None: :func:`weight_norm`.
    """
    norms = [(norm_of or weight_norm)(p) for group in groups if group["lambda_l2"] for p in group["params"]]
    full_norms = [n.full_tensor() if hasattr(n, "full_tensor") else n for n in norms]
    return torch.linalg.vector_norm(torch.stack(full_norms)).clamp(min=1e-12)


def weight_norm(p: Tensor) -> Tensor:
    """The norm of a parameter, detached, in float32 at least."""
    return torch.linalg.vector_norm(p.detach(), dtype=torch.promote_types(p.dtype, torch.float32))
