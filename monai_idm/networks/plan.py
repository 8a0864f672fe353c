"""Choose the fastest training step that fits: what ``"auto"`` stands for on this machine."""

from __future__ import annotations

import copy
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from torch import nn

from monai_idm.distributed import all_gather_objects, to_local
from monai_idm.machine import device_name, has_bfloat16
from monai_idm.meters import estimate, free_memory_bytes

__all__ = ["BEFORE_AUTO", "Plan", "choose_policies", "plan_activations", "share_of"]

BEFORE_AUTO = {"precision": "float32", "activations": "rebuilt"}  # the defaults of train.yaml up to version 0.4.0
GIB = 2**30
# of the free memory: a card needs 1.25 to 1.4 times the bytes of the tensors; a host also serves other programs, and
# ends those that take too much
SHARES = {"cuda": 0.7, "cpu": 0.5}
logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What levels do with their activations.

    Attributes:
        policies: One per level.
        reason: Why these, for the log.
    """

    policies: tuple[str, ...]
    reason: str


def plan_activations(network: Any, shape: Sequence[int], memory_budget_gib: float | None = None) -> Plan:
    """The fastest policies whose training step fits: store activations from the deepest level up, as the budget allows.

    A deep level has few elements for the computations it needs, so storing it saves most time for its memory. (In 3D,
    the first level has 75 % of the elements and half of the computations, the next a quarter of those elements and half
    of those computations.) Checkpointing is never chosen: it recomputes as much as rebuilding does and keeps more.

    Args:
        network: An InvertibleDiffusionUNet.
        shape: Shape of its input, ``(B, C, *spatial)``.
        memory_budget_gib: GiB for weights, gradients, activations, and AdamW's states and temporaries; AdamWInBackward
            needs less. None: a share of what is free on the device of the weights. If there are several processes, all
            must call this, and the one that has the least memory decides.
    Raises:
        ValueError: If a budget was given and the step does not fit even with everything rebuilt.
    """
    levels, device = network.num_levels, next(network.parameters()).device
    budget_gib, limit = memory_budget_gib, f"memory_budget_gib={memory_budget_gib}"
    if budget_gib is None:
        budget_gib, limit = _free_gib(network, device)

    def plan(stored: int) -> tuple[str, ...]:
        return ("rebuilt",) * (levels - stored) + ("stored",) * stored

    @cache
    def peak_gib(stored: int) -> float:
        return _peak_bytes(network, plan(stored), shape) / GIB

    fits = levels if peak_gib(levels) <= budget_gib else bisect_right(range(levels), budget_gib, key=peak_gib) - 1
    stored = min(all_gather_objects(fits))  # the same in all processes, because sharded weights are gathered together
    needs = f"a training step on {' x '.join(map(str, shape))} needs an estimated {peak_gib(max(stored, 0)):.2f} GiB"
    if stored < 0 and memory_budget_gib is not None:
        raise ValueError(
            f"{needs} with everything rebuilt, more than memory_budget_gib={memory_budget_gib}; raise the budget, or "
            f"use a smaller batch or volume"
        )
    return Plan(plan(max(stored, 0)), f"{needs}; {limit}")


def choose_policies(network: Any, size: tuple[int, ...], earlier: Mapping[str, Any]) -> str | Sequence[str]:
    """The policies of a network's training steps. What is ``"auto"``, also its precision, is written to the log.

    Args:
        network: An InvertibleDiffusionUNet.
        size: Size of its input, ``(B, *spatial)``.
        earlier: Its ``choices`` in the training that is resumed; empty if there is none.
    Returns:
        One policy for all levels, or one per level.
    """
    policies, chosen = network.activations, []
    if policies == "auto":
        resumed = earlier.get("activations", {})
        policies, reason = resumed.get(size) if isinstance(resumed, Mapping) else resumed, "as before it was resumed"
        if policies is None or network.memory_budget_gib is not None:
            shape = (size[0], network.in_channels, *size[1:])
            policies, reason = plan_activations(network, shape, network.memory_budget_gib)
        chosen.append(f"activations: {_described(policies)} ({reason})")
    if network.precision == "auto":
        device, precision = next(network.parameters()).device, network.training_precision()
        name = device_name(device) if device.type == "cuda" else f"this {device.type.upper()}"
        reason = f"{name} has {'' if has_bfloat16(device) else 'no '}instructions for bfloat16"
        if precision == earlier.get("precision"):
            reason = "as before it was resumed"
        chosen.append(f"precision: {precision} ({reason})")
    logger.info("; ".join(chosen))
    return policies


def share_of(device: torch.device) -> float:
    """The share of a device's free memory that this process may take.

    Args:
        device: The device; 0 for one whose free memory is not known.
    """
    # each GPU has one process; those of a CPU share its memory
    return SHARES.get(device.type, 0.0) / (idist.get_nproc_per_node() if device.type == "cpu" else 1)


def _described(policies: str | Sequence[str]) -> str:
    if isinstance(policies, str) or len({*policies}) == 1:
        return f"{policies if isinstance(policies, str) else policies[0]} on all levels"
    return ", ".join(f"{policy} on level {level}" for level, policy in enumerate(policies))


def _free_gib(network: nn.Module, device: torch.device) -> tuple[float, str]:
    """What a training step may take, and the same in words."""
    free = free_memory_bytes(device)
    if free is None:
        return 0.0, f"how much is free is not known for a device of type {device.type}"
    share = share_of(device)
    weights = sum(to_local(p).nbytes for p in network.parameters())  # allocated already, and part of the estimate
    gib = (share * free + weights) / GIB
    return gib, f"it may take {gib:.2f} GiB, {share:.0%} of what is free"


def _peak_bytes(network: Any, plan: tuple[str, ...], shape: Sequence[int]) -> float:
    """Estimated peak of a step of this process, which may hold a part of the weights and states only."""
    weights = [*network.parameters()]
    precision = network.training_precision()
    if any(hasattr(p, "to_local") for p in weights):  # FSDP's modules cannot be copied
        with torch.device("meta"):
            twin = type(network)(**network.arguments, branch_batch=network.branch_batch, precision=precision)
    else:
        twin = copy.copy(network)
        twin.precision = precision
    step = estimate(twin.with_activations(plan), shape)
    part = sum(to_local(p).numel() for p in weights) / sum(p.numel() for p in weights)
    passes = 1 if network.inverse_head is None else 2  # an inverse that is trained too keeps as much again
    return part * step.resident_bytes + passes * (step.peak_bytes - step.resident_bytes)
