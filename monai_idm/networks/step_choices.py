"""How a network computes its steps: in which precision, and what it keeps for the backward pass.

Its weights do not depend on it, and its predictions only by rounding. What is ``"auto"`` is chosen on the machine at
hand, once for each size of the input, and recorded, so that a resumed training rounds as before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from operator import methodcaller
from typing import Any, Self

import torch
from torch import Tensor, nn

from monai_idm.checkpoints import sign
from monai_idm.machine import has_bfloat16
from monai_idm.meters import OptimizerBytes
from monai_idm.networks.checks import one_of
from monai_idm.networks.plan import BEFORE_AUTO, choose_policies
from monai_idm.reversible import ACTIVATIONS, true_float32

__all__ = ["StepChoices", "computing"]

_PRECISIONS = ("float32", "mixed", "exact", "exact-mixed", "auto")


class StepChoices(nn.Module):
    """Base of a network with several levels, each of which has a policy for its activations.

    Args:
        num_levels: Number of levels.
        precision: Name of a precision, or ``"auto"``.
        activations: A policy, one per level, or ``"auto"``.
        memory_budget_gib: GiB for a training step, for ``"auto"``; None: what is free on the device, with a margin.
    Raises:
        ValueError: If one of them is unknown, or a budget is given without ``"auto"``.
    """

    def __init__(
        self,
        num_levels: int,
        precision: str,
        activations: str | Sequence[str],
        memory_budget_gib: float | None,
    ) -> None:
        super().__init__()
        one_of("precision", precision, _PRECISIONS)
        self.num_levels = num_levels
        self.precision = precision
        self.optimizer_bytes: OptimizerBytes | None = None
        """What the optimizer needs, for ``activations="auto"``; None: as much as AdamW."""
        self._set_activations(activations, memory_budget_gib)
        self._earlier: Mapping[str, Any] = {}
        sign(self, "choices", methodcaller("choices"))

    def with_activations(self, activations: str | Sequence[str], memory_budget_gib: float | None = None) -> Self:
        """The same network, sharing its parameters, with another policy for the backward pass."""
        twin = copy.copy(self)
        twin._set_activations(activations, memory_budget_gib)
        return twin

    def training_precision(self) -> str:
        """The precision of training steps: ``precision``, or what ``"auto"`` is on the device of the weights."""
        if self.precision != "auto":
            return self.precision
        earlier = self._earlier.get("precision")
        if earlier in ("float32", "mixed"):
            return earlier
        return "mixed" if has_bfloat16(next(self.parameters()).device) else "float32"

    def in_precision(self, device: torch.device) -> AbstractContextManager:
        """A context for what is computed now; predictions, which need no gradients, are float32 with ``"auto"``."""
        predicts = self.precision == "auto" and not torch.is_grad_enabled()
        return computing("float32" if predicts else self.training_precision(), device)

    def policies(self, x: Tensor) -> list[str]:
        """The policy of every level for an input ``(B, C, *spatial)``."""
        plan = self.activations
        if torch.is_grad_enabled() and "auto" in (plan, self.precision):
            size = (x.shape[0], *x.shape[2:])
            if size not in self._plans:
                self._plans[size] = choose_policies(self, size, self._earlier)
            plan = self._plans[size]
        elif plan == "auto":
            plan = "stored"
        return [plan] * self.num_levels if isinstance(plan, str) else list(plan)

    def choices(self) -> dict[str, Any]:
        """How training steps are computed, which every ``state_dict`` records: ``auto`` depends on the machine.

        Returns:
            ``precision`` and ``activations``; where these are ``"auto"``, by size of the input, ``(B, *spatial)``.
        """
        activations = dict(self._plans) if self.activations == "auto" else self.activations
        return {"precision": self.training_precision(), "activations": activations}

    def resume_choices(self, choices: Mapping[str, Any] | None) -> None:
        """Let ``"auto"`` be what it was in the training that is resumed, so that steps are rounded alike.

        Args:
            choices: What ``choices`` returned there; None: that training was older than ``"auto"`` in train.yaml.
        """
        self._earlier = BEFORE_AUTO if choices is None else choices

    def _set_activations(self, activations: str | Sequence[str], memory_budget_gib: float | None) -> None:
        if isinstance(activations, str):
            one_of("activations", activations, (*ACTIVATIONS, "auto"))
        elif not activations or len(activations) != self.num_levels or not set(activations) <= set(ACTIVATIONS):
            raise ValueError(
                f"activations={activations}; give one for all levels, or one of {', '.join(ACTIVATIONS)} for each of "
                f"the {self.num_levels}"
            )
        if memory_budget_gib is not None and activations != "auto":
            raise ValueError(
                f"activations={activations!r} with memory_budget_gib={memory_budget_gib}; only 'auto' takes a budget"
            )
        self.activations = activations
        self.memory_budget_gib = memory_budget_gib
        self._plans: dict[tuple[int, ...], str | Sequence[str]] = {}


def computing(precision: str, device: torch.device) -> AbstractContextManager:
    """A context that computes in a precision other than ``"auto"``."""
    if not precision.endswith("mixed"):
        return true_float32()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
