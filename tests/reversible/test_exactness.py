"""Exact precision of user-defined operations: equal gradients in every policy, or an error that names the operation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from monai_idm.reversible import AdditiveCoupling, OrthogonalMixing, ReversibleOperation, ReversibleSequence, exactness
from monai_idm.reversible.fixed_point import remainder, restore, snap
from monai_idm.reversible.operation import Rebuilt
from tests.reversible.chains import Branch, coupling, disturb, gradients, halves

POLICIES = ("stored", "checkpointed", "rebuilt")


class Attended(ReversibleOperation):
    """Adds attention over one half to the other half; does not override rebuild."""

    def __init__(self, channels=16, dropout=0.0):
        super().__init__()
        self.mix = nn.Linear(channels // 2, channels // 2)
        self.project = nn.Linear(5, channels // 2)
        self.dropout = nn.Dropout(dropout)

    def condition(self, embedding):
        return [embedding]

    def step(self, b, e):
        tokens = self.mix(b.flatten(2).transpose(1, 2)) + self.project(e)[:, None]
        seen = torch.softmax(tokens @ tokens.mT, -1) @ tokens
        return snap(self.dropout(seen).transpose(1, 2).reshape(b.shape))

    def map(self, inputs, condition, remainders=None):
        a, b = inputs
        return [b, a + self.step(b, condition[0])]

    def inverse(self, outputs, condition, remainders=None):
        b, y = outputs
        return [y - self.step(b, condition[0]), b]


class Sheared(Attended):
    """The same with one weight that is read twice and one that is never read."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(3))

    def step(self, b, e):
        return snap(torch.einsum("oc,bcdhw->bodhw", self.mix.weight @ self.mix.weight.mT, torch.tanh(b)))


class Chosen(Attended):
    """Differs in the last bit with requires_grad, as kernels do that torch.matmul chooses by it."""

    def step(self, b, e):
        seen = super().step(b, e)
        return seen + 2.0**-12 if b.requires_grad else seen


class Turned(ReversibleOperation):
    """An orthogonal map that does not override rebuild; the gradient of each half is a sum over both outputs."""

    def __init__(self):
        super().__init__()
        self.angle = nn.Parameter(torch.tensor(0.3))

    def turn(self, a, b, sign):
        c, s = torch.cos(self.angle), sign * torch.sin(self.angle)
        return [c * a + s * b, c * b - s * a]

    def map(self, inputs, condition, remainders=None):
        y = [snap(z) for z in self.turn(*inputs, 1)]
        if remainders is not None:
            remainders += remainder(inputs, self.turn(*y, -1))
        return y

    def inverse(self, outputs, condition, remainders=None):
        return restore(self.turn(*outputs, -1), remainders)


class OffTheGrid(Attended):
    """Forgets to snap."""

    def step(self, b, e):
        return 0.3 * b


class Stretched(Attended):
    """Snaps, but does not keep what its inverse misses."""

    def map(self, inputs, condition, remainders=None):
        return [snap(x * 0.7) for x in inputs]

    def inverse(self, outputs, condition, remainders=None):
        return [snap(y / 0.7) for y in outputs]


class Approximate(Attended):
    """Overrides rebuild, with gradients that are right to seven digits."""

    def rebuild(self, outputs, gradients, condition, remainders):
        x, dx, dc, dw = super().rebuild(outputs, gradients, condition, remainders)
        return Rebuilt(x, [g * (1 + 2e-7) for g in dx], dc, dw)


class Rough(Branch):
    """A branch that computes another function where gradients are recorded."""

    def forward(self, x, e):
        return super().forward(x, e) + 0.01 * x.requires_grad


def chain(*operations):
    torch.manual_seed(0)
    return disturb(
        ReversibleSequence([coupling(3, 16), OrthogonalMixing(16), *operations, coupling(3, 16)], exact=True)
    )


def unequal(chain, policies=POLICIES, seed=None):
    inputs, embedding = halves(3), torch.randn(2, 5)
    found = []
    for policy in policies:
        torch.manual_seed(1)  # for dropout
        found.append(gradients(chain, inputs, embedding, policy))
    return [
        name
        for other in found[1:]
        for name, g in found[0].items()
        if not (g is other[name] or (None not in (g, other[name]) and torch.equal(g, other[name])))
    ]


@pytest.mark.parametrize("make", [Attended, lambda: Attended(dropout=0.5), Sheared, Chosen, Turned])
def test_an_operation_without_a_rebuild_of_its_own_has_equal_gradients_in_every_policy(make):
    net = chain(make(), make())
    some = ["rebuilt", "stored", "rebuilt", "checkpointed", "rebuilt"]
    assert not unequal(net, (*POLICIES, some))


def test_without_exactness_too_a_random_operation_is_differentiated_where_it_was():
    net = disturb(ReversibleSequence([Attended(dropout=0.5), Attended(dropout=0.5)])).double()
    inputs, embedding = halves(3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    for operation in net.operations:
        operation.step = partial(_smooth, operation)
    found = []
    for policy in ("stored", "rebuilt"):
        torch.manual_seed(1)
        found.append(gradients(net, inputs, embedding, policy))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-9, atol=1e-11, msg=name)


def _smooth(operation, b, e):
    return operation.dropout(torch.tanh(operation.mix(b.transpose(1, -1)).transpose(1, -1))) + 0 * e.sum()


class Undone(nn.Module):
    """A chain's inverse as a chain."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, inputs, embedding, activations):
        return self.chain.inverse(list(inputs), embedding, activations)


@pytest.mark.parametrize("make", [None, Attended])
def test_the_inverse_of_an_exact_chain_has_equal_gradients_in_every_policy(make):
    assert not unequal(Undone(chain(*[make()] if make else [])))


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        (OffTheGrid, "2 of 2 inputs|1 of 2 inputs"),
        (Stretched, "2 of 2 inputs"),
        (Approximate, "[12] of [0-9]+ gradients"),
    ],
)
def test_an_operation_that_is_not_exact_is_refused_in_its_first_step_and_by_verify(operation, what):
    match = f"({what}) of operation 2 of the chain, {operation.__name__} are not rebuilt bit for bit"
    inputs, embedding = halves(3), torch.randn(2, 5)
    with pytest.raises(ValueError, match=match):
        chain(operation()).verify(list(inputs), embedding)
    with pytest.raises(ValueError, match=match):
        chain(operation())([x.requires_grad_() for x in inputs], embedding)
    chain(operation())(inputs, embedding, "stored")  # rebuilds nothing, so it is not refused


def test_a_branch_that_is_not_exact_is_refused():
    with pytest.raises(ValueError, match="of operation 2 of the chain, AdditiveCoupling are not rebuilt bit for bit"):
        unequal(chain(AdditiveCoupling(Rough(3, 8, 5))), ["rebuilt"])


def test_without_exactness_nothing_is_asked_of_the_last_bit():
    net = ReversibleSequence([Approximate(), Attended()])
    unequal(net, ["rebuilt"])
    net.verify(list(halves(3)), torch.randn(2, 5))


def test_an_operation_is_looked_at_once_and_ours_never(monkeypatch):
    looked = []
    monkeypatch.setattr(
        "monai_idm.reversible.rebuilding.require_exact",
        lambda *arguments: (looked.append(arguments[1]), exactness.require_exact(*arguments)),
    )
    net = chain(Attended())
    for operation in (net.operations[0], net.operations[3]):
        operation.f = nn.Bilinear(1, 1, 1)  # a module of torch, hence trusted
        operation._is_exact = True
    inputs, embedding = halves(3), torch.randn(2, 5)
    middle = ReversibleSequence([*net.operations][1:3], exact=True)
    for _ in range(2):
        gradients(middle, inputs, embedding, "rebuilt")
    assert looked == ["operation 1 of the chain, Attended"]


def test_a_stored_exact_operation_takes_weights_for_one_call_and_backward_twice():
    net = chain(Attended())
    inputs, embedding = halves(3), torch.randn(2, 5)
    weights = {name: torch.randn_like(p).requires_grad_() for name, p in net.named_parameters()}
    y = torch.func.functional_call(net, weights, ([*inputs], embedding, "stored"))
    first, second = (
        torch.autograd.grad(sum(t.sum() for t in y), list(weights.values()), retain_graph=True, allow_unused=True)
        for _ in range(2)
    )
    assert any(g is not None and g.any() for g in first)
    for a, b in zip(first, second, strict=True):
        assert a is b or torch.equal(a, b)
