r"""Step each parameter as soon as its gradient is complete, and free the gradient.

An ordinary step keeps all gradients, 4 bytes per weight, until the optimizer runs. To step a parameter :math:`p` and
its state :math:`s_p`, AdamW needs no gradient but that of the parameter,

.. math:: p, s_p \leftarrow \text{AdamW}(p, s_p, \nabla_p L),

so it can step within the backward pass, with a result that is equal bit for bit.

Source: the hook is that of the PyTorch tutorial "How to save memory by fusing the optimizer step into the backward
pass"; the idea is that of LOMO, Lv et al. 2023, arXiv:2306.09782.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.distributed import GradientAverage, distribute_like, to_local
from monai_idm.optimizers.gradient_hook import GradientHook
from monai_idm.optimizers.offload import Offload
from monai_idm.optimizers.states import ParameterStep
from monai_idm.optimizers.weight_norm import norm_of_weights, require_same_use_of_muon, weight_norm

__all__ = ["AdamWInBackward"]


class AdamWInBackward(torch.optim.Optimizer):
    """AdamW, with eq. 8's lambda_L2, that steps in the backward pass, so that gradients never all exist together.

    ``loss.backward()`` steps the parameters. Call ``step()`` after it: it ends the pass, and steps with the gradients
    that :meth:`hold` held back. Sum the losses of a step into one backward pass.

    If ``torch.distributed`` runs several processes, they start from the weights of process 0, and each gradient is
    averaged before its step: pass the bare network, not ``DistributedDataParallel``. Every process must use the same
    parameters in a pass. The gradients of DTensors (from FSDP2's ``fully_shard``, which must be called first) are
    averaged already; their 8-bit states belong to the shard of each process, so every process must save its
    ``state_dict``.

    bfloat16 weights are stepped in float32 and rounded stochastically, with a random generator of their own.

    Args:
        params: Parameters or groups; a group's ``lambda_l2`` overrides the default, and ``muon=True`` makes it step its
            kernels by Muon. See :func:`weight_norm_groups`.
        lr, betas, eps, weight_decay: The same as for ``torch.optim.AdamW``.
        lambda_l2: Factor of the norm of the weights, which is computed before the first of them is stepped.
        states: ``"float32"``, 8 bytes per weight, with Muon 4; or ``"8bit"``, 2.03 bytes per weight, with Muon 1.02.
        offload: Operations of a reversible network, in their order, whose weights and states are kept in the host's
            memory and are on the device only while they are needed (:mod:`monai_idm.optimizers.offload`), until
            :meth:`remove` is called. The results are the same. A step can use each of them once.
        kwargs: Arguments of ``torch.optim.AdamW``, such as ``fused=True``, which needs no temporary memory; with 8-bit
            states, those of ``bitsandbytes.optim.AdamW8bit``.
    Raises:
        ValueError: If an argument is out of range, if a weight is neither float32 nor bfloat16 (nor float64, with
            float32 states), if another living ``AdamWInBackward`` has one of the parameters, or if an operation to
            offload has sharded weights, or weights that are not among ``params``.
        ImportError: If bitsandbytes is needed and missing.
        RuntimeError: In ``backward()``, if neither ``step()`` nor ``zero_grad()`` has ended the last pass; in
            ``step()``, if a parameter has a gradient again after its step; with ``torch.amp.GradScaler``; in the
            forward pass, if an operation that is offloaded is used twice.
    """

    averages_gradients = True  # over the processes, so nothing else has to: see monai_idm.distributed.replicated

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lambda_l2: float = 0.0,
        states: str = "float32",
        offload: Sequence[nn.Module] = (),
        **kwargs: Any,
    ) -> None:
        if lambda_l2 < 0:
            raise ValueError(f"lambda_l2={lambda_l2}; choose 0 or more")
        if "max_grad_norm" in kwargs:
            raise ValueError(
                "max_grad_norm needs all gradients at once, which this optimizer avoids; if you need it: "
                "with optimizer.hold(): loss.backward(), then torch.nn.utils.clip_grad_norm_ and optimizer.step()"
            )
        self.states = states
        self._adamw = ParameterStep(states, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **kwargs)
        self._places: dict[Tensor, tuple[int, int]] = {}  # index of the group, and number among all parameters
        self._hook = GradientHook(self)
        self._average = GradientAverage()
        self._pass = _Pass()
        self._held = False
        self._offload: Offload | None = None
        self.skip_above: float | None = None
        """A parameter whose gradient has a larger norm than this, or NaN, is not stepped; None: all are stepped.

        With a limit, the norm of each gradient is added to :attr:`squared_norm`.
        """
        self.skip_all: Tensor | None = None
        """A boolean on the device: whether the next pass steps no parameter at all; None: it does."""
        try:
            super().__init__(params, {**self._adamw.defaults, "lambda_l2": lambda_l2})
            if offload:
                if any(p not in self._places for module in offload for p in module.parameters()):
                    raise ValueError("offload holds an operation with weights that this optimizer does not step")
                this = weakref.proxy(self)
                self._offload = Offload(offload, lambda p: this.state[p])
        except Exception:
            self.remove()  # an optimizer that failed to build must not step
            raise

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which are stepped like the others."""
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

    @property
    def offloaded(self) -> Sequence[nn.Module]:
        """The operations whose weights and states are on the host."""
        return () if self._offload is None else self._offload.modules

    def remove(self) -> None:
        """Remove the hooks: from now on only ``step()`` steps, as in any other optimizer, and nothing is offloaded."""
        self._hook.remove()
        if self._offload is not None:
            self._offload.remove()
            self._offload = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let gradients accumulate: the next backward pass outside the block, or ``step()``, steps with their sum.

        Use it for gradient accumulation, and for functions that need all gradients, such as ``clip_grad_norm_``. After
        the block, the gradients are averages over the processes.
        """
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        for p in [p for p in self._places if p.grad is not None]:
            self._average.average(p)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """End the pass, and step parameters that still have a gradient: none, unless :meth:`hold` was used."""
        if closure is not None:
            raise ValueError("AdamWInBackward takes no closure: the gradients must be complete before its step")
        if any(p.grad is not None for p in self._pass.stepped):
            raise RuntimeError(
                "a parameter that was already stepped has a gradient again, as DistributedDataParallel writes one at "
                "the end of the pass; pass the bare network: this optimizer averages the gradients itself"
            )
        self._begin()
        for p in [p for p in self._places if p.grad is not None]:
            self._step(p)
        self._begin()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and anything left behind by a backward pass that failed."""
        self._begin()
        super().zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue, bit for bit, from a ``state_dict()``; that of ``torch.optim.AdamW`` is accepted too.

        Raises:
            ValueError: If the groups or the kind of the states differ.
        """
        require_same_use_of_muon(self, state_dict)
        for state in state_dict["state"].values():
            self._adamw.check_state(state)
        lambdas = [group["lambda_l2"] for group in self.param_groups]
        super().load_state_dict({**state_dict, "state": {}})  # it would cast the states to the type of the weights
        for group, lambda_l2 in zip(self.param_groups, lambdas, strict=True):
            group.setdefault("lambda_l2", lambda_l2)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, (p, (group_index, _)) in zip(numbers, self._places.items(), strict=True):
            state, group = state_dict["state"].get(number, {}), self.param_groups[group_index]
            offload = self._offload_of(p)
            device = p.device if offload is None else offload.device
            for key, value in state.items():
                if torch.is_tensor(value) and value.shape == p.shape:
                    value = distribute_like(value, p)
                # AdamW counts its steps on the CPU
                on_cpu = key == "step" and not (group.get("fused") or group.get("capturable"))
                self.state[p][key] = value.to(device) if torch.is_tensor(value) and not on_cpu else value
            if offload is not None:
                offload.put_new_states(p)

    @property
    def squared_norm(self) -> Tensor:
        """Squared norm of all gradients of this process in this pass, including those above ``skip_above``.

        It is on the device; 0 if ``skip_above`` is None, and after ``step()`` and ``zero_grad()``.
        """
        return torch.stack(self._pass.squares).sum() if self._pass.squares else torch.zeros(())

    @property
    def _step_supports_amp_scaling(self) -> bool:  # GradScaler.step reads it first
        raise RuntimeError(
            "AdamWInBackward cannot be used with GradScaler: the backward pass has already stepped with scaled "
            "gradients; use "
            'amp=False, and precision="mixed" of the network: bfloat16 needs no scaling'
        )

    def gradient_is_complete(self, p: Tensor) -> None:
        """Average the gradient of p over the processes, then step p. Called by the hooks."""
        task = torch._C._current_graph_task_id()
        if self._pass.task not in (None, task):
            raise RuntimeError(
                "another backward pass without step() or zero_grad() since the last, which has already stepped: "
                "sum the losses of a step into one backward pass; accumulate gradients (accumulation_steps in MONAI) "
                "in optimizer.hold(); checkpoint with use_reentrant=False"
            )
        if not self._held:
            self._pass.task = task
            self._average.send(p, self._step)
        elif (offload := self._offload_of(p)) is not None:
            offload.put_back(p)

    def _step(self, p: Tensor) -> None:
        group_index, number = self._places[p]
        group = self.param_groups[group_index]  # by index: load_state_dict replaces the dicts
        if group["lambda_l2"] and self._pass.norm is None:
            self._pass.norm = norm_of_weights(self.param_groups, self._norm)
        assert p.grad is not None
        offload = self._offload_of(p)
        if offload is not None:
            offload.fetch(p)
        self._adamw(p, group, self.state[p], self._pass.norm, number, self._skips(p.grad))
        p.grad = None
        self._pass.stepped.add(p)
        if offload is not None:
            offload.put_back(p)

    def _norm(self, p: Tensor) -> Tensor:
        offload = self._offload_of(p)
        return weight_norm(p) if offload is None else offload.norm(p)

    def _offload_of(self, p: Tensor) -> Offload | None:
        return self._offload if self._offload is not None and p in self._offload else None

    def _skips(self, gradient: Tensor) -> Tensor | None:
        """Whether not to step with a gradient, as a boolean on the device: the host would wait for each of them."""
        if self.skip_above is None:
            return self.skip_all
        norm = torch.linalg.vector_norm(to_local(gradient), dtype=torch.promote_types(gradient.dtype, torch.float32))
        self._pass.squares.append(norm.square())
        above = ~(norm <= self.skip_above)  # true for NaN
        return above if self.skip_all is None else above | self.skip_all

    def _begin(self) -> None:
        self._pass = _Pass()
        self._average.forget()
        if self._offload is not None:
            self._offload.end_pass()


@dataclass
class _Pass:
    """State of one backward pass."""

    task: int | None = None  # autograd's number of the pass
    norm: Tensor | None = None  # norm of the weights before the pass
    stepped: set[Tensor] = field(default_factory=set)
    squares: list[Tensor] = field(default_factory=list)  # squared norms of the gradients
