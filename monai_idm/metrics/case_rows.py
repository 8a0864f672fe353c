"""Rows of results, collected case by case and pooled over the processes of a distributed run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["CaseRows"]


class CaseRows:
    """Rows of results for the cases of a split; subclasses define their columns and their summary."""

    def __init__(self) -> None:
        self._cases: list[list[dict[str, Any]]] = []

    def reset(self) -> None:
        """Forget all cases."""
        self._cases = []

    def rows(self) -> list[dict[str, Any]]:
        """All rows, each with the number of its case, counted from 0, and its subject."""
        return [{"case": number, **row} for number, case in enumerate(self._cases) for row in case]

    def gather(self) -> None:
        """Pool the cases of all processes of a distributed run, in the order of the split.

        Every process must call this. Cases are identified by subject and count once each, because
        ``DistributedSampler`` repeats cases to give every process the same number. Without a process group this does
        nothing.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._cases)
        pooled: dict[str, list[dict[str, Any]]] = {}
        for place in range(max(len(part) for part in parts)):  # the sampler deals cases out to processes in turn
            for part in parts:
                if place < len(part):
                    pooled.setdefault(part[place][0]["subject"], part[place])
        self._cases = list(pooled.values())

    def _add(self, subject: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add the rows of a case; their numbers may be tensors, which are read from the device all at once."""
        case = [{"subject": subject, **row} for row in rows]
        tensors = {(place, key): x for place, row in enumerate(case) for key, x in row.items() if isinstance(x, Tensor)}
        if tensors:
            device = next(iter(tensors.values())).device
            numbers = torch.stack([number.to(device) for number in tensors.values()]).cpu().tolist()
            for (place, key), number in zip(tensors, numbers, strict=True):
                case[place][key] = number
        self._cases.append(case)
