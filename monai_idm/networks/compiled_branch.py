"""A residual branch that torch compiles: fewer and larger kernels for the same numbers up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from monai_idm.machine import check_compiler
from monai_idm.networks.branch import ResidualBranch

__all__ = ["CompiledBranch", "check_compilable"]

_PROGRAMS = 256
"""Programs that torch keeps: one for each level, pass, precision and size. Its own limit is 8. Beyond ours,
it warns and runs what is new uncompiled."""


class CompiledBranch(ResidualBranch):
    """A residual branch with the same weights whose passes are compiled, one program for each size of its input.

    It runs uncompiled where something must see its operators: estimates on fake tensors, counters of FLOPs or bytes
    (on a CPU, one step of each epoch), exports.
    """

    def __call__(self, x: Tensor, embedding: Tensor) -> Tensor:
        # torch would mark the code that it meets in such a mode as one never to compile
        if is_in_torch_dispatch_mode() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().__call__(x, embedding)
        return _compiled()(self, x, embedding)


def check_compilable(precision: str) -> None:
    """Raise a ValueError if branches cannot be compiled: with exact precision, or on this machine."""
    if precision.startswith("exact"):
        raise ValueError(
            f"compile_branches=True with precision={precision!r}; a compiled branch rounds differently with and "
            f"without gradients, so that rebuilt activations are not exact: choose 'float32' or 'mixed', or "
            f"compile_branches=False"
        )
    check_compiler()


@cache
def _compiled() -> Callable[..., Any]:
    from torch._dynamo import config  # here because the import takes a second

    config.recompile_limit = max(config.recompile_limit, _PROGRAMS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, _PROGRAMS)
    # not dynamic: levels are sizes too, and one program for all of them would be slow on each;
    # deterministic: kernels are not chosen by timing them, so that a resumed training computes the same bits
    return torch.compile(_run, dynamic=False, options={"deterministic": True})


def _run(branch: CompiledBranch, x: Tensor, embedding: Tensor) -> Tensor:
    return nn.Module.__call__(branch, x, embedding)
