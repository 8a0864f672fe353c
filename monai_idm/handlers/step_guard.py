"""Steps whose numbers are bad: found before they change the weights, named, and left out or the end of a training."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from statistics import median
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.utils.enums import CommonKeys

from monai_idm.distributed import all_gather_objects, full_tensor
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
    """Judges each step of a trainer: its loss, the norm of its gradients, the error of its rebuilt activations.

    A step is bad if one of them is NaN or infinite, if the norm is ``explosion`` times the median of the last 100, or
    if the error is larger than :class:`~monai_idm.handlers.ReconstructionErrorHandler` allows. It is logged, with the
    cases of its batch, and written to a table. The weights stay as they were, except with an
    :class:`~monai_idm.optimizers.AdamWInBackward`: that leaves out parameters whose own gradient is NaN or larger
    than all gradients together may be, and has stepped the others before the norm of all is known.

    :class:`~monai_idm.tasks.TrainingStep` asks it. It listens to no event; it stands among the trainer's handlers so
    that the usual norms are part of the trainer's state and go on with a training.

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

    def attach(self, engine: Engine) -> None:
        engine.state_dict_user_keys.extend(("gradient_norms", "bad_steps"))
        state = cast(Any, engine.state)
        state.gradient_norms, state.bad_steps = [], 0  # of the last good steps; in a row

    def loss_is_good(self, engine: Engine) -> bool:
        """Whether to go backward from the loss in the trainer's output; sets an AdamWInBackward's limit for that."""
        worst = _worst(float(engine.state.output[CommonKeys.LOSS].detach()))  # type: ignore[index]
        if not math.isfinite(worst):
            self._bad(engine, "the loss", worst)
            return False
        if isinstance(self.optimizer, AdamWInBackward):
            self.optimizer.skip_above = self._largest(engine)
        return True

    def gradients_are_good(self, engine: Engine) -> bool:
        """Whether to step with the gradients of the backward pass that has just ended."""
        state, norm, largest = cast(Any, engine.state), self._norm(), self._largest(engine)
        error = self.network.training_error() if hasattr(self.network, "training_error") else None
        error = None if error is None else _worst(error)
        if not norm <= largest:
            self._bad(engine, f"the gradients' norm (at most {largest:.3g})", norm)
        elif error is not None and not error <= self._error_limit():
            self._bad(engine, "the error of the rebuilt activations", error)
        else:
            state.gradient_norms = [*state.gradient_norms, norm][-_USUAL:]
            state.bad_steps = 0
            return True
        return False

    def _largest(self, engine: Engine) -> float:
        """Norm that the gradients of a good step may have."""
        norms = cast(Any, engine.state).gradient_norms
        usual = median(norms) if len(norms) == _USUAL else math.inf
        return min(self.explosion * usual, torch.finfo(torch.float32).max)

    def _error_limit(self) -> float:
        exact = str(getattr(self.network, "precision", "")).startswith("exact")
        return 0.0 if exact else error_limit(self.network)  # exact: to the last bit

    def _norm(self) -> float:
        if isinstance(self.optimizer, AdamWInBackward):
            return math.sqrt(sum(all_gather_objects(self.optimizer.squared_norm)))
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return float(full_tensor(torch.nn.utils.get_total_norm(gradients)))

    def _bad(self, engine: Engine, what: str, value: float) -> None:
        state = cast(Any, engine.state)
        state.bad_steps += 1
        batch = state.batch
        subjects = batch.get("subject", []) if isinstance(batch, dict) else []
        cases = ", ".join(str(subject) for process in all_gather_objects(list(subjects)) for subject in process)
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
    return max(all_gather_objects(value), key=lambda value: (not math.isfinite(value), value))
