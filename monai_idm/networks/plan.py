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
from monai_idm.meters import OptimizerBytes, estimate, free_memory_bytes

__all__ = ["BEFORE_AUTO", "SHARES", "Plan", "StepMemory", "choose_policies", "plan_activations", "share_of"]

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


class StepMemory:
    """Estimated memory of a training step, by the number of levels, from the deepest up, that store their activations.

    A deep level has few elements for the computations it needs, so storing it saves most time for its memory. (In 3D,
    the first level has 75 % of the elements and half of the computations, the next a quarter of those elements and half
    of those computations.) Checkpointing is never chosen: it recomputes as much as rebuilding does and keeps more.

    Args:
        network: An InvertibleDiffusionUNet.
        shape: Shape of its input, ``(B, C, *spatial)``.
        optimizer: Memory of the optimizer; None: as much as AdamW's.
    """

    def __init__(self, network: Any, shape: Sequence[int], optimizer: OptimizerBytes | None = None) -> None:
        self.levels = network.num_levels
        self.peak_bytes = cache(lambda stored: _peak_bytes(network, self.policies(stored), shape, optimizer))
        """The peak if so many levels are stored."""

    def policies(self, stored: int) -> tuple[str, ...]:
        return ("rebuilt",) * (self.levels - stored) + ("stored",) * stored

    def most_stored(self, budget_bytes: float) -> int:
        """The number of levels that can be stored: the fastest step that fits; -1 if none fits."""
        if self.peak_bytes(self.levels) <= budget_bytes:
            return self.levels
        return bisect_right(range(self.levels), budget_bytes, key=self.peak_bytes) - 1


def plan_activations(network: Any, shape: Sequence[int], memory_budget_gib: float | None = None) -> Plan:
    """The fastest policies whose training step fits, see :class:`StepMemory`.

    Args:
        network: An InvertibleDiffusionUNet.
        shape: Shape of its input, ``(B, C, *spatial)``.
        memory_budget_gib: GiB for weights, gradients, activations, and the optimizer's states and temporaries. None: a
            share of what is free on the device of the weights. If there are several processes, all must call this, and
            the one that has the least memory decides.
    Raises:
        ValueError: If a budget was given and the step does not fit even with everything rebuilt.
    """
    budget_gib, limit = memory_budget_gib, f"memory_budget_gib={memory_budget_gib}"
    if budget_gib is None:
        budget_gib, limit = _free_gib(network, next(network.parameters()).device)
    memory = StepMemory(network, shape, network.optimizer_bytes)
    # the same in all processes, because sharded weights are gathered together
    fits = min(all_gather_objects(memory.most_stored(budget_gib * GIB)))
    stored = max(fits, 0)
    needs = (
        f"a training step on {' x '.join(map(str, shape))} needs an estimated {memory.peak_bytes(stored) / GIB:.2f} GiB"
    )
    if fits < 0 and memory_budget_gib is not None:
        raise ValueError(
            f"{needs} with everything rebuilt, more than memory_budget_gib={memory_budget_gib}; raise the budget, or "
            f"use a smaller batch or volume"
        )
    return Plan(memory.policies(stored), f"{needs}; {limit}")


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


def _peak_bytes(network: Any, plan: tuple[str, ...], shape: Sequence[int], optimizer: OptimizerBytes | None) -> float:
    """Estimated peak of a step of this process, which may hold a part of the weights and states only."""
    weights = [*network.parameters()]
    precision = network.training_precision()
    if any(hasattr(p, "to_local") for p in weights):  # FSDP's modules cannot be copied
        with torch.device("meta"):
            settings = {name: getattr(network, name) for name in ("branch_batch", "gradient_dtype")}
            twin = type(network)(**network.arguments, **settings, precision=precision)
    else:
        twin = copy.copy(network)
        twin.precision = precision
    step = estimate(twin.with_activations(plan), shape, optimizer)
    part = sum(to_local(p).numel() for p in weights) / sum(p.numel() for p in weights)
    passes = 1 if network.inverse_head is None else 2  # an inverse that is trained too keeps as much again
    return part * step.resident_bytes + passes * (step.peak_bytes - step.resident_bytes)
