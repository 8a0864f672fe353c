r"""Step each parameter as soon as its gradient is complete, and free the gradient.

An ordinary step keeps all gradients, 4 bytes per weight, until the optimizer has them. AdamW needs for a parameter
:math:`p` and its state :math:`s_p` no gradient but its own,

.. math:: p, s_p \leftarrow \text{AdamW}(p, s_p, \nabla_p L),

and can do that within the backward pass, with the same result, bit for bit.

Source: the hook is that of the PyTorch tutorial "How to save memory by fusing the optimizer step into the backward
pass"; the idea is that of LOMO, Lv et al. 2023, arXiv:2306.09782.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monai_idm.distributed import GradientAverage, distribute_like, to_local
from monai_idm.optimizers.gradient_hook import GradientHook
from monai_idm.optimizers.states import ParameterStep
from monai_idm.optimizers.weight_norm import norm_of_weights

__all__ = ["AdamWInBackward"]


class AdamWInBackward(torch.optim.Optimizer):
    """AdamW, with eq. 8's lambda_L2, that steps in the backward pass: gradients never exist all at once.

    ``loss.backward()`` steps; ``step()`` after it ends the pass, and steps what :meth:`hold` held back. The losses of a
    step are summed into one backward pass.

    Where ``torch.distributed`` runs several processes, they start from the weights of process 0, and each gradient is
    averaged before its step: pass the bare network, not ``DistributedDataParallel``. Every process must use the same
    parameters in a pass. DTensors (of FSDP2's ``fully_shard``, to be called before) come averaged already; their 8-bit
    states are those of each process's own part, so that every process must save its ``state_dict``.

    bfloat16 weights are stepped in float32 and rounded stochastically, with random numbers of their own.

    Args:
        params: Parameters or groups; a group's ``lambda_l2`` overrides the default. See :func:`weight_norm_groups`.
        lr, betas, eps, weight_decay: As of ``torch.optim.AdamW``.
        lambda_l2: Weight of the norm of the weights, which is taken before the first of them is stepped.
        states: ``"float32"``, 8 bytes per weight, or ``"8bit"``, 2.03 bytes per weight.
        kwargs: Of ``torch.optim.AdamW``, as ``fused=True``, which needs no temporary memory; with 8-bit states of
            ``bitsandbytes.optim.AdamW8bit``.
    Raises:
        ValueError: If an argument is out of range, a weight neither float32 nor bfloat16 (nor float64, with float32
            states), or a parameter one of another living ``AdamWInBackward``.
        ImportError: If bitsandbytes is needed and missing.
        RuntimeError: In ``backward()`` or ``step()``, if gradients come again; by ``torch.amp.GradScaler``.
    """

    averages_gradients = True  # over the processes, so that nothing else must: see monai_idm.distributed.replicated

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lambda_l2: float = 0.0,
        states: str = "float32",
        **kwargs: Any,
    ) -> None:
        if lambda_l2 < 0:
            raise ValueError(f"lambda_l2={lambda_l2}; choose 0 or more")
        if "max_grad_norm" in kwargs:
            raise ValueError(
                "max_grad_norm needs all gradients at once, which this optimizer avoids; where it must be: "
                "with optimizer.hold(): loss.backward(), then torch.nn.utils.clip_grad_norm_ and optimizer.step()"
            )
        self.states = states
        self._adamw = ParameterStep(states, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **kwargs)
        self._places: dict[Tensor, tuple[int, int]] = {}  # the group, and the number among all
        self._hook = GradientHook(self)
        self._average = GradientAverage()
        self._pass = _Pass()
        self._held = False
        self.skip_above: float | None = None
        """A parameter whose gradient has a larger norm than this, or NaN, is not stepped; None: all are.

        With a limit, each gradient's norm is brought to the host, and counts in :attr:`squared_norm`.
        """
        try:
            super().__init__(params, {**self._adamw.defaults, "lambda_l2": lambda_l2})
        except Exception:
            self.remove()  # half an optimizer must not step
            raise

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, to be stepped as the others."""
        super().add_param_group(param_group)
        params = self.param_groups[-1]["params"]
        try:
            for p in params:
                self._adamw.check(p)
                self._hook.check(p)
        except ValueError:
            self.param_groups.pop()
            raise
        for p in params:
            self._places[p] = len(self.param_groups) - 1, len(self._places)
            self._average.spread(p)
            self._hook.put_on(p)

    def remove(self) -> None:
        """Take the hooks off: from now on only ``step()`` steps, as of any optimizer."""
        self._hook.remove()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let gradients accumulate: the next backward pass outside, or ``step()``, steps with their sum.

        For gradient accumulation, and for what needs all gradients at once, as ``clip_grad_norm_``: after the block
        they are averages over the processes.
        """
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        for p in [p for p in self._places if p.grad is not None]:
            self._average.average(p)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """End the pass; step what still holds a gradient, which is nothing unless it was held."""
        if closure is not None:
            raise ValueError("AdamWInBackward takes no closure: the gradients must be complete before its step")
        if any(p.grad is not None for p in self._pass.stepped):
            raise RuntimeError(
                "a parameter that was stepped has a gradient again, as DistributedDataParallel writes them when all is "
                "over; pass the bare network: this optimizer averages the gradients itself"
            )
        self._begin()
        for p in [p for p in self._places if p.grad is not None]:
            self._step(p)
        self._begin()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and whatever a backward pass that failed left behind."""
        self._begin()
        super().zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue, bit for bit, where ``state_dict()`` was taken; ``torch.optim.AdamW``'s is taken too.

        Raises:
            ValueError: If the groups differ, or the kind of the states.
        """
        for state in state_dict["state"].values():
            self._adamw.check_state(state)
        lambdas = [group["lambda_l2"] for group in self.param_groups]
        super().load_state_dict({**state_dict, "state": {}})  # the states it would cast to the type of the weights
        for group, lambda_l2 in zip(self.param_groups, lambdas, strict=True):
            group.setdefault("lambda_l2", lambda_l2)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, (p, (place, _)) in zip(numbers, self._places.items(), strict=True):
            state, group = state_dict["state"].get(number, {}), self.param_groups[place]
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == p.shape:
                    value = distribute_like(value, p)
                stays = key == "step" and not (group.get("fused") or group.get("capturable"))  # AdamW counts on the CPU
                self.state[p][key] = value.to(p.device) if torch.is_tensor(value) and not stays else value

    @property
    def squared_norm(self) -> float:
        """Squared norm of all gradients of this process in this pass, including those above ``skip_above``.

        0 where ``skip_above`` is None, and again after ``step()`` and ``zero_grad()``.
        """
        return sum(self._pass.squares)

    @property
    def _step_supports_amp_scaling(self) -> bool:  # the first thing that GradScaler.step asks
        raise RuntimeError(
            "AdamWInBackward takes no GradScaler: the backward pass has stepped with scaled gradients already; use "
            'amp=False, and precision="mixed" of the network: bfloat16 needs no scaling'
        )

    def gradient_is_complete(self, p: Tensor) -> None:
        """Step p, once its gradient is that of all processes. For the hooks."""
        task = torch._C._current_graph_task_id()
        if self._pass.task not in (None, task):
            raise RuntimeError(
                "another backward pass, and neither step() nor zero_grad() since the last, which has stepped already: "
                "sum the losses of a step into one backward pass; accumulate gradients (accumulation_steps in MONAI) "
                "in optimizer.hold(); checkpoint with use_reentrant=False"
            )
        if not self._held:
            self._pass.task = task
            self._average.send(p, self._step)

    def _step(self, p: Tensor) -> None:
        place, number = self._places[p]
        group = self.param_groups[place]  # by its place: load_state_dict exchanges the dicts
        if group["lambda_l2"] and self._pass.norm is None:
            self._pass.norm = norm_of_weights(self.param_groups)
        assert p.grad is not None  # it is complete
        if self._is_small(p.grad):
            self._adamw(p, group, self.state[p], self._pass.norm, number)
        p.grad = None
        self._pass.stepped.add(p)

    def _is_small(self, gradient: Tensor) -> bool:
        if self.skip_above is None:
            return True
        norm = torch.linalg.vector_norm(to_local(gradient), dtype=torch.promote_types(gradient.dtype, torch.float32))
        self._pass.squares.append(float(norm) ** 2)
        return self._pass.squares[-1] <= self.skip_above**2

    def _begin(self) -> None:
        self._pass = _Pass()
        self._average.forget()


@dataclass
class _Pass:  # what is known of one backward pass
    task: int | None = None  # autograd's number of it
    norm: Tensor | None = None  # of the weights before it
    stepped: set[Tensor] = field(default_factory=set)
    squares: list[float] = field(default_factory=list)  # of the gradients' norms
