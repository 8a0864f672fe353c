"""Counts floating point operations from the operators called and the shapes of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["count_flops"]

_ON_A_CPU = {  # torch's counter covers the operators of CUDA
    torch.ops.aten.mkldnn_convolution: lambda x, w, *_, out_shape, **__: conv_flop_count(x, w, out_shape),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda dy, q, k, v, *_, **__: sdpa_backward_flop_count(dy, q, k, v)
    ),
}


def count_flops(fn: Callable[[], Any]) -> int:
    """Run a function and count the FLOPs of its matrix products, convolutions and attention.

    A multiplication and an addition count as two; elementwise operations are not counted. What runs twice, such as the
    forward pass of a checkpoint, counts twice. Under ``FakeTensorMode`` the count is the same and nothing is computed;
    only the backward pass of a single small volume in float32 has more on a CPU (``reversible/convolution.py``).

    Args:
        fn: The function to run, such as a forward pass, or a forward and a backward pass.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_A_CPU) as counter:
        fn()
    return counter.get_total_flops()
