"""Several processes that train as one; ``torchrun`` starts them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["AverageLoss", "all_gather_objects", "initialize_processes", "replicated", "require_equal_settings"]

T = TypeVar("T")


def initialize_processes() -> None:
    """Join the processes that torchrun started, each with a GPU of its own, or all on the CPU where there is none.

    Of the log, process 0 keeps everything, and the others warnings and errors.

    Raises:
        RuntimeError: If nobody started processes.
    """
    if "RANK" not in os.environ:
        raise RuntimeError(
            "this config is for several processes, and nobody started them; run it as "
            "torchrun --nproc_per_node=NUMBER_OF_GPUS -m monai.bundle run ..., or leave multi_gpu_train.yaml out"
        )
    if not dist.is_initialized():
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
    if idist.get_rank() > 0:
        logging.disable(logging.INFO)


def require_equal_settings(settings: Mapping[str, Any]) -> None:
    """Make sure that all processes were started alike.

    Args:
        settings: Plain types.
    Raises:
        ValueError: In every process, if they differ.
    """
    everyone = all_gather_objects(dict(settings))
    for rank, theirs in enumerate(everyone):
        for name in {**everyone[0], **theirs}:
            if theirs.get(name) != everyone[0].get(name):
                raise ValueError(
                    f"process {rank} has {name}={theirs.get(name)}, process 0 has {everyone[0].get(name)}; start all "
                    f"with the same command, configs and data"
                )


def all_gather_objects(value: T) -> list[T]:
    """What each process has, in their order; alone, that of this one. All must ask for it."""
    if idist.get_world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * idist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def replicated(network: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """What a trainer runs, so that gradients are averaged over the processes.

    Args:
        network: The same in every process.
        optimizer: Steps its parameters. One that averages gradients itself, as AdamWInBackward does and declares by
            ``averages_gradients``, takes the network as it is.
    """
    if getattr(optimizer, "averages_gradients", False):
        return network
    devices = [idist.device()] if idist.device().type == "cuda" else None
    return DistributedDataParallel(network, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


class AverageLoss:
    """The loss that a trainer reports becomes the mean over the processes."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        loss = engine.state.output[CommonKeys.LOSS].detach().clone()
        dist.all_reduce(loss)
        engine.state.output[CommonKeys.LOSS] = loss / dist.get_world_size()
