"""Weights and states on the host: the same training, and nothing else on the device between uses."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_idm.meters import live_bytes
from monai_idm.optimizers import AdamWInBackward, weight_norm_groups
from monai_idm.optimizers.offload import Offload
from monai_idm.reversible import ACTIVATIONS
from tests.networks.test_invertible_unet import SHALLOW, small

_aten = torch.ops.aten
ALLOWED = {_aten.copy_.default, _aten.empty_like.default, _aten.detach.default}


class HostOnly(TorchDispatchMode):
    """On a CPU, host and device are one: this refuses what would fail on a GPU, an operation on memory of the host."""

    def __init__(self, params):
        super().__init__()
        self.homes = {p.untyped_storage().data_ptr() for p in params}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
        if func not in ALLOWED:
            assert not self.homes & {t.untyped_storage().data_ptr() for t in tensors}, func
        return func(*args, **(kwargs or {}))


def build(levels, muon=False, states="float32", dims=2, **overrides):
    torch.manual_seed(0)
    net = small(dims, **{**SHALLOW, **overrides})
    groups, fused = weight_norm_groups(net, muon), {"fused": True} if states == "float32" else {}
    offload = net.deep_couplings(levels)
    return net, AdamWInBackward(groups, 1e-2, lambda_l2=0.1, states=states, offload=offload, **fused)


def loss_of(net, step):
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(step))
    return net(x, torch.tensor([step])).square().mean()


def train(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def weights(optimizer):
    return [p for module in optimizer.offloaded for p in module.parameters()]


def assert_equal(net, twin):
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ("levels", "steps", "settings"),
    [
        (1, 5, {}),
        (2, 50, {"activations": "rebuilt"}),
        (2, 5, {"activations": "checkpointed"}),
        (2, 5, {"activations": "stored"}),
        (2, 5, {"muon": True, "activations": ("stored", "rebuilt")}),
        (2, 5, {"muon": True, "states": "8bit"}),
        (2, 5, {"states": "8bit", "precision": "mixed", "weight_dtype": "bfloat16"}),
        (2, 5, {"precision": "exact"}),
    ],
    ids=str,
)
def test_training_is_the_same_to_the_bit(levels, steps, settings):
    if settings.get("states") == "8bit":
        pytest.importorskip("bitsandbytes")
    (net, optimizer), (twin, plain) = build(levels, **settings), build(0, **settings)
    assert len(optimizer.offloaded) == {1: 2, 2: 4}[levels]
    with HostOnly(weights(optimizer)):
        train(net, optimizer, range(steps))
    train(twin, plain, range(steps))
    assert_equal(net, twin)


def test_the_device_holds_two_modules_at_most_and_nothing_between_steps():
    net, optimizer = build(2)
    modules = [sum(p.nbytes for p in module.parameters()) for module in optimizer.offloaded]
    train(net, optimizer, range(2))
    homes = {p: p.data_ptr() for p in weights(optimizer)}
    states = [state["exp_avg"].data_ptr() for state in map(optimizer.state.get, homes)]
    with live_bytes() as memory, torch.no_grad():
        net(torch.randn(1, 2, 8, 8), torch.tensor([3]))
    assert memory.current_bytes == 0
    with live_bytes() as plain, torch.no_grad():
        build(0)[0](torch.randn(1, 2, 8, 8), torch.tensor([3]))
    assert memory.peak_bytes <= plain.peak_bytes + max(a + b for a, b in pairwise(modules))
    with live_bytes() as memory:
        train(net, optimizer, [2])
    assert memory.current_bytes < min(modules)  # the sample of a rebuilt tensor
    assert {p: p.data_ptr() for p in homes} == homes
    assert [state["exp_avg"].data_ptr() for state in map(optimizer.state.get, homes)] == states


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_each_module_comes_while_the_one_before_computes_and_then_goes(activations, monkeypatch):
    net, optimizer = build(2, activations=activations)
    visit, visits = Offload._visit, []

    def watched(offload, module, with_states):
        on_its_way = all(p in offload._arriving for p in module.parameters())
        visit(offload, module, with_states)
        there = {*offload._homes, *offload._arriving}
        positions = [i for i, other in enumerate(offload.modules) if there & {*other.parameters()}]
        visits.append((offload.modules.index(module), with_states, on_its_way, positions))

    monkeypatch.setattr(Offload, "_visit", watched)
    train(net, optimizer, range(1))
    end = len(optimizer.offloaded) - 1
    forward = [(i, False, i > 0, [i, i + 1][: end - i + 1]) for i in range(end + 1)]
    backward = [(i, True, i < end, [i - 1, i][i == 0 :]) for i in range(end, -1, -1)]
    assert visits == forward + backward


def test_gradients_may_be_held():
    (net, optimizer), (twin, plain) = build(2), build(0)
    homes = [p.data_ptr() for p in weights(optimizer)]
    for model, steps in ((net, optimizer), (twin, plain)):
        with HostOnly(weights(steps)):
            for _ in range(2):
                with steps.hold():
                    loss_of(model, 0).backward()
                    assert model is twin or [p.data_ptr() for p in weights(steps)] == homes
                    loss_of(model, 1).backward()
                steps.step()
    assert_equal(net, twin)


def test_gradients_may_be_dropped_before_the_backward_pass():
    (net, optimizer), (twin, plain) = build(2), build(0)
    for model, steps in ((net, optimizer), (twin, plain)):
        with HostOnly(weights(steps)):
            loss = loss_of(model, 0)
            steps.zero_grad()
            loss.backward()
            steps.step()
    assert_equal(net, twin)


@pytest.mark.parametrize(("first", "second"), [(2, 2), (0, 2), (2, 0)])
def test_a_training_continues_with_or_without_it(first, second, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = {"muon": True, "states": "8bit"}
    (net, optimizer), (twin, plain) = build(first, **settings), build(0, **settings)
    train(net, optimizer, range(3))
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    net, optimizer = build(second, **settings)
    train(net, optimizer, [9])  # so that it has other weights and states before it loads
    for part, saved in zip((net, optimizer), torch.load(tmp_path / "checkpoint.pt"), strict=True):
        part.load_state_dict(saved)
    with HostOnly(weights(optimizer)):
        train(net, optimizer, range(3, 6))
    train(twin, plain, range(6))
    assert_equal(net, twin)


def test_predictions_and_copies_of_the_network_need_no_care():
    (net, optimizer), (twin, _) = build(2), build(0)
    x, t = torch.randn(1, 2, 8, 8), torch.tensor([3])
    with torch.no_grad(), HostOnly(weights(optimizer)):
        y = net(x, t)
    assert torch.equal(y, twin(x, t))
    alone = copy.deepcopy(net)
    train(alone, AdamWInBackward(alone.parameters()), range(2))
    assert_equal(net, twin)


def test_a_pass_that_fails_leaves_the_weights_on_the_host():
    (net, optimizer), (twin, plain) = build(2), build(0)
    homes = [p.data_ptr() for p in weights(optimizer)]
    handle = optimizer.offloaded[0].f.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), torch.no_grad():
        loss_of(net, 0)
    handle.remove()
    assert [p.data_ptr() for p in weights(optimizer)] == homes
    train(twin, plain, [9])
    net.load_state_dict(twin.state_dict())
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    with torch.no_grad():  # what was sent before it failed is not used
        assert torch.equal(loss_of(net, 0), loss_of(twin, 0))
    handle = optimizer.offloaded[1].register_full_backward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss_of(net, 0).backward()
    handle.remove()
    optimizer.zero_grad()
    assert [p.data_ptr() for p in weights(optimizer)] == homes


@pytest.mark.parametrize("inverse_head", [False, True])
def test_a_second_use_before_the_backward_pass_is_refused(inverse_head):
    net, optimizer = build(1, inverse_head=inverse_head)
    x, t = torch.randn(1, 2, 8, 8), torch.tensor([3])
    y = net(x, t)
    with pytest.raises(RuntimeError, match=r"used twice.*without its inverse \(lambda_r=0\)"):
        net.inverse(y) if inverse_head else net(x, t)
    optimizer.zero_grad()
    train(net, optimizer, range(2))
    with torch.no_grad():
        net.inverse(net(x, t)) if inverse_head else net(net(x, t), t)


def test_removed_it_moves_nothing_more():
    (net, optimizer), (twin, plain) = build(2), build(0)
    train(net, optimizer, range(2))
    homes = weights(optimizer)
    optimizer.remove()
    assert list(optimizer.offloaded) == []
    AdamWInBackward(net.parameters()).remove()
    train(twin, plain, range(2))
    plain.remove()
    with live_bytes() as memory:
        train(net, optimizer, range(2, 4))
    assert memory.current_bytes <= sum(p.nbytes for p in net.parameters())  # gradients
    train(twin, plain, range(2, 4))
    assert_equal(net, twin)
    assert homes


def test_what_cannot_be_offloaded_is_refused():
    net = small(2, **SHALLOW)
    with pytest.raises(ValueError, match="weights that this optimizer does not step"):
        AdamWInBackward(net.embedding.parameters(), offload=net.deep_couplings(1))
    AdamWInBackward(net.parameters(), offload=net.deep_couplings(1))
    for levels in (-1, 3, 1.5, "two"):
        with pytest.raises(ValueError, match=f"couplings of {levels!r} levels .* whole number from 0 to 2"):
            net.deep_couplings(levels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "settings", [{"activations": "rebuilt"}, {"activations": "stored"}, {"muon": True, "states": "8bit"}], ids=str
)
def test_on_cuda_training_is_the_same_with_less_memory(settings, monkeypatch):
    if settings.get("states") == "8bit":
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    wide = {"dims": 3, "channels": (64, 128, 256), "num_res_blocks": 1, "attention_levels": (False, True, False)}
    found, peaks = [], []
    for levels in (2, 0):
        with torch.device("cuda"):
            net, optimizer = build(levels, **settings, **wide)
            x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([3, 700])
        for step in range(20):
            if step == 1:  # its states exist
                torch.cuda.reset_peak_memory_stats()
            net(x, t).square().mean().backward()
            optimizer.step()
        peaks.append(torch.cuda.max_memory_allocated())
        assert all(p.device.type == "cpu" and p.is_pinned() for p in weights(optimizer))
        found.append({name: p.detach().cpu() for name, p in net.named_parameters()})
        del net, optimizer
    assert peaks[0] < peaks[1]
    for name, p in found[0].items():
        assert torch.equal(p, found[1][name]), name
