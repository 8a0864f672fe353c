"""Tensors that say they are on a GPU, on a machine without one: a shape, a type and a device, but no memory.

Operations between devices that do not match raise, as on a card, and whatever would make the host wait for the device
is counted: reading a number, a copy between host and device without ``non_blocking``, a result whose size depends on
the data, and linear algebra that checks its result. Import this before torch, in a process of its own.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIBRARIES = Path(importlib.util.find_spec("torch").origin).parent / "lib"  # type: ignore[union-attr, arg-type]


def _build() -> ctypes.CDLL:
    """Compile and load the device guard, before torch looks for one."""
    ctypes.CDLL(str(_LIBRARIES / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
    source, include = Path(__file__).with_suffix(".cpp"), _LIBRARIES.parent / "include"
    built = Path(tempfile.mkdtemp()) / "fake_cuda.so"
    paths = [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{_LIBRARIES}"]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-lc10", "-ltorch_cpu"]
    subprocess.run(["g++", str(source), "-o", str(built), *paths, *flags], check=True)
    return ctypes.CDLL(str(built))


if "torch" not in sys.modules:
    _guard = _build()

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._mode_utils import no_dispatch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def synchronize(self) -> None:
        self.counts["synchronize"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        device = args[0].device if func is _aten._to_copy.default else None
        device = torch.device(kwargs.get("device") or device or "cpu")
        if not any(isinstance(t, FakeTensor) for t in tensors) and device.type == "cpu":
            with no_dispatch():  # tensors of the host are real
                return func(*args, **kwargs)
        on_device = any(t.device.type == "cuda" for t in tensors)
        if func is _aten._local_scalar_dense.default and on_device:
            self.counts["item"] += 1
            return 1e-3 if args[0].dtype.is_floating_point else 1
        if func is _aten._linalg_check_errors.default:
            self.counts["check of linalg"] += on_device
            return None
        if func is _aten.equal.default and on_device:
            self.counts["equal"] += 1
            return True
        if func in (_aten.nonzero.default, _aten.masked_select.default) and on_device:
            self.counts["size that depends on data"] += 1
        if func in _COPIES:
            return self._copy(func, args, kwargs)
        return func(*args, **kwargs)

    def _copy(self, func: Any, args: tuple, kwargs: dict) -> Any:
        into = func is _aten.copy_.default
        source = args[1] if into else args[0]
        target = args[0].device if into else torch.device(kwargs.get("device") or source.device)
        non_blocking = kwargs.get("non_blocking", False) or (into and len(args) > 2 and args[2])
        if source.device.type != target.type and not non_blocking:
            self.counts[f"copy from {source.device.type} to {target.type}"] += 1
        dtype = kwargs.get("dtype") or source.dtype
        if not into and target.type == "cuda" and not isinstance(source, FakeTensor):
            return torch.empty(source.shape, dtype=dtype, device="cuda")
        if source.device.type == "cuda" and target.type == "cpu":
            with no_dispatch():  # the host gets a real tensor, of some value
                filled = torch.full(tuple(source.shape), 0.005 if dtype.is_floating_point else 1, dtype=dtype)
                return args[0] if into else filled
        return func(*args, **kwargs)


class _Stream:
    """Stands for a stream of the device, for which only the host can wait."""

    def __init__(self, waits: Waits) -> None:
        self.synchronize = waits.synchronize

    def wait_stream(self, stream: _Stream) -> None:
        pass

    def record_event(self) -> None:
        pass

    def wait_event(self, event: None) -> None:
        pass


class _Generator:
    """Stands for a generator of the device, which cannot be built without CUDA."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device = torch.device(device)

    def manual_seed(self, seed: int) -> _Generator:
        return self


@contextlib.contextmanager
def fake_cuda() -> Iterator[Waits]:
    """In the block, ``device="cuda"`` gives fake tensors; yields the count of waits."""
    assert _guard.register_noop_cuda_guard()
    waits = Waits()
    patches: list[tuple[Any, str, Any]] = [
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),  # asked before autocast is enabled
        (torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True),
        (torch.cuda, "current_stream", lambda *args: _Stream(waits)),
        (torch.cuda, "Stream", lambda *args: _Stream(waits)),
        (torch.cuda, "stream", lambda stream: contextlib.nullcontext()),
        (torch.Tensor, "record_stream", lambda tensor, stream: None),
        (torch, "Generator", _Generator),
    ]
    for name in ("randn", "randint", "rand", "randperm"):
        draw = getattr(torch, name)
        without = lambda *args, draw=draw, generator=None, **kwargs: draw(*args, **kwargs)  # noqa: E731
        patches.append((torch, name, without))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), waits:
            yield waits
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
