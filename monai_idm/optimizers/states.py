r"""AdamW or Muon on a single parameter, with float32 or 8-bit states, and with stochastic rounding of bfloat16 weights.

A bfloat16 weight has 8 significant bits and would ignore any step below 1/512 of itself. Stochastic rounding chooses
the neighbour below or above with the probability that makes the mean right,

.. math:: E[\text{round}(w)] = w,

so that many small steps add up. A step therefore copies the weight and its gradient to float32, runs AdamW on the
copies, and rounds the result back. The states are never bfloat16, in which a second moment could grow but not fall.

Source: stochastic rounding of weights after Zamirai et al. 2020, arXiv:2010.06192; 8-bit states after Dettmers et al.
2021, arXiv:2110.02861.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_idm.distributed import to_local
from monai_idm.optimizers.kernel_step import kernel_step
from monai_idm.optimizers.momentum import CODES

__all__ = ["STATES", "ParameterStep"]

STATES = ("float32", "8bit")


class ParameterStep:
    """Steps a single parameter by AdamW or, if its group says so, by Muon; it keeps no state itself.

    Args:
        states: ``"float32"``: ``torch.optim.AdamW``, 8 bytes per weight (16 if weights are float64), with Muon 4;
            ``"8bit"``: ``bitsandbytes.optim.AdamW8bit``, 2.03 bytes per weight, but 8 in parameters of less than 4096
            elements, with Muon 1.02.
        kwargs: Arguments of that optimizer.
    Raises:
        ValueError: If ``states`` is neither.
        ImportError: If bitsandbytes is needed and missing.
    """

    def __init__(self, states: str, **kwargs: Any) -> None:
        if states not in STATES:
            raise ValueError(f"states={states!r} is unknown; choose one of {', '.join(STATES)}")
        self.states = states
        self._adamw = (_adamw8bit() if states == "8bit" else torch.optim.AdamW)([torch.zeros(1)], **kwargs)

    @property
    def defaults(self) -> dict[str, Any]:
        """Default settings of a parameter group."""
        return self._adamw.defaults

    def check(self, p: Tensor) -> None:
        """Refuse weights of an unsupported type."""
        dtypes = (torch.float32, torch.bfloat16) + ((torch.float64,) if self.states == "float32" else ())
        if p.dtype not in dtypes:
            raise ValueError(
                f'states="{self.states}" supports weights of {", ".join(map(str, dtypes))}, not {p.dtype}; '
                f'keep them in float32 and let autocast (precision="mixed") compute in lower precision'
            )

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of the other kind."""
        kind = "8bit" if "state1" in state or CODES in state else "float32"
        if state and kind != self.states:
            raise ValueError(f'the checkpoint holds {kind} states; build the optimizer with states="{kind}"')

    @torch.no_grad()
    def __call__(
        self,
        p: Tensor,
        group: Mapping[str, Any],
        state: dict,
        norm: Tensor | None,
        number: int,
        skip: Tensor | None = None,
    ) -> None:
        """Step, and free the gradient.

        Args:
            p: The parameter, with a gradient.
            group: Settings of its parameter group.
            state: Its state, changed in place.
            norm: Norm of the weights, needed if ``group["lambda_l2"]`` is not 0.
            number: Number of the parameter. With the count of its roundings, which is part of the state, it seeds the
                stochastic rounding, which is thus the same on all processes and after a resume.
            skip: A boolean on the device: true leaves weight and state as they are. On CUDA the host does not wait for
                it if the states are 8-bit or ``group["fused"]`` is set.
        """
        weights, grad, p.grad = p.detach(), p.grad, None
        assert grad is not None
        muon = bool(group.get("muon"))
        if self.states == "8bit" and not muon:  # bitsandbytes does not support DTensors; a shard is stepped by itself
            weights, grad = to_local(weights), to_local(grad)
        if not weights.numel():  # the shard of a small parameter can be empty
            return
        on_device = weights.is_cuda and (muon or self.states == "8bit" or bool(group.get("fused")))
        if skip is not None and not on_device and bool(skip):
            return
        skip = skip if on_device else None
        rounding = None
        if p.dtype == torch.bfloat16:
            # counted on the host, which would wait for the steps that a fused AdamW counts on the device
            roundings = 1 + (state["roundings"] if "roundings" in state else int(state.get("step", 0)))
            rounding = _Rounding(p.device, seed=number * 1_000_003 + roundings)
        if muon:
            kernel_step(weights, grad, group, state, self.states == "8bit", norm, skip, rounding)
        else:
            if rounding is not None:
                weights, grad = weights.float(), grad.float()
            if group["lambda_l2"]:
                assert norm is not None
                to_local(grad).addcdiv_(to_local(weights), norm, value=group["lambda_l2"])
            self._step(weights, grad, group, state, skip)
            grad = None
            if rounding is not None:
                rounding(to_local(weights))
            # weights can be a copy: in float32, or one that bitsandbytes made to have it contiguous
            if to_local(weights).data_ptr() != to_local(p).data_ptr():
                to_local(p).copy_(to_local(weights))
        if rounding is not None:
            state["roundings"] = roundings
        # bitsandbytes does not raise the version when it writes, but a second backward pass must notice the change
        torch.autograd.graph.increment_version(p)

    def _step(
        self, weights: Tensor, grad: Tensor, group: Mapping[str, Any], state: dict, skip_on_device: Tensor | None
    ) -> None:
        # a copy for this step only: it keeps no tensor alive, and autograd may step in one thread per device
        adamw: Any = object.__new__(type(self._adamw))
        param_groups = [{**group, "params": [weights]}]
        vars(adamw).update(vars(self._adamw), param_groups=param_groups, state=defaultdict(dict, {weights: state}))
        if skip_on_device is not None:
            _skip_on_device(adamw, grad, skip_on_device, self.states)
        weights.grad = grad
        if self.states == "8bit":
            if not state:
                adamw.init_state(param_groups[0], weights, 0, 0)
            adamw.update_step(param_groups[0], weights, 0, 0)  # step() would wait for the device after each parameter
        else:
            adamw.step()
        weights.grad = None


def _skip_on_device(adamw: Any, gradient: Tensor, skip: Tensor, states: str) -> None:
    """Make the next step change nothing where ``skip`` is true, without a copy of it to the host."""
    if states == "float32":
        adamw.found_inf, adamw.grad_scale = skip.float(), None  # what a GradScaler gives fused optimizers
        return
    gradient.masked_fill_(to_local(skip), 0)
    adamw.args = copy.copy(adamw.args)
    adamw.args.skip_zeros = True  # bitsandbytes leaves weights and states without a gradient as they are


def _adamw8bit() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # here because it is optional and takes seconds to import
    except ImportError as error:
        raise ImportError(
            'states="8bit" needs bitsandbytes: pip install "monai-idm[low-memory]", or choose states="float32"'
        ) from error
    return AdamW8bit


class _Rounding:
    """Round float32 weights stochastically to bfloat16 values, in place: the nearer neighbour is the more likely.

    Args:
        device: Device of the weights.
        seed: Seed of the random numbers.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        # a separate generator, so that training draws the same random numbers as without rounding
        self.generator = torch.Generator(device).manual_seed(seed % 2**32)  # the CPU's generator uses no more bits

    def __call__(self, weights: Tensor) -> Tensor:
        bits = weights.view(torch.int32)
        # a random number is added to the low bits that are cut off: it carries with the probability of rounding up
        bits.add_(torch.randint(2**16, bits.shape, dtype=torch.int32, device=bits.device, generator=self.generator))
        bits.bitwise_and_(-(2**16))
        return weights
