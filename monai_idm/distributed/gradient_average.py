r"""Average gradients over the processes of ``torch.distributed``, a few at a time.

``DistributedDataParallel`` averages after a parameter's hooks have run, and needs all gradients to stay in memory. Here
each gradient :math:`g` is sent as soon as it is complete, and :math:`\frac{1}{n}\sum_i g_i` is used as soon as it has
arrived, while the backward pass continues:

.. code-block:: text

    send p1   send p2   send p3   send p4   send p5, use p1   send p6, use p2   ...   end of the pass: use the rest
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["GradientAverage"]

IN_FLIGHT = 4  # each occupies memory while it waits


class GradientAverage:
    """Averages the gradients of replicated parameters; DTensors are left unchanged.

    All processes must send the same parameters in the same order: if one has no gradient, the others wait forever.

    Raises:
        RuntimeError: In each method that communicates, if the number of processes has changed since it was built.
    """

    def __init__(self) -> None:
        self.processes = _world_size()
        self._in_flight: deque[tuple[Any, Tensor, Callable[[Tensor], None]]] = deque()

    def spread(self, p: Tensor) -> None:
        """Copy the weights of process 0 to all processes."""
        if self._is_averaged(p):
            weights = p.detach().contiguous()
            dist.broadcast(weights, 0)
            p.detach().copy_(weights)

    def average(self, p: Tensor) -> None:
        """Average the gradient now."""
        if self._is_averaged(p):
            self._receive(_send(p), p)

    def send(self, p: Tensor, then: Callable[[Tensor], None]) -> None:
        """Average the gradient, and call ``then`` with the parameter before this backward pass ends."""
        if not self._is_averaged(p):
            then(p)
            return
        if not self._in_flight:
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        self._in_flight.append((_send(p), p, then))
        if len(self._in_flight) > IN_FLIGHT:
            self._finish(IN_FLIGHT)

    def forget(self) -> None:
        """Drop the gradients that a failed backward pass left in flight."""
        self._in_flight.clear()

    def _finish(self, max_in_flight: int = 0) -> None:
        while len(self._in_flight) > max_in_flight:
            work, p, then = self._in_flight.popleft()
            self._receive(work, p)
            then(p)

    def _receive(self, work: Any, p: Tensor) -> None:
        work.wait()
        assert p.grad is not None
        p.grad.div_(self.processes)

    def _is_averaged(self, p: Tensor) -> bool:
        if self.processes != _world_size():
            raise RuntimeError(
                f"{_world_size()} processes, but {self.processes} when the optimizer was built, which gives them the "
                f"same weights; initialise torch.distributed before you build it"
            )
        # a DTensor has to_local; isinstance would need its module, which takes a second to import
        return self.processes > 1 and not hasattr(p, "to_local")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _send(p: Tensor) -> Any:
    assert p.grad is not None
    p.grad = p.grad.contiguous()
    return dist.all_reduce(p.grad, async_op=True)
