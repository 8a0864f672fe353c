"""Training in several processes, which ``torchrun`` starts."""

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

from monai_idm.command_line import is_monai_bundle
from monai_idm.failures import exit_successfully

__all__ = [
    "AverageLoss",
    "all_gather_objects",
    "finalize_processes",
    "initialize_processes",
    "replicated",
    "require_equal_settings",
]

T = TypeVar("T")


def initialize_processes() -> None:
    """Join the processes that torchrun started, each with its own GPU, or all on the CPU if there is no GPU.

    Process 0 logs everything, the others log only warnings and errors.

    Raises:
        RuntimeError: If torchrun has not started any processes.
    """
    if "RANK" not in os.environ:
        raise RuntimeError(
            "this config is for several processes, and none were started; run it as "
            "torchrun --nproc_per_node=NUMBER_OF_GPUS -m monai.bundle run ..., or leave multi_gpu_train.yaml out"
        )
    if not dist.is_initialized():
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
    if idist.get_rank() > 0:
        logging.disable(logging.INFO)


def finalize_processes() -> None:
    """Leave the process group at the end of a run; with MONAI's command line, also end the process.

    After the last exchange a thread of gloo may still hold a tensor for a moment. If it frees the tensor in an
    interpreter that is shutting down, it aborts the process, and a run that was complete ends as a failure.
    """
    idist.finalize()
    if is_monai_bundle():
        exit_successfully()


def require_equal_settings(settings: Mapping[str, Any]) -> None:
    """Make sure that all processes were started with the same settings. All processes must call it.

    Args:
        settings: Values of plain types, by name.
    Raises:
        ValueError: In every process, if a setting differs.
    """
    by_rank = all_gather_objects(dict(settings))
    expected = by_rank[0]
    for rank, actual in enumerate(by_rank):
        for name in {**expected, **actual}:
            if actual.get(name) != expected.get(name):
                raise ValueError(
                    f"process {rank} has {name}={actual.get(name)}, process 0 has {expected.get(name)}; start all "
                    f"with the same command, configs and data"
                )


def all_gather_objects(value: T) -> list[T]:
    """The value of every process, in order of rank. All processes must call it.

    Args:
        value: Value of this process, which must be possible to pickle.
    """
    if idist.get_world_size() == 1:
        return [value]
    by_rank: list[Any] = [None] * idist.get_world_size()
    dist.all_gather_object(by_rank, value)
    return by_rank


def replicated(network: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """The module that a trainer must run so that gradients are averaged over the processes.

    Args:
        network: The network, the same in every process.
        optimizer: Steps its parameters. If it averages gradients itself, which AdamWInBackward does and declares by
            ``averages_gradients``, the bare network is returned.
    """
    if getattr(optimizer, "averages_gradients", False):
        return network
    devices = [idist.device()] if idist.device().type == "cuda" else None
    return DistributedDataParallel(network, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


class AverageLoss:
    """Replaces the loss that a trainer reports by the mean over the processes."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        loss = engine.state.output[CommonKeys.LOSS].detach().clone()
        dist.all_reduce(loss)
        engine.state.output[CommonKeys.LOSS] = loss / dist.get_world_size()
