r"""Peak memory: counted bytes of tensor storages on any device, and the allocator's own figures on CUDA.

Counting follows storages, not tensors: a storage enters when an operation returns it for the first time and
leaves when its last tensor, view or saved activation dies, so views and in-place results cost nothing. With
:math:`s_i` bytes in storage :math:`i`, alive during :math:`[a_i, d_i)`,

.. math::
    \text{current}(t) = \sum_i s_i \, [a_i \le t < d_i], \qquad \text{peak} = \max_t \text{current}(t).

This needs no device, works on fake tensors (so a network larger than this machine can be measured), and gives
the same number on every run. It misses memory outside torch's tensors: scratch memory inside kernels, the
allocator's rounding and cache, and buffers that other libraries allocated (``torch.from_numpy``).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["LiveBytes", "PeakMemoryMeter", "live_bytes"]

GIB = 2**30


def live_bytes(*baseline: Any) -> LiveBytes:
    """Count the bytes of every tensor storage created inside a ``with`` block: see :class:`LiveBytes`.

    .. code-block:: python

        with live_bytes(net) as memory:
            net(x).sum().backward()
        print(memory.peak_bytes, memory.current_bytes)
    """
    return LiveBytes(*baseline)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensor storages created while the mode is active, and of a given baseline: now and peak.

    Works forward and backward, with ``torch.utils.checkpoint``, nested, and inside or outside
    ``FakeTensorMode``. Storages that existed before are left out unless they belong to ``baseline``. After
    the block ``current_bytes`` continues to fall as the counted storages die; ``peak_bytes`` stays. Operations
    are counted in the calling thread and in its backward pass; those inside code compiled by ``torch.compile``
    are not seen one by one.

    Args:
        baseline: Existing objects to include in the count: tensors, modules (parameters, their gradients,
            buffers), optimizers (their states) and any nesting of lists, tuples and mappings of these. Other
            objects are ignored.
    """

    def __init__(self, *baseline: Any) -> None:
        super().__init__()
        self.current_bytes = 0
        self.peak_bytes = 0
        # by the address of the C++ storage, whose last owner is often an autograd node, not Python
        self._storages: dict[int, tuple[int, weakref.ref]] = {}
        for tensor in _all_tensors(baseline):
            if _has_storage(tensor):
                self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs: set[int] | None = None
        for tensor in _tensors((result,)):
            if not _has_storage(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._storages:
                if inputs is None:  # looked up only when needed: most results are counted already
                    inputs = _storage_keys(args) | _storage_keys(kwargs) if func is not _LIFT else set()
                if storage._cdata in inputs:
                    continue  # a view or an in-place result of memory that existed before
            self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._storages.get(key)
        if known is not None and known[0] == size:
            return
        if known is None:
            reference = weakref.ref(storage, _Uncount(self, key))
        else:  # resized in place
            self.current_bytes -= known[0]
            reference = known[1]
        self._storages[key] = (size, reference)
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)


class PeakMemoryMeter:
    """Peak memory of a window of work, in GiB, by the best means that the device offers.

    On CUDA the caching allocator's own counters (one set per process: two meters on one device share them):
    ``allocated_peak_gib``, tensors only, and ``reserved_peak_gib``, with the allocator's cache, which is what
    other programs cannot use. Elsewhere storages are counted, which slows work down (:class:`LiveBytes`):
    ``live_peak_gib``, what was created in the window and the baseline passed to :meth:`start`; and
    ``process_peak_gib``, the largest resident set of the process since the process began (not since
    ``start``), absent on platforms without the ``resource`` module.

    Args:
        device: The device whose memory is measured, such as ``"cuda:0"`` or ``"cpu"``.

    Attributes:
        counts_storages: Whether storages are counted (anywhere but on CUDA).
        running: Whether the window is open.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.counts_storages = self.device.type != "cuda"
        self._counter: LiveBytes | None = None
        self.running = False

    def start(self, *baseline: Any) -> None:
        """Open the window.

        Args:
            baseline: Existing objects to include where storages are counted (see :class:`LiveBytes`);
                the CUDA allocator counts everything anyway.
        Raises:
            RuntimeError: If the window is open already.
        """
        if self.running:
            raise RuntimeError("the meter is running already; call stop() before the next start()")
        if self.counts_storages:
            self._counter = LiveBytes(*baseline)
            self._counter.__enter__()
        else:
            torch.cuda.init()  # the counters of a device that has not been used yet cannot be reset
            torch.cuda.reset_peak_memory_stats(self.device)
        self.running = True

    def read(self) -> dict[str, float]:
        """The peaks since :meth:`start`, in GiB; the window stays open.

        Raises:
            RuntimeError: If the window is not open.
        """
        if not self.running:
            raise RuntimeError("the meter is not running; call start() before read() or stop()")
        if self._counter is None:
            return {
                "allocated_peak_gib": torch.cuda.max_memory_allocated(self.device) / GIB,
                "reserved_peak_gib": torch.cuda.max_memory_reserved(self.device) / GIB,
            }
        return {"live_peak_gib": self._counter.peak_bytes / GIB, **_process_peak()}

    def stop(self) -> dict[str, float]:
        """Close the window and return what :meth:`read` returns."""
        figures = self.read()
        self.running = False
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None
        return figures


_LIFT = torch.ops.aten.lift_fresh.default  # torch.tensor(...) passes its new storage to this operation as an argument


class _Uncount:
    """Removes a storage from the count when it dies; holds the counter weakly, so that the counter can die first."""

    __slots__ = ("_counter", "_key")

    def __init__(self, counter: LiveBytes, key: int) -> None:
        self._counter = weakref.ref(counter)
        self._key = key

    def __call__(self, _: weakref.ref) -> None:
        counter = self._counter()
        if counter is not None:
            counter.current_bytes -= counter._storages.pop(self._key)[0]


def _storage_keys(values: Any) -> set[int]:
    return {t.untyped_storage()._cdata for t in _tensors((values,)) if _has_storage(t)}


def _has_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided  # sparse tensors consist of strided ones, which are counted themselves


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors among an operation's arguments or results."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _all_tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors that a baseline keeps alive, gradients and optimizer states included."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
            if value.is_leaf and value.grad is not None:  # reading .grad of a non-leaf tensor warns
                yield value.grad
        elif isinstance(value, nn.Module):
            yield from _all_tensors([*value.parameters(), *value.buffers()])
        elif isinstance(value, torch.optim.Optimizer):
            yield from _all_tensors(value.state.values())
        elif isinstance(value, Mapping):
            yield from _all_tensors(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _all_tensors(value)


def _process_peak() -> dict[str, float]:
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # Linux reports KiB
    return {"process_peak_gib": peak_bytes / GIB}
