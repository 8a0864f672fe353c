r"""The inverse of the whole network: exact in the core, learned at both ends.

.. math:: U^{-1}(y) = \mathrm{leave}(\mathrm{core}^{-1}(\mathrm{enter}(y), e))

The core inverts exactly. The bookends cannot be inverted, so a second pair learns to undo them, and a learned
embedding e replaces that of the timestep, which is not an input of :math:`U^{-1}`.

Source: eq. 8 of arXiv:2504.10883.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.checkpoints import read_sections
from monai_idm.networks.bookends import enter, leave
from monai_idm.reversible import ReversibleSequence

__all__ = ["InverseHead", "without_inverse_head"]


class InverseHead(nn.Module):
    """The parameters of U^-1 that the network itself does not use: two bookends and an embedding.

    Args:
        enter: Bookend from the prediction to the core's exit; learns to undo the exit bookend.
        leave: Bookend from the core's entry to the image; learns to undo the entry bookend.
        embedding_channels: E, the width of the embedding.
    """

    def __init__(self, enter: nn.Module, leave: nn.Module, embedding_channels: int) -> None:
        super().__init__()
        self.enter = enter
        self.leave = leave
        self.embedding = nn.Parameter(torch.zeros(embedding_channels))

    def forward(
        self, prediction: Tensor, core: ReversibleSequence, activations: Sequence[str], branch_batch: int | str
    ) -> Tensor:
        """The network's input from its prediction: ``(B, C_out, *spatial)`` to ``(B, C_in, *spatial)``."""
        stored = activations[0] == "stored"
        streams = enter(self.enter, prediction, branch_batch, stored)
        embedding = self.embedding.expand(len(prediction), -1)
        streams = core.inverse(streams, embedding, activations)
        return leave(self.leave, streams, branch_batch, stored, core.gradient_dtype)


def without_inverse_head(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint that the same network would have written without the parameters of its inverse."""
    arguments = read_sections(state_dict).get("arguments", {})
    if not arguments.get("inverse_head"):
        return state_dict
    remaining = OrderedDict((name, t) for name, t in state_dict.items() if not name.startswith("inverse_head."))
    metadata = state_dict._metadata  # type: ignore[attr-defined]
    of_network = {**metadata[""], "arguments": {**arguments, "inverse_head": False}}
    remaining._metadata = {**metadata, "": of_network}  # type: ignore[attr-defined]
    return remaining
