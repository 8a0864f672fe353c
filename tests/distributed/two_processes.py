"""Run a test in two processes that communicate through gloo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# imported once for all processes, because they take seconds
IMPORTS = ["monai_idm", "torch._dynamo", "torch.distributed.fsdp", "torch.nn.parallel"]


def run_two(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call ``work(rank, folder, *arguments)`` in each of two processes, which leave their results in the folder."""
    mp.get_context("forkserver").set_forkserver_preload(IMPORTS)
    mp.start_processes(_process, (work, folder, *arguments), nprocs=2, start_method="forkserver")


def ask_two(work: Callable[[int], Any], folder: Path) -> Any:
    """Call ``work(rank)`` in two processes that communicate, and return the result of rank 0: tensors, plain types."""
    run_two(_answer, folder, work)
    return torch.load(folder / "found.pt", weights_only=True)


def meet(folder: Path, rank: int) -> None:
    """Join the process group."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)


def _answer(rank: int, folder: Path, work: Callable[[int], Any]) -> None:
    meet(folder, rank)
    found = work(rank)
    if rank == 0:
        torch.save(found, folder / "found.pt")


def _process(rank: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    torch.set_num_threads(1)
    work(rank, folder, *arguments)
    dist.barrier()  # a process that exits while the other still communicates would make it fail
    os._exit(0)  # not a normal exit, after which gloo's threads now and then outlive their owners and abort
