"""Steps whose numbers are bad: found before they change the weights, named, and left out or the end of a training."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from statistics import median
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.distributed import from_all, here, whole
from monai_idm.failures import BadNumbers
from monai_idm.handlers.csv_rows import append_epoch
from monai_idm.handlers.reconstruction_error import error_limit
from monai_idm.optimizers import AdamWInBackward

__all__ = ["StepGuard"]

logger = logging.getLogger(__name__)

_POLICIES = ("stop", "skip")
_USUAL = 100  # steps that tell what gradient norm is usual
_PATIENCE = 10  # bad steps in a row


class StepGuard:
    """Look at each step of a trainer: loss, norm of the gradients, error of the rebuilt activations.

    A step is bad if one of them is no finite number, if the norm is ``explosion`` times the median of the last 100, or
    if the error is larger than :class:`~monai_idm.handlers.ReconstructionErrorHandler` allows. It is logged, with the
    cases of its batch, and so it is in a table. The weights stay as they were, but for an
    :class:`~monai_idm.optimizers.AdamWInBackward`: that leaves out parameters whose own gradient is no number or
    larger than all gradients together may be, and has stepped the others before the norm of all is known.

    What is usual is part of the trainer's state, and goes on with a training.

    Args:
        network: Being trained.
        optimizer: Of its parameters.
        policy: ``"stop"`` ends the training at the first bad step; ``"skip"`` goes on, until ten in a row are bad.
        explosion: The norm that is too large, in medians.
        csv_file: Where bad steps are written down; None: nowhere.
    Raises:
        ValueError: If ``policy`` is neither, or ``explosion`` not above 1.
        BadNumbers: In training, where it ends.
    """

    def __init__(
        self,
        network: Any,
        optimizer: torch.optim.Optimizer,
        policy: str = "stop",
        explosion: float = 100.0,
        csv_file: str | Path | None = None,
    ) -> None:
        if policy not in _POLICIES:
            raise ValueError(f"policy={policy!r} is unknown; choose one of {', '.join(_POLICIES)}")
        if not explosion > 1:
            raise ValueError(f"explosion={explosion}; choose a multiple of the usual gradient norm, above 1")
        self.network = network
        self.optimizer = optimizer
        self.policy = policy
        self.explosion = explosion
        self.csv_file = None if csv_file is None else Path(csv_file)
        self._squares: list[float] = []  # of the gradients that an AdamWInBackward has met in this pass
        self._largest = math.inf  # norm of the gradients in this step
        self._skipped = False

    def attach(self, engine: Engine) -> None:
        engine.state_dict_user_keys.extend(("gradient_norms", "bad_steps"))
        state = cast(Any, engine.state)
        state.gradient_norms, state.bad_steps = [], 0  # of the last good steps; in a row
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._gradients)
        if isinstance(self.optimizer, AdamWInBackward):
            self.optimizer.accepts = self._accepts

    def _begin(self, engine: Engine) -> None:
        norms = cast(Any, engine.state).gradient_norms
        usual = median(norms) if len(norms) == _USUAL else math.inf
        self._largest = min(self.explosion * usual, torch.finfo(torch.float32).max)
        self._squares, self._skipped = [], False

    def _loss(self, engine: Engine) -> None:
        loss = engine.state.output[CommonKeys.LOSS]  # type: ignore[index]
        worst = _worst(float(loss.detach()))
        if not math.isfinite(worst):
            self._bad(engine, "the loss", worst)
            # a backward pass that reaches no weight
            engine.state.output[CommonKeys.LOSS] = loss.detach().requires_grad_()  # type: ignore[index]
            self._skipped = True

    def _accepts(self, gradient: Tensor) -> bool:
        """Whether an AdamWInBackward may step with a gradient."""
        self._squares.append(float(torch.linalg.vector_norm(here(gradient), dtype=torch.float32)) ** 2)
        return self._squares[-1] <= self._largest**2

    def _gradients(self, engine: Engine) -> None:
        if self._skipped:
            return
        state, norm = cast(Any, engine.state), self._norm()
        error = self.network.training_error() if hasattr(self.network, "training_error") else None
        error = None if error is None else _worst(error)
        if not norm <= self._largest:
            self._bad(engine, f"the gradients' norm (at most {self._largest:.3g})", norm)
        elif error is not None and not error <= self._error_limit():
            self._bad(engine, "the error of the rebuilt activations", error)
        else:
            state.gradient_norms = [*state.gradient_norms, norm][-_USUAL:]
            state.bad_steps = 0
            return
        self.optimizer.zero_grad()

    def _error_limit(self) -> float:
        exact = str(getattr(self.network, "precision", "")).startswith("exact")
        return 0.0 if exact else error_limit(self.network)  # exact: to the last bit

    def _norm(self) -> float:
        if isinstance(self.optimizer, AdamWInBackward):
            return math.sqrt(sum(from_all(sum(self._squares))))
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return float(whole(torch.nn.utils.get_total_norm(gradients)))

    def _bad(self, engine: Engine, what: str, value: float) -> None:
        state = cast(Any, engine.state)
        state.bad_steps += 1
        batch = state.batch
        subjects = batch.get("subject", []) if isinstance(batch, dict) else []
        cases = ", ".join(str(subject) for process in from_all(list(subjects)) for subject in process)
        if self.csv_file is not None and idist.get_rank() == 0:
            append_epoch(self.csv_file, engine, {"what": what, "value": value, "cases": cases})
        found = f"iteration {state.iteration}: {what} is {value:.3g}; cases {cases or 'unknown'}"
        if self.policy == "stop" or state.bad_steps >= _PATIENCE:
            end = "Training ends" if self.policy == "stop" else f"{state.bad_steps} steps in a row are bad"
            raise BadNumbers(
                f"{found}. {end}; the checkpoints are from before. Look at these cases, then go on with --resume true "
                f"and a smaller --learning_rate, with --precision float32 or exact, or with --bad_steps skip, which "
                f"leaves single steps out"
            )
        logger.warning("%s; left out", found)


def _worst(value: float) -> float:
    """Of all processes, which leave a step out together or not at all: the others would wait for gradients."""
    return max(from_all(value), key=lambda value: (not math.isfinite(value), value))
