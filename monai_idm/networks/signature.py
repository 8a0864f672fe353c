"""Checkpoints carry the arguments of their network beside the weights, where no loader trips over them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["check_checkpoint", "sign", "without_inverse_head"]


def sign(network: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    """Adds the arguments to a state_dict: a post-hook of ``state_dict``."""
    local_metadata["arguments"] = copy.deepcopy(network.arguments)


def check_checkpoint(network: nn.Module, arguments: Mapping[str, Any], state_dict: Mapping[str, Any]) -> None:
    """Compare a checkpoint with the network it shall be loaded into.

    Raises:
        ValueError: If it was made by a network with other arguments, or with other tensors; says which.
    """
    theirs = getattr(state_dict, "_metadata", {}).get("", {}).get("arguments", arguments)
    different = [
        f"{name}: {theirs.get(name)} in the checkpoint, {value} here"
        for name, value in arguments.items()
        if theirs.get(name) != value
    ]
    ours, found = ({name: t.shape for name, t in d.items()} for d in (network.state_dict(), state_dict))
    unlike = sorted(name for name in ours.keys() | found.keys() if ours.get(name) != found.get(name))
    if unlike and not different:
        different = [
            f"{len(unlike)} of {len(ours)} tensors are missing, unknown or of another shape, first {unlike[0]}"
        ]
    if different:
        raise ValueError(
            f"the checkpoint belongs to another network ({'; '.join(different)}); build the network with the "
            f"checkpoint's arguments (the same preset), or choose another checkpoint"
        )


def without_inverse_head(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint as of the same network without the parameters of its inverse."""
    metadata = getattr(state_dict, "_metadata", {})
    arguments = metadata.get("", {}).get("arguments", {})
    if not arguments.get("inverse_head"):
        return state_dict
    plain = OrderedDict((name, tensor) for name, tensor in state_dict.items() if not name.startswith("inverse_head."))
    own = {**metadata[""], "arguments": {**arguments, "inverse_head": False}}
    plain._metadata = {**metadata, "": own}  # type: ignore[attr-defined]
    return plain
