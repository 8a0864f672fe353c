"""TF32 on a CPU: float32 products round their operands to 10 bits of mantissa, where torch's switches allow it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EmulatedTF32"]

_aten = torch.ops.aten
_CONVOLUTIONS = {
    _aten.convolution.default: 2,
    _aten.mkldnn_convolution.default: 2,
    _aten.convolution_backward.default: 3,
}
_PRODUCTS = {_aten.mm.default: 2, _aten.bmm.default: 2}


def _rounded(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class EmulatedTF32(TorchDispatchMode):
    """What a card from Ampere on does: convolutions in TF32 by default, matrix products if ``matmul`` allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for operands, switch in ((_CONVOLUTIONS, torch.backends.cudnn.conv), (_PRODUCTS, torch.backends.cuda.matmul)):
            if func in operands and switch.fp32_precision == "tf32":
                self.rounded += 1
                count = operands[func]
                args = (*map(_rounded, args[:count]), *args[count:])
        return func(*args, **(kwargs or {}))
