"""A convolution around an error of oneDNN.

oneDNN's gradient of the weights is wrong, and often infinite, where a CPU with AVX-512 convolves volumes of two voxels
along the first axis in bfloat16 (kernel 3, padding 1; seen with torch 2.11 and 2.13, oneDNN 3.12). With a plane of
zeros behind the volume, and its output cut off, the result is the same and the gradient is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.reversible.memory_format import memory_format_of

__all__ = ["convolution"]


class _Conv3d(nn.Conv3d):
    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102 # alone: what is in it is not scripted
            if self.stride[0] == 1 and _is_wrong(input):
                longer = nn.functional.pad(input, (0, 0, 0, 0, 0, 1))
                y = self._conv_forward(longer, self.weight, self.bias)
                return y[:, :, :2].contiguous(memory_format=memory_format_of(y))
        return self._conv_forward(input, self.weight, self.bias)


def convolution(spatial_dims: int) -> Any:
    """torch's class of convolutions, but right in bfloat16 on a CPU too.

    Args:
        spatial_dims: 2 or 3.
    """
    return nn.Conv2d if spatial_dims == 2 else _Conv3d


def _is_wrong(x: Tensor) -> bool:
    bfloat16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return bfloat16 and x.shape[2] == 2 and x.device.type == "cpu"
