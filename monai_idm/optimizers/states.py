r"""AdamW of one parameter, and how a bfloat16 weight takes it.

A bfloat16 weight has 8 significant bits and would ignore any step below 1/512 of itself. Stochastic rounding takes
the neighbour below or above with the probability that makes the mean right,

.. math:: E[\text{round}(w)] = w,

so that many small steps add up. A step is therefore: a float32 copy of the weight and of its gradient, AdamW on these,
and the result rounded back. The states never see bfloat16, in which a second moment could grow but not fall.

Source: stochastic rounding of weights after Zamirai et al. 2020, arXiv:2010.06192; 8-bit states after Dettmers et al.
2021, arXiv:2110.02861.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_idm.distributed import to_local

__all__ = ["STATES", "ParameterStep"]

STATES = ("float32", "8bit")


class ParameterStep:
    """AdamW that steps a single parameter; it keeps nothing itself.

    Args:
        states: ``"float32"``: ``torch.optim.AdamW``, 8 bytes per weight (16 where weights are float64); ``"8bit"``:
            ``bitsandbytes.optim.AdamW8bit``, 2.03 bytes, and 8 in parameters of less than 4096 elements.
        kwargs: Of these.
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
        """What a parameter group holds unless it says otherwise."""
        return self._adamw.defaults

    def check(self, p: Tensor) -> None:
        """Refuse weights of a type that this cannot step."""
        dtypes = (torch.float32, torch.bfloat16) + ((torch.float64,) if self.states == "float32" else ())
        if p.dtype not in dtypes:
            raise ValueError(
                f'states="{self.states}" takes weights of {", ".join(map(str, dtypes))}, not {p.dtype}; '
                f'keep them in float32 and let autocast (precision="mixed") compute in less'
            )

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of the other kind."""
        kind = "8bit" if "state1" in state else "float32"
        if state and kind != self.states:
            raise ValueError(f'the checkpoint holds {kind} states; build the optimizer with states="{kind}"')

    @torch.no_grad()
    def __call__(self, p: Tensor, group: Mapping[str, Any], state: dict, norm: Tensor | None, number: int) -> None:
        """Step, and free the gradient.

        Args:
            p: The parameter, with a gradient.
            group: Its settings.
            state: Its state, changed in place.
            norm: Of the weights, for ``group["lambda_l2"]``.
            number: Of the parameter; this and the step fix how it is rounded, on all processes and after a resume.
        """
        weights, grad, p.grad = p.detach(), p.grad, None
        assert grad is not None
        if self.states == "8bit":  # bitsandbytes knows no DTensors, but the part that is here is as good
            weights, grad = to_local(weights), to_local(grad)
        if p.dtype == torch.bfloat16:
            weights, grad = weights.float(), grad.float()
        if group["lambda_l2"]:
            assert norm is not None
            to_local(grad).addcdiv_(to_local(weights), norm, value=group["lambda_l2"])
        if not weights.numel():  # a part of a small parameter on one process too many
            return
        # a twin for this step alone, which keeps nothing alive; autograd may step in a thread for each device
        adamw = object.__new__(type(self._adamw))
        alone = [{**group, "params": [weights]}]
        vars(adamw).update(vars(self._adamw), param_groups=alone, state=defaultdict(dict, {weights: state}))
        weights.grad = grad
        adamw.step()
        weights.grad = grad = None
        if p.dtype == torch.bfloat16:
            _round_(to_local(weights), seed=number * 1_000_003 + int(state["step"]))
        if to_local(weights).data_ptr() != to_local(p).data_ptr():  # bitsandbytes, too, may copy: to make it contiguous
            to_local(p).copy_(to_local(weights))
        torch.autograd.graph.increment_version(p)  # bitsandbytes writes unseen; a second backward pass must notice


def _adamw8bit() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # only here: it takes seconds to load, and need not be there
    except ImportError as error:
        raise ImportError(
            'states="8bit" needs bitsandbytes: pip install "monai-idm[low-memory]", or choose states="float32"'
        ) from error
    return AdamW8bit


def _round_(weights: Tensor, seed: int) -> None:
    """Round float32 to bfloat16 up or down, each as likely as the other end is near; in place."""
    # a generator of its own: training draws the same numbers as without it
    generator = torch.Generator(weights.device).manual_seed(seed % 2**32)  # the CPU's generator takes no more bits
    bits = weights.view(torch.int32)
    # random numbers below the last bit that stays: they carry as often as the bits that go weigh
    bits.add_(torch.randint(2**16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator))
    bits.bitwise_and_(-(2**16))
