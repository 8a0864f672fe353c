"""Advice for a training step that runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_idm.failures import OutOfMemory
from monai_idm.meters import (
    EIGHT_BIT_IN_BACKWARD,
    EIGHT_BIT_MUON_IN_BACKWARD,
    OptimizerBytes,
    estimate,
    optimizer_bytes,
)

__all__ = ["MemoryAdvice"]

_GB = 1e9
_PHRASES = (
    "out of memory",
    "can't allocate memory",  # torch on a CPU
    "ALLOC_FAILED",  # CUDA's libraries, which also say the following where a workspace or a handle finds no room
    "unable to find an engine",
    "CUSOLVER_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
)


class MemoryAdvice:
    """When a trainer runs out of memory, report what was allocated and which switches would make the step fit.

    Before that, it tells the network what the optimizer needs, so that ``activations="auto"`` leaves room for it. The
    bytes are estimates, made by running the step on tensors that have a shape but no memory. The cheapest switch comes
    first, and each is added to those before it, up to the first that fits. Attach it to the trainer.

    Args:
        network: Network being trained; switches are listed for an
            :class:`~monai_idm.networks.InvertibleDiffusionUNet`.
        optimizer: Optimizer of its parameters.
        device: Device of the training.
    Raises:
        OutOfMemory: In training, with the advice.
    """

    def __init__(self, network: Any, optimizer: torch.optim.Optimizer, device: torch.device | str = "cpu") -> None:
        self.network = network
        self.optimizer = optimizer
        self.device = torch.device(device)

    def attach(self, engine: Engine) -> None:
        self.network.optimizer_bytes = optimizer_bytes(self.optimizer)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: Engine, error: BaseException) -> None:
        if isinstance(error, OutOfMemory) or not _out_of_memory(error):  # Ignite fires the event twice
            raise error
        message = f"out of memory in iteration {engine.state.iteration}: {_first_line(error)}"
        batch = cast(Any, engine.state).batch
        if isinstance(batch, dict) and hasattr(self.network, "arguments"):
            image = batch[CommonKeys.IMAGE]
            shape = (len(image), self.network.in_channels, *image.shape[2:])
            step = " x ".join(map(str, shape))
            message += f"\nEstimated GB of tensors for a step on {step} (CUDA's context and workspaces come on top):\n"
            message += "\n".join(self._switch_lines(shape))
        raise OutOfMemory(message) from error

    def _switch_lines(self, shape: tuple[int, ...]) -> Iterator[str]:
        """A line for each switch, with the memory of the step once this switch and those before it are set."""
        budget = _budget(self.device)
        now = optimizer_bytes(self.optimizer)
        levels = dict(zip(self.network.core.operations, self.network.levels, strict=True))
        activations = self.network.choices()["activations"]
        if isinstance(activations, dict):  # chosen by size
            activations = activations.get((shape[0], *shape[2:]), "rebuilt")
        narrow = any(p.dtype == torch.bfloat16 for p in self.network.parameters())
        setting = {
            "activations": activations,
            "precision": self.network.training_precision(),
            "weight_dtype": "bfloat16" if narrow else "float32",
            "gradient_dtype": self.network.gradient_dtype,
            "optimizer": replace(now, offload=()),
            "offload_levels": len({levels[module] for module in now.offload}),
            "shape": shape,
        }
        yield f"  {self._estimate(**setting) / _GB:7.2f}  as configured"
        for switch, change in _switches(shape, setting["precision"], now.muon, self.network.divisor):
            if change.items() <= setting.items():
                continue
            setting |= change
            peak = self._estimate(**setting) / _GB
            if budget is not None and peak <= budget:
                yield f"  {peak:7.2f}  {switch}: with those above, fits into the {budget:.2f} available"
                return
            yield f"  {peak:7.2f}  {switch}"

    def _estimate(self, optimizer: OptimizerBytes, offload_levels: int, shape: Sequence[int], **settings: Any) -> int:
        with torch.device("meta"):
            twin = type(self.network)(**self.network.arguments, branch_batch=self.network.branch_batch, **settings)
        return estimate(twin, shape, replace(optimizer, offload=twin.deep_couplings(offload_levels))).peak_bytes


def _switches(shape: tuple[int, ...], precision: str, muon: bool, divisor: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "--activations rebuilt", {"activations": "rebuilt"}
    mixed = precision if precision.endswith("mixed") else {"float32": "mixed", "exact": "exact-mixed"}[precision]
    yield f"--precision {mixed}", {"precision": mixed}
    yield "the optimizer of native.yaml", {"optimizer": EIGHT_BIT_MUON_IN_BACKWARD if muon else EIGHT_BIT_IN_BACKWARD}
    for dtype in ("weight_dtype", "gradient_dtype"):
        yield f"--{dtype} bfloat16", {dtype: "bfloat16"}
    yield "native.yaml with --offload_levels 2", {"offload_levels": 2}
    batch = shape[0]
    while batch > 1:
        batch //= 2
        yield f"--batch_size {batch}", {"shape": (batch, *shape[1:])}
    for part in (3 / 4, 1 / 2):
        size = [max(1, int(part * side / divisor)) * divisor for side in shape[2:]]
        yield f"--spatial_size {size}", {"shape": (1, shape[1], *size)}


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _budget(device: torch.device) -> float | None:
    """GB that tensors of this process can take on a device; None if there is no fixed limit."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return (free + torch.cuda.memory_reserved(device)) / _GB
