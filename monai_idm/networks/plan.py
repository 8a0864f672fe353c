"""Choose which levels of the network store their activations within a memory budget."""

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
    """The fastest policy whose training step fits: store activations from the deepest level up, as the budget allows.

    A deep level has few elements for the computations it needs, so storing it saves most time for its memory. (In 3D,
    the first level has 75 % of the elements and half of the computations, the next a quarter of those elements and half
    of those computations.) Checkpointing is never chosen: it recomputes as much as rebuilding does and keeps more.

    Args:
        network: An InvertibleDiffusionUNet.
        shape: Shape of its input, ``(B, C, *spatial)``.
        memory_budget_gib: GiB for weights, gradients, activations, and AdamW's states and temporaries; AdamWInBackward
            needs less.
    Returns:
        One policy per level.
    Raises:
        ValueError: If the step does not fit even with everything rebuilt.
    """
    levels = network.num_levels
    for rebuilt in range(levels + 1):
        plan = ("rebuilt",) * rebuilt + ("stored",) * (levels - rebuilt)
        peak_gib = estimate(network.with_activations(plan), shape).peak_bytes / GIB
        if peak_gib <= memory_budget_gib:
            logger.warning(
                "activations for input %s within %.2f GiB: levels %s; the step needs an estimated %.2f GiB",
                tuple(shape),
                memory_budget_gib,
                ", ".join(f"{level} {policy}" for level, policy in enumerate(plan)),
                peak_gib,
            )
            return plan
    raise ValueError(
        f"a training step on {tuple(shape)} needs an estimated {peak_gib:.2f} GiB with everything rebuilt, more than "
        f"memory_budget_gib={memory_budget_gib}; raise the budget, or use a smaller batch or volume"
    )
