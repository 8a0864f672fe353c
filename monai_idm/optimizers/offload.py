r"""Keep the weights of some modules, and the optimizer's states of these, in the host's memory while nobody needs them.

A training step needs the weights of a module twice and their states once, in an order that is known. Those of the next
module are copied to the device, on a stream of their own, while the present one computes:

.. code-block:: text

    forward    module 1, copy 2    module 2, copy 3    module 3
    backward   module 3, copy 2    write 3 back, module 2, copy 1    write 2 back, module 1    write 1 back

A copy changes no bit, so training does not depend on it. The optimizer must step each parameter in the backward pass;
otherwise all gradients would wait on the device. Each module can be used once before its backward pass: a parameter
that has changed its device in between gets another node for its gradient, and would be stepped with a part of it.

Source: weights and states on the host are the idea of ZeRO-Offload, Ren et al. 2021, arXiv:2101.06840, which steps
there too; Muon's products of matrices would take seconds on a CPU.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.optimizers.weight_norm import weight_norm

__all__ = ["Offload"]

_WEIGHTS = "weights"


class Offload:
    """Moves weights and states between host and device.

    Between passes each parameter is a tensor of the host, which others can read and write. While its module computes it
    is a tensor of the device that it was on at first.

    Args:
        modules: Operations of a :class:`~monai_idm.reversible.ReversibleSequence`, in their order; each has weights of
            its own.
        state_of: The optimizer's state of a parameter, a dictionary that is changed in place.
    Raises:
        ValueError: If a parameter is sharded.
    """

    def __init__(self, modules: Sequence[nn.Module], state_of: Callable[[Tensor], dict[str, Any]]) -> None:
        self.modules = list(modules)
        self._parameters = [list(module.parameters()) for module in self.modules]
        self._state_of = state_of
        self._homes: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)  # on the host, of what is on the device
        self._versions: dict[Tensor, int] = {}  # of the same parameters, when they came
        self._arriving: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        self._arrived: dict[Tensor, Any] = {}  # events
        self._norms: dict[Tensor, Tensor] = {}
        self._last: int | None = None  # position of the latest module
        self._used: set[int] = set()  # positions of those that wait for their backward pass
        self._all = {p for params in self._parameters for p in params}
        if any(hasattr(p, "to_local") for p in self._all):
            raise ValueError("sharded weights cannot be offloaded here; FSDP2 has a CPUOffloadPolicy of its own")
        self.device = self._parameters[0][0].device
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._copies_back = False  # whether there are any for which nobody has waited
        for p in self._all:
            self._replace(p, _WEIGHTS, self._to_host(p.data))
        self._wait_for_copies_back()
        self._handles = [handle for module in self.modules for handle in _watched(module, weakref.ref(self))]

    def __contains__(self, p: Tensor) -> bool:
        return p in self._all

    def fetch(self, p: Tensor) -> None:
        """Have a parameter and its states on the device."""
        self._fetch(p, with_states=True)

    def put_back(self, p: Tensor) -> None:
        """Have a parameter and its states on the host; they are copied if the weights have been written to."""
        if p not in self._homes:
            return
        state, homes, changed = self._state_of(p), self._homes.pop(p), self._versions.pop(p) != p._version
        for part, home in homes.items():
            if changed:
                self._copy_back(p.data if part == _WEIGHTS else state[part], home)
            self._replace(p, part, home)
        self.put_new_states(p)

    def put_new_states(self, p: Tensor) -> None:
        """Have on the host what has been added to the states of a parameter, which is there itself."""
        state = self._state_of(p)
        for name, value in self._parts(p, with_states=True).items():
            if name != _WEIGHTS and value.device == self.device:
                state[name] = self._to_host(value)

    def norm(self, p: Tensor) -> Tensor:
        """Norm of the weights of a parameter in this pass, on the device."""
        if p not in self._norms:
            self._fetch(p, with_states=False)
            self._norms[p] = weight_norm(p)
            self.put_back(p)
        return self._norms[p]

    def end_pass(self) -> None:
        """Have everything on the host, with all copies complete."""
        for p in [*self._homes]:
            self.put_back(p)
        self._drop_what_arrives()
        self._norms.clear()
        self._used.clear()
        self._last = None
        self._wait_for_copies_back()

    def remove(self) -> None:
        """Have everything on the device, for good."""
        self.end_pass()
        while self._handles:
            self._handles.pop().remove()
        for p in self._all:
            self.fetch(p)
        self._homes.clear()
        self._versions.clear()

    def before_forward(self, module: nn.Module) -> None:
        """Called by the hooks, like the next two."""
        self._visit(module, with_states=False)

    def after_forward(self, module: nn.Module) -> None:
        if (position := self._position(module)) is not None:
            for p in self._parameters[position]:
                self.put_back(p)

    def before_backward(self, module: nn.Module) -> None:
        self._visit(module, with_states=True)

    def _visit(self, module: nn.Module, with_states: bool) -> None:
        position = self._position(module)
        if position is None:  # a copy of the module, which has weights of its own
            return
        differentiable = torch.is_grad_enabled() and not with_states
        if differentiable and position in self._used:
            raise RuntimeError(
                "an offloaded operation is used twice before the backward pass, which would step its weights twice: "
                "after a step that has failed, call zero_grad(); predict in torch.no_grad(); use the network once in a "
                "step, without its inverse (lambda_r=0), or offload nothing (offload_levels=0)"
            )
        if differentiable:
            self._used.add(position)
        elif with_states:
            self._used.discard(position)
        for p in self._parameters[position]:
            self._fetch(p, with_states)
            if differentiable:  # before the weights are stepped
                self._norms[p] = weight_norm(p)
        self._drop_what_arrives()  # it was sent for nothing
        after = self._next(position)
        self._last = position
        if after is not None:
            for p in self._parameters[after]:
                self._send(p, with_states)

    def _next(self, position: int) -> int | None:
        """The position to be visited next: further in the direction in which the modules are being visited."""
        end = len(self.modules) - 1
        if self._last is not None and abs(position - self._last) == 1:
            step = position - self._last
        else:
            step = -1 if position == end else 1
        return position + step if 0 <= position + step <= end else None

    def _position(self, module: nn.Module) -> int | None:
        return next((i for i, known in enumerate(self.modules) if known is module), None)

    def _fetch(self, p: Tensor, with_states: bool) -> None:
        self._send(p, with_states)
        if p in self._arrived:
            torch.cuda.current_stream(self.device).wait_event(self._arrived.pop(p))
        for part, tensor in self._arriving.pop(p, {}).items():
            self._homes[p][part] = p.data if part == _WEIGHTS else self._state_of(p)[part]
            self._replace(p, part, tensor)
            self._versions.setdefault(p, p._version)

    def _send(self, p: Tensor, with_states: bool) -> None:
        """Begin to copy to the device what is not there."""
        there = {*self._homes.get(p, ()), *self._arriving.get(p, ())}
        for part, tensor in self._parts(p, with_states).items():
            if part not in there:
                # made on the present stream, which will use it
                self._arriving[p][part] = torch.empty_like(tensor, device=self.device)
                with self._copying():
                    self._arriving[p][part].copy_(tensor, non_blocking=True)
        if self._stream is not None and p in self._arriving:
            self._arrived[p] = self._stream.record_event()

    def _drop_what_arrives(self) -> None:
        if self._stream is not None and self._arriving:  # its memory is not used again before it is written to
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        self._arriving.clear()
        self._arrived.clear()

    def _parts(self, p: Tensor, with_states: bool) -> dict[str, Tensor]:
        """What of a parameter moves: not its states of one number, such as the count of steps."""
        states = self._state_of(p) if with_states else {}
        moving = {name: value for name, value in states.items() if torch.is_tensor(value) and value.numel() > 1}
        return {_WEIGHTS: p.data, **moving}

    def _replace(self, p: Tensor, part: str, tensor: Tensor) -> None:
        if part == _WEIGHTS:
            p.data = tensor
        else:
            self._state_of(p)[part] = tensor

    def _copy_back(self, tensor: Tensor, home: Tensor) -> None:
        with self._copying():
            home.copy_(tensor, non_blocking=True)
        if self._stream is not None:
            tensor.record_stream(self._stream)  # its memory is not used again before it is copied
            self._copies_back = True

    def _wait_for_copies_back(self) -> None:
        if self._stream is not None and self._copies_back:
            self._stream.synchronize()
        self._copies_back = False

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """On the stream for copies, after what the present stream has been told to do."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield

    def _to_host(self, tensor: Tensor) -> Tensor:
        if self._stream is None:
            return tensor
        home = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._copy_back(tensor, home)
        return home


def _watched(module: nn.Module, offload: weakref.ref[Offload]) -> list[Any]:
    """Hooks that tell an Offload, while it lives, what a module does."""

    def before_forward(module: nn.Module, inputs: Any) -> None:
        if (living := offload()) is not None:
            living.before_forward(module)

    def after_forward(module: nn.Module, inputs: Any, outputs: Any) -> None:  # None: the forward pass failed
        if (living := offload()) is None:
            return
        living.after_forward(module)
        # an output that is an input, unchanged, has the node of the module before
        for node in {t.grad_fn for t in outputs or ()} - {t.grad_fn for t in inputs[0]} - {None}:
            node.register_prehook(lambda gradients: before_backward(module))

    def before_backward(module: nn.Module) -> None:
        if (living := offload()) is not None:
            living.before_backward(module)

    return [
        module.register_forward_pre_hook(before_forward),
        module.register_forward_hook(after_forward, always_call=True),
    ]
