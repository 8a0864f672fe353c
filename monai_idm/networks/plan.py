"""Which levels of the network may keep their activations, for a budget of memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from monai_idm.meters import estimate

__all__ = ["plan_activations"]

logger = logging.getLogger(__name__)
GIB = 2**30


class _Network(Protocol):
    num_levels: int

    def with_activations(self, activations: str | Sequence[str]) -> nn.Module: ...


def plan_activations(network: _Network, shape: Sequence[int], memory_budget_gib: float) -> tuple[str, ...]:
    """The fastest policy whose training step fits: stored from the deepest level up, as far as the budget goes.

    A deep level has few elements for its computations (in 3D, of one level 75 % of the elements and half of the
    computations, of the next a fourth and half of that): it saves most time for its memory. Checkpointing is never
    chosen, which computes as much again as rebuilding and keeps more.

    Args:
        network: An InvertibleDiffusionUNet.
        shape: Of its input, ``(B, C, *spatial)``.
        memory_budget_gib: GiB for weights, gradients, activations, and AdamW's states and temporaries; AdamWInBackward
            takes less.
    Returns:
        A policy per level.
    Raises:
        ValueError: If the step does not fit with everything rebuilt.
    """
    levels = network.num_levels
    for rebuilt in range(levels + 1):
        plan = ("rebuilt",) * rebuilt + ("stored",) * (levels - rebuilt)
        peak_gib = estimate(network.with_activations(plan), shape).peak_bytes / GIB
        if peak_gib <= memory_budget_gib:
            logger.warning(
                "activations for %s in %.2f GiB: levels %s; the step takes %.2f GiB by estimate",
                tuple(shape),
                memory_budget_gib,
                ", ".join(f"{level} {policy}" for level, policy in enumerate(plan)),
                peak_gib,
            )
            return plan
    raise ValueError(
        f"a training step on {tuple(shape)} takes {peak_gib:.2f} GiB by estimate with everything rebuilt, more than "
        f"memory_budget_gib={memory_budget_gib}; raise the budget, or take a smaller batch or volume"
    )
