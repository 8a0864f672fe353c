"""Detect bad training steps before they change the weights, name their cases, and skip them or end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.distributed import all_gather_objects, full_tensor
from monai_idm.failures import BadNumbers
from monai_idm.handlers.csv_rows import append_epoch
from monai_idm.handlers.reconstruction_error import error_limit
from monai_idm.optimizers import AdamWInBackward
from monai_idm.reversible import LARGEST

__all__ = ["StepGuard"]

logger = logging.getLogger(__name__)

_POLICIES = ("stop", "skip")
_USUAL = 100  # good steps, whose median is the usual gradient norm
_PATIENCE = 10  # bad steps in a row that end a run


class StepGuard:
    """Check each step of a trainer: its loss, the norm of its gradients, and the error of its rebuilt activations.

    A step is bad if one of them is NaN or infinite, if the norm is more than ``explosion`` times the median of the last
    100 good steps, or if the error is larger than :class:`~monai_idm.handlers.ReconstructionErrorHandler` allows. In
    exact precision it is bad if there is any error, or if the streams of a level have grown beyond
    :data:`~monai_idm.reversible.LARGEST`, where they are no longer exact. A bad step is logged, with the cases of its
    batch, and written to a table. The weights stay as they were, except with an
    :class:`~monai_idm.optimizers.AdamWInBackward`: it skips all parameters if loss or streams are bad, and those whose
    own gradient has a norm that is NaN or above the limit for all gradients together, but has stepped the other
    parameters before the norm of all gradients is known.

    A single step whose norm is too large, but finite, is left out by either policy: among small batches with timesteps
    of their own, such steps are rare but no sign of a fault.

    :class:`~monai_idm.tasks.TrainingStep` calls it; it subscribes to no event. It must be one of the trainer's handlers
    so that the latest norms are part of the trainer's state and a resumed run has them.

    Args:
        network: Network being trained.
        optimizer: Optimizer of its parameters.
        policy: ``"stop"`` ends the run at the first step with NaN, infinite values or a large error; ``"skip"`` leaves
            out such steps too. Ten bad steps in a row end a run in any case.
        explosion: Multiple of the median norm above which a step is bad.
        csv_file: Table of the bad steps; None: no table.
    Raises:
        ValueError: If ``policy`` is unknown, or ``explosion`` not above 1.
        BadNumbers: In training, if the run is ended.
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
        state.gradient_norms, state.bad_steps = [], 0  # norms of the last good steps; bad steps in a row

    def before_backward(self, engine: Engine, loss: Tensor) -> None:
        """Give an AdamWInBackward, which steps within the backward pass, what makes a gradient bad.

        Args:
            engine: The trainer.
            loss: Loss of this process.
        """
        if isinstance(self.optimizer, AdamWInBackward):
            peak, _ = self._asked("stream_peak", loss.new_zeros(2))
            bad = (~(loss.detach().isfinite() & (peak <= LARGEST))).float()
            self.optimizer.skip_above = self._norm_limit(engine)
            self.optimizer.skip_all = cast(Tensor, idist.all_reduce(bad, "MAX")) > 0  # in all processes or in none

    def step_is_good(self, engine: Engine, loss: Tensor) -> bool:
        """Whether to step with the gradients of the backward pass that has just ended.

        The host waits for the device once, for all numbers of the step. The loss in the trainer's output becomes a
        tensor of the host, so that nothing that logs it waits again.

        Args:
            engine: The trainer.
            loss: Loss of this process; the trainer's output may hold the mean over the processes.
        """
        state, limit = cast(Any, engine.state), self._norm_limit(engine)
        error, peak = self._asked("training_error", loss.new_zeros(())), self._asked("stream_peak", loss.new_zeros(2))
        numbers = [loss, self._norm(), error, *peak, state.output[CommonKeys.LOSS]]
        on_host = torch.stack([number.detach().to(loss.device, torch.float64) for number in numbers]).cpu().tolist()
        state.output[CommonKeys.LOSS] = torch.tensor(on_host.pop(), dtype=loss.dtype)
        worst_loss, norm, worst_error, (worst_peak, position) = self._of_all_processes(*on_host)
        if not math.isfinite(worst_loss):
            self._reject(engine, "the loss", worst_loss)
        elif not worst_peak <= LARGEST:
            level = self.network.levels[int(position)]
            what = f"the largest value in the streams of level {level} (0 is the finest; exact up to {LARGEST:.0f})"
            self._reject(engine, what, worst_peak)
        elif not norm <= limit:
            what = f"the gradients' norm (at most {limit:.3g})"
            self._reject(engine, what, norm, tolerated=math.isfinite(norm))
        elif not worst_error <= self._error_limit():
            self._reject(engine, "the error of the rebuilt activations", worst_error)
        else:
            state.gradient_norms = [*state.gradient_norms, norm][-_USUAL:]
            state.bad_steps = 0
            return True
        return False

    def _asked(self, method: str, otherwise: Tensor) -> Tensor:
        """What a reversible network says of its last step."""
        answer = getattr(self.network, method)() if hasattr(self.network, method) else None
        return otherwise if answer is None else answer

    def _norm_limit(self, engine: Engine) -> float:
        """Largest norm that the gradients of a good step may have."""
        norms = cast(Any, engine.state).gradient_norms
        usual = median(norms) if len(norms) == _USUAL else math.inf
        return min(self.explosion * usual, torch.finfo(torch.float32).max)

    def _error_limit(self) -> float:
        return 0.0 if self._is_exact() else error_limit(self.network)  # exact precision rebuilds bit for bit

    def _is_exact(self) -> bool:
        return str(getattr(self.network, "precision", "")).startswith("exact")

    def _norm(self) -> Tensor:
        """Norm of the gradients: of this process's shards, if AdamWInBackward steps sharded weights."""
        if isinstance(self.optimizer, AdamWInBackward):
            return self.optimizer.squared_norm.sqrt()
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return full_tensor(torch.nn.utils.get_total_norm(gradients))

    def _of_all_processes(
        self, loss: float, norm: float, error: float, *peak: float
    ) -> tuple[float, float, float, tuple[float, ...]]:
        """The worst of each, and the norm of all gradients: processes reject a step together, or none does."""
        losses, norms, errors, peaks = zip(*all_gather_objects((loss, norm, error, peak)), strict=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if isinstance(self.optimizer, AdamWInBackward) and hasattr(parameters[0], "to_local"):
            norm = math.sqrt(sum(n**2 for n in norms))
        return _worst(losses), norm, _worst(errors), max(peaks, key=lambda found: not found[0] <= LARGEST)

    def _reject(self, engine: Engine, what: str, value: float, tolerated: bool = False) -> None:
        state = cast(Any, engine.state)
        ends = self.policy == "stop" and not tolerated
        state.bad_steps += 1
        batch = state.batch
        subjects = batch.get("subject", []) if isinstance(batch, dict) else []
        cases = ", ".join(str(subject) for process in all_gather_objects(list(subjects)) for subject in process)
        if self.csv_file is not None and idist.get_rank() == 0:
            append_epoch(self.csv_file, engine, {"what": what, "value": value, "cases": cases})
        message = f"iteration {state.iteration}: {what} is {value:.3g}; cases {cases or 'unknown'}"
        if ends or state.bad_steps >= _PATIENCE:
            precisions = "float32" if self._is_exact() else "float32 or exact"
            end = "Training ends" if ends else f"{state.bad_steps} steps in a row are bad"
            raise BadNumbers(
                f"{message}. {end}; the checkpoints were written before this step. Check these cases, then resume with "
                f"--resume true and a smaller --learning_rate, with --precision {precisions}, or with --bad_steps "
                f"skip, which skips single steps"
            )
        logger.warning("%s; step skipped", message)


def _worst(values: Iterable[float]) -> float:
    return max(values, key=lambda value: (not math.isfinite(value), value))
