"""Pools what the processes of a distributed run found, case by case."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

__all__ = ["pooled_cases"]


def pooled_cases(cases: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The cases of all processes of a distributed run, in the order of the split.

    Every process must call it. Subjects are told apart by name and count once each, because ``DistributedSampler``
    repeats cases to give every process as many. Without a process group nothing happens.

    Args:
        cases: Of this process: the rows of each case, which name its ``subject``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return cases
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, cases)
    pooled: dict[str, list[dict[str, Any]]] = {}
    for place in range(max(len(part) for part in parts)):  # the sampler deals cases out in turn
        for part in parts:
            if place < len(part):
                pooled.setdefault(part[place][0]["subject"], part[place])
    return list(pooled.values())
