"""The optimizers that are compared: how each is built, and the bytes it needs, for estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from monai_idm.meters import EIGHT_BIT_IN_BACKWARD, EIGHT_BIT_MUON_IN_BACKWARD, IN_BACKWARD, OptimizerBytes
from monai_idm.optimizers import AdamWInBackward, weight_norm_groups

__all__ = ["OPTIMIZERS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """An optimizer.

    Attributes:
        build: Builds it from a network's parameters, or from their groups.
        bytes: What it needs on CUDA.
    """

    build: Callable[..., torch.optim.Optimizer]
    bytes: OptimizerBytes

    def __call__(self, network: nn.Module, offload: Sequence[nn.Module] = ()) -> torch.optim.Optimizer:
        params = weight_norm_groups(network, muon=True) if self.bytes.muon else network.parameters()
        return self.build(params, lr=1e-4, **({"offload": offload} if offload else {}))


OPTIMIZERS: dict[str, Kind] = {
    "AdamW": Kind(torch.optim.AdamW, OptimizerBytes()),
    "AdamW, fused": Kind(partial(torch.optim.AdamW, fused=True), OptimizerBytes(temporaries=0)),
    "in backward": Kind(partial(AdamWInBackward, fused=True), IN_BACKWARD),
    "in backward, 8-bit": Kind(partial(AdamWInBackward, states="8bit"), EIGHT_BIT_IN_BACKWARD),
    "in backward, 8-bit, Muon": Kind(partial(AdamWInBackward, states="8bit"), EIGHT_BIT_MUON_IN_BACKWARD),
}
