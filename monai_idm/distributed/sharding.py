"""Shard weights over several processes with FSDP2, whose shards are DTensors; the functions pass other tensors through.

Files hold full tensors, so any number of processes can resume from them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["distribute_like", "from_local", "full_states", "full_tensor", "sharded", "to_local"]


def to_local(tensor: Tensor) -> Tensor:
    """The shard of a tensor in this process, in the same memory.

    Args:
        tensor: A DTensor; any other tensor is returned as it is.
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor on the host, gathered from the shards of all processes. All processes must call it.

    Args:
        tensor: A DTensor; any other tensor is returned as it is.
    """
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def distribute_like(tensor: Tensor, like: Any) -> Tensor:
    """A full tensor, sharded like another one.

    Args:
        tensor: The full tensor, the same in every process.
        like: A DTensor of its shape; if it is any other tensor, ``tensor`` is returned as it is.
    """
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # here because the import takes a second

    # every process has the full tensor, so nothing is sent
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def from_local(local: Tensor, like: Any) -> Tensor:
    """The sharded tensor of which every process gives its shard.

    Args:
        local: Shard of this process.
        like: A DTensor that is sharded as the result shall be; if it is any other tensor, ``local`` is returned.
    """
    if not hasattr(like, "device_mesh"):
        return local
    from torch.distributed.tensor import DTensor

    place: dict[str, Any] = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(local.to(like.device), like.device_mesh, like.placements, **place)


def sharded(network: nn.Module) -> nn.Module:
    """Shard a network's weights over the processes, operation by operation: a step gathers one operation at a time.

    Args:
        network: An InvertibleDiffusionUNet, the same in every process; it is changed in place. Its ``state_dict`` then
            has full tensors on the host, and loading expects full tensors.
    Returns:
        The network.
    Raises:
        ValueError: If its weights are of several types.
    """
    types = {p.dtype for p in network.parameters()}
    if len(types) > 1:
        raise ValueError(
            f"FSDP2 shards weights of one type only, and these are {', '.join(sorted(map(str, types)))}; use "
            f"--weight_dtype float32 with fsdp_train.yaml"
        )
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for operation in network.core.operations:  # type: ignore[union-attr]
        fully_shard(operation)
    fully_shard(network, reshard_after_forward=True)  # not torch's default, but handlers expect shards after forward
    for method in ("inverse", "reconstruction_error"):
        register_fsdp_forward_method(network, method)
    network.register_state_dict_post_hook(_gather_weights)
    network.register_load_state_dict_pre_hook(_shard_weights)
    return network


def full_states(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Make an optimizer of sharded weights save and load full states; returns the optimizer.

    Args:
        optimizer: Optimizer, changed in place.
    Raises:
        ValueError: If its states are 8-bit, which belong to the shard of one process.
    """
    if getattr(optimizer, "states", None) == "8bit":
        raise ValueError(
            "8-bit states of sharded weights belong to the shard of one process and cannot be saved as full states; "
            "with fsdp_train.yaml use --optimizer#states float32, or leave that file out: each process then has all "
            "weights"
        )
    optimizer.register_state_dict_post_hook(_gather_states)
    optimizer.register_load_state_dict_pre_hook(_shard_states)
    return optimizer


def _gather_weights(network: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name, tensor in state_dict.items():
        state_dict[name] = full_tensor(tensor)


def _shard_weights(network: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    for name, p in network.named_parameters():
        if name in state_dict:
            state_dict[name] = distribute_like(state_dict[name], p)


def _gather_states(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    for number, state in state_dict["state"].items():
        state_dict["state"][number] = {key: full_tensor(value) for key, value in state.items()}


def _shard_states(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    states = {
        number: {
            key: distribute_like(v, p) if v.shape == p.shape else v for key, v in state_dict["state"][number].items()
        }
        for number, p in zip(numbers, parameters, strict=True)
        if number in state_dict["state"]
    }
    return {**state_dict, "state": states}
