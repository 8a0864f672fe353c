"""Weights that several processes share, each with a part: DTensors of FSDP2. Of other tensors the part is the whole.

Files hold wholes, so that any number of processes can go on with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["distribute_like", "from_local", "full_states", "full_tensor", "sharded", "to_local"]


def to_local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor of which every process has a part, put together on the host; all processes must ask for it."""
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def distribute_like(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor, shared out as another of its shape is."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # only here: it takes a second to load

    # every process has the whole: nothing is sent
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def from_local(local: Tensor, like: Any) -> Tensor:
    """What every process has of a tensor, as a tensor shared as another of its shape is."""
    if not hasattr(like, "device_mesh"):
        return local
    from torch.distributed.tensor import DTensor

    place: dict[str, Any] = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(local.to(like.device), like.device_mesh, like.placements, **place)


def sharded(network: nn.Module) -> nn.Module:
    """Share a network's weights out over the processes, operation by operation: a step has one of them whole at a time.

    Args:
        network: An InvertibleDiffusionUNet, the same in every process; it is changed in place. Its ``state_dict`` is
            of whole tensors on the host, and loading takes such.
    Returns:
        The network.
    Raises:
        ValueError: If its weights are of several types.
    """
    types = {p.dtype for p in network.parameters()}
    if len(types) > 1:
        raise ValueError(
            f"FSDP2 shares out weights of one type, and these are {', '.join(sorted(map(str, types)))}; take "
            f"--weight_dtype float32 with fsdp_train.yaml"
        )
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for operation in network.core.operations:  # type: ignore[union-attr]
        fully_shard(operation)
    fully_shard(network, reshard_after_forward=True)  # which torch would not do, and handlers look at parts
    for method in ("inverse", "reconstruction_error"):
        register_fsdp_forward_method(network, method)
    network.register_state_dict_post_hook(_put_together)
    network.register_load_state_dict_pre_hook(_share_out)
    return network


def full_states(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimizer of shared weights save and load whole states; returns it.

    Raises:
        ValueError: If it keeps states in 8 bits, which are of each process's part alone.
    """
    if getattr(optimizer, "states", None) == "8bit":
        raise ValueError(
            "8-bit states of shared weights belong to each process's part and cannot be saved as a whole; with "
            "fsdp_train.yaml take --optimizer#states float32, or leave that file out: each process then has all"
        )
    optimizer.register_state_dict_post_hook(_put_states_together)
    optimizer.register_load_state_dict_pre_hook(_share_states_out)
    return optimizer


def _put_together(network: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for name, tensor in state_dict.items():
        state_dict[name] = full_tensor(tensor)


def _share_out(network: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    for name, p in network.named_parameters():
        if name in state_dict:
            state_dict[name] = distribute_like(state_dict[name], p)


def _put_states_together(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    for number, state in state_dict["state"].items():
        state_dict["state"][number] = {key: full_tensor(value) for key, value in state.items()}


def _share_states_out(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
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
