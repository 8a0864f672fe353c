"""Laws of the engine, each against the same chain with its activations stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_idm.reversible import AdditiveCoupling, OrthogonalMixing, ReversibleOperation, ReversibleSequence
from tests.reversible.chains import coupling, disturb, gradients, halves, unet, with_branch_batch


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed"])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_equal_those_of_stored_activations(dims, activations):
    chain = unet(dims, couplings=2).double()
    inputs, embedding = halves(dims, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    expected = gradients(chain, inputs, embedding, "stored")
    found = gradients(chain, inputs, embedding, activations)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_inverse_undoes_the_chain(dims):
    chain = unet(dims).double()
    inputs, embedding = halves(dims, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    with torch.no_grad():
        outputs = chain(inputs, embedding)
        for x, y, back in zip(inputs, outputs, chain.inverse(outputs, embedding), strict=True):
            assert (x - y).abs().max() > 0.1
            torch.testing.assert_close(back, x, rtol=0, atol=1e-12)


def test_gradients_pass_gradcheck():
    chain = ReversibleSequence([coupling(2, 4), coupling(2, 4)]).double()
    inputs = [x.requires_grad_() for x in halves(2, 4, batch=1, sides=(2, 2), dtype=torch.float64)]
    embedding = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda a, b, e: chain((a, b), e), (*inputs, embedding))


class Shear(ReversibleOperation):
    """An operation without a ``rebuild`` of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def condition(self, embedding):
        return (embedding,)

    def map(self, inputs, condition, remainders=None):
        a, b = inputs
        return a + self.weight * torch.tanh(b) * condition[0].mean(), b

    def inverse(self, outputs, condition, remainders=()):
        a, b = outputs
        return a - self.weight * torch.tanh(b) * condition[0].mean(), b


def test_an_operation_needs_only_a_map_and_its_inverse():
    chain = ReversibleSequence([Shear(), coupling(2, 8), Shear()]).double()
    inputs, embedding = halves(2, 8, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    expected = gradients(chain, inputs, embedding, "stored")
    for name, gradient in gradients(chain, inputs, embedding, "rebuilt").items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_autograd_grad_accumulation_and_a_retained_graph():
    chain, embedding = unet(2).double(), torch.randn(2, 5, dtype=torch.float64)
    inputs = halves(2, dtype=torch.float64)
    expected = gradients(chain, inputs, embedding, "stored")
    chain.zero_grad()
    outputs = chain(inputs, embedding)
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sin().sum() for y in outputs)
    names, parameters = zip(*chain.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=name)
    loss.backward(retain_graph=True)
    loss.backward()
    for name, p in zip(names, parameters, strict=True):
        torch.testing.assert_close(p.grad, 2 * expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_frozen_parameters_get_no_gradient_and_change_no_other():
    chain, embedding = unet(2).double(), torch.randn(2, 5, dtype=torch.float64)
    inputs = halves(2, dtype=torch.float64)
    for p in chain.operations[0].parameters():
        p.requires_grad_(False)
    chain.operations[4].f.conv.weight.requires_grad_(False)
    expected = gradients(chain, inputs, embedding, "stored")
    found = gradients(chain, inputs, embedding, "rebuilt")
    for name in expected:
        assert (found[name] is None) == (expected[name] is None), name
        if expected[name] is not None:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_a_hook_on_a_parameter_fires_once():
    chain = unet(2)
    fired = []
    chain.operations[0].f.conv.weight.register_hook(fired.append)
    gradients(chain, halves(2), torch.randn(2, 5), "rebuilt")
    assert len(fired) == 1


def test_dropout_draws_the_same_in_both_passes_and_leaves_the_random_state():
    chain = disturb(ReversibleSequence([coupling(2, 8, dropout=0.5) for _ in range(3)])).double()
    inputs, embedding = halves(2, 8, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    found = {}
    for activations in ("stored", "rebuilt"):
        torch.manual_seed(5)
        found[activations] = gradients(chain, inputs, embedding, activations)
        found[activations]["next draw"] = torch.rand(3)
    for name, gradient in found["rebuilt"].items():
        torch.testing.assert_close(gradient, found["stored"][name], rtol=1e-9, atol=1e-11, msg=name)


def test_autocast_is_the_same_in_both_passes():
    chain = disturb(ReversibleSequence([coupling(2, 32) for _ in range(2)]))
    inputs, embedding = halves(2, 32, sides=(8, 8)), torch.randn(2, 5)
    found = {}
    for activations in ("stored", "rebuilt"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        chain.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = chain(leaves, embedding, activations)
            assert outputs[0].dtype == torch.float32
        sum(y.square().sum() for y in outputs).backward()
        found[activations] = torch.cat([p.grad.flatten() for p in chain.parameters()])
    # streams are float32: what is rebuilt differs by float32 rounding, which may move a bfloat16 input by one step
    error = (found["rebuilt"] - found["stored"]).norm() / found["stored"].norm()
    assert error < 1e-2


def test_no_tape_without_autograd():
    chain = unet(2)
    with torch.no_grad():
        outputs = chain(halves(2), torch.randn(2, 5), "rebuilt")
    assert not outputs[0].requires_grad


def test_double_backward_is_refused():
    chain = unet(2)
    inputs = [x.requires_grad_() for x in halves(2)]
    outputs = chain(inputs, torch.randn(2, 5))
    (gradient,) = torch.autograd.grad(outputs[0].square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_entering_the_chain_in_the_middle_is_refused():
    chain, inside = unet(2), []
    chain.operations[2].register_forward_hook(lambda module, inputs, outputs: inside.append(outputs))
    chain(halves(2), torch.randn(2, 5))
    with pytest.raises(RuntimeError, match="must enter the chain at its exit"):
        inside[0][0].sum().backward()


def test_editing_the_output_in_place_is_refused():
    outputs = unet(2)(halves(2), torch.randn(2, 5))
    with torch.no_grad():
        outputs[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs[1].sum().backward()


def test_a_branch_that_changes_shape_is_refused():
    chain = ReversibleSequence([AdditiveCoupling(nn.Bilinear(4, 5, 4))])
    chain.operations[0].f.forward = lambda x, e: x[:, :1]
    with pytest.raises(ValueError, match="a branch must keep the shape"):
        chain(halves(2, 8), torch.randn(2, 5))


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="choose one of rebuilt, checkpointed, stored"):
        unet(2)(halves(2), torch.randn(2, 5), "kept")


def test_verify_finds_the_operation_whose_inverse_is_wrong():
    chain = unet(2)
    chain.verify(halves(2), torch.randn(2, 5))
    wrong = chain.operations[4]
    inverse = wrong.inverse
    wrong.inverse = lambda outputs, condition, remainders=(): [
        x + 1e-2 for x in inverse(outputs, condition, remainders)
    ]
    with pytest.raises(ValueError, match="inverse of operation 4 of the chain, AdditiveCoupling misses"):
        chain.verify(halves(2), torch.randn(2, 5))
    wrong.inverse = lambda outputs, condition, remainders=(): inverse(outputs, condition, remainders)[:1]
    with pytest.raises(ValueError, match="operation 4 of the chain, AdditiveCoupling turned inputs"):
        chain.verify(halves(2), torch.randn(2, 5))


def test_batch_normalisation_in_a_branch_is_refused():
    branch = coupling(2, 8)
    branch.f.norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match=r"f\.norm of operation 0 of the chain, AdditiveCoupling is a BatchNorm2d"):
        ReversibleSequence([branch])


@pytest.mark.parametrize("seed", range(4))
def test_every_operation_may_have_a_policy_of_its_own(seed):
    chain = unet(3).double()
    inputs, embedding = halves(3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 3, (len(chain.operations),), generator=random)
    policies = [("rebuilt", "checkpointed", "stored")[i] for i in drawn]
    expected = gradients(chain, inputs, embedding, "stored")
    for name, gradient in gradients(chain, inputs, embedding, policies).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=f"{name}, {policies}")


def test_a_policy_for_each_operation_is_asked_for():
    with pytest.raises(ValueError, match="or one for each of 10 operations"):
        unet(2)(halves(2), torch.randn(2, 5), ["stored"] * 3)


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed", "stored"])
def test_a_branch_that_edits_its_input_is_refused(activations):
    chain = ReversibleSequence([coupling(2, 8), coupling(2, 8)])
    chain.operations[1].f.norm = nn.Hardtanh(inplace=True)
    with pytest.raises(ValueError, match="operation 1 of the chain, AdditiveCoupling edits its input in place"):
        chain(halves(2, 8), torch.randn(2, 5), activations)


def test_a_sharded_module_inside_an_operation_is_refused(monkeypatch):
    from torch.distributed.fsdp import FSDPModule

    chain = ReversibleSequence([coupling(2, 8)])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    chain(halves(2, 8), torch.randn(2, 5))
    conv = chain.operations[0].f.conv
    conv.__class__ = type("FSDPConv2d", (FSDPModule, nn.Conv2d), {"__new__": object.__new__})
    with pytest.raises(ValueError, match=r"f\.conv of operation 0 of the chain, AdditiveCoupling is wrapped by FSDP"):
        chain(halves(2, 8), torch.randn(2, 5))


@pytest.mark.parametrize("branch_batch", [1, 2])
def test_a_branch_sample_by_sample_gives_the_same(branch_batch):
    chain = unet(3).double()
    inputs, embedding = halves(3, batch=3, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    expected = gradients(chain, inputs, embedding, "stored")
    for activations in ("stored", "rebuilt"):
        found = gradients(with_branch_batch(chain, branch_batch), inputs, embedding, activations)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_backward_leaves_the_outputs_as_they_were():
    chain = unet(2)
    outputs = chain(halves(2), torch.randn(2, 5))
    before = [y.detach().clone() for y in outputs]
    sum(y.square().sum() for y in outputs).backward()
    for y, was in zip(outputs, before, strict=True):
        assert torch.equal(y, was)


class Shift(ReversibleOperation):
    """``(a, b) -> (a + e, b)``: autograd returns one tensor as the gradient of a and of e."""

    def condition(self, embedding):
        return [embedding]

    def map(self, inputs, condition, remainders=None):
        return [inputs[0] + condition[0], inputs[1].clone()]

    def inverse(self, outputs, condition, remainders=None):
        return [outputs[0] - condition[0], outputs[1]]


def test_gradients_that_share_memory_are_not_overwritten():
    chain = disturb(ReversibleSequence([Shift(), OrthogonalMixing(16), Shift()]))
    inputs = halves(2)
    expected = gradients(chain, inputs, torch.ones_like(inputs[0]), "stored")
    found = gradients(chain, inputs, torch.ones_like(inputs[0]), "rebuilt")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_a_hook_that_changes_a_gradient_inside_the_chain_is_refused():
    chain = unet(2)
    chain.operations[1].register_forward_hook(
        lambda *args: [y.register_hook(lambda g: 2 * g) for y in args[2]] and None
    )
    outputs = chain([x.requires_grad_() for x in halves(2)], torch.randn(2, 5))
    with pytest.raises(RuntimeError, match=r"replaced the gradient of what operation 1 of the chain.*\"stored\""):
        outputs[0].sum().backward()


@pytest.mark.parametrize("policies", ["rebuilt", "checkpointed", "stored", "mixed"])
def test_gradients_of_streams_can_be_rounded_alike_by_every_policy(policies):
    chain = unet(3).double()
    chain.operations[6].scale.to_k.bias.requires_grad_(False)  # its gradient is 0
    inputs, embedding = halves(3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    exact = gradients(chain, inputs, embedding, "stored")
    chain.gradient_dtype = torch.bfloat16
    expected = gradients(chain, inputs, embedding, "stored")
    count = len(chain.operations)
    found = gradients(
        chain, inputs, embedding, ["rebuilt", "stored"] * (count // 2) if policies == "mixed" else policies
    )
    for name in set(expected) - {"operations.6.scale.to_k.bias"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8, msg=name)
        assert 1e-5 < (expected[name] - exact[name]).norm() / exact[name].norm() < 2e-2, name


def test_weights_that_change_before_backward_are_refused():
    chain = unet(2)
    outputs = chain(halves(2), torch.randn(2, 5))
    with torch.no_grad():
        chain.operations[0].f.conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="weights of operation 0 of the chain, AdditiveCoupling were changed"):
        outputs[0].sum().backward()


@pytest.mark.parametrize("policies", ["rebuilt", ["stored", "rebuilt"]])
def test_a_sample_tells_how_well_activations_were_rebuilt(policies):
    chain = ReversibleSequence([coupling(3, 16), coupling(3, 16)])
    inputs = [x.requires_grad_() for x in halves(3)]
    sum(y.sum() for y in chain(inputs, torch.randn(2, 5), policies)).backward()
    assert chain.spot_check.error < 1e-5
    first = chain.operations[0 if policies == "rebuilt" else 1]
    rebuild = first.rebuild
    first.rebuild = lambda *arguments: (lambda x, *rest: ([t + 0.5 for t in x], *rest))(*rebuild(*arguments))
    sum(y.sum() for y in chain(inputs, torch.randn(2, 5), policies)).backward()
    numbers = torch.cat([number.flatten() for number in chain.spot_check.numbers])
    assert chain.spot_check.error == pytest.approx(float(0.5 / numbers.square().mean().sqrt()), rel=1e-4)
    assert sum(number.numel() for number in chain.spot_check.numbers) <= 2 * 4**5


def test_where_nothing_is_rebuilt_there_is_no_sample():
    chain = ReversibleSequence([coupling(3, 16)])
    with torch.no_grad():
        chain(halves(3), torch.randn(2, 5))
    chain([x.requires_grad_() for x in halves(3)], torch.randn(2, 5), "checkpointed")
    assert chain.spot_check is None
