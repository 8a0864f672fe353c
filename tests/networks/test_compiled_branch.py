"""Compiled branches: the same gradients, names and files as uncompiled ones, wherever a network is used.

Compiling takes seconds for each size, so the network has one level, and all tests share its sizes.
"""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from monai_idm.distributed import full_tensor, sharded
from monai_idm.meters import count_flops, estimate
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.compiled_branch import CompiledBranch
from monai_idm.optimizers import AdamWInBackward, weight_norm_groups
from monai_idm.reversible import ACTIVATIONS
from tests.distributed.two_processes import ask_two
from tests.networks.test_invertible_unet import gradients, worst_error
from tests.reversible.chains import disturb

BATCH, CHUNK = 3, 2  # a chunk of two samples, and one of the one that remains
ONE_LEVEL = {
    "channels": (16,),
    "num_res_blocks": 1,
    "attention_levels": (False,),
    "norm_num_groups": 2,
    "embedding_channels": 8,
    "branch_batch": CHUNK,
}


MIXED = {"precision": "mixed", "branch_batch": "auto"}


def one_level(**overrides) -> InvertibleDiffusionUNet:
    torch.manual_seed(0)
    return disturb(InvertibleDiffusionUNet(3, 2, 2, **{**ONE_LEVEL, **overrides}))


def compiled(**overrides) -> InvertibleDiffusionUNet:
    try:
        return one_level(compile_branches=True, **overrides)
    except ValueError as error:
        pytest.skip(str(error))


def data(dtype=torch.float64):
    numbers = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 2, 8, 8, 8, generator=numbers, dtype=dtype), torch.tensor([3, 70, 700])


def programs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_gradients_equal_uncompiled_ones(activations):
    net, (x, t) = compiled().double(), data()
    expected = gradients(one_level().double().with_activations(activations), x, t)
    counters.clear()
    assert worst_error(gradients(net.with_activations(activations), x, t), expected) <= 1e-9
    assert not counters["graph_break"]


def test_mixed_gradients_are_as_close_to_uncompiled_ones_as_bfloat16_is():
    x, t = data(torch.float32)
    expected = gradients(one_level(**MIXED), x, t)
    found = gradients(compiled(**MIXED), x, t)
    total = torch.cat([g.flatten() for g in expected.values()])
    error = torch.cat([(found[name] - g).flatten() for name, g in expected.items()])
    assert error.norm() <= 2e-2 * total.norm()


def test_copies_are_compiled_and_predict_the_same():
    net, (x, t) = compiled().double(), data()
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    with torch.no_grad():
        expected = net(x, t)
        for twin in (copy.deepcopy(net), net.with_activations("stored"), torch.load(buffer, weights_only=False)):
            assert isinstance(twin.core.operations[0].f, CompiledBranch)
            assert torch.equal(twin(x, t), expected)


def test_weights_go_both_ways():
    net, plain = compiled(), one_level()
    assert list(net.state_dict()) == list(plain.state_dict())
    assert net.arguments == plain.arguments
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())


def test_all_sizes_are_compiled(monkeypatch):
    net = compiled().double().requires_grad_(False)
    sizes = 9  # one more than torch's own limit
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **_: graph)
    counters.clear()
    for size in range(1, 1 + sizes):
        net(torch.randn(1, 2, size, 2, 2, dtype=torch.float64))
    torch._dynamo.reset()  # the next test must not meet programs of a replaced compiler
    assert programs() == sizes


def test_what_counts_operators_sees_them_and_does_not_end_compilation():
    net, plain = compiled(), one_level()
    x, t = data(torch.float32)
    torch._dynamo.reset()
    counters.clear()
    assert estimate(net, x.shape) == estimate(plain, x.shape)
    assert count_flops(lambda: gradients(net, x, t)) == count_flops(lambda: gradients(plain, x, t))
    assert programs() == 0
    net.double()(*data())
    assert programs() == CHUNK


def test_exports_are_those_of_the_uncompiled_network():
    net, plain, (x, t) = compiled().double().eval(), one_level().double().eval(), data()
    counters.clear()
    expected = plain(x, t)
    torch.testing.assert_close(torch.jit.script(net)(x, t), expected)
    torch.testing.assert_close(torch.export.export(net, (x, t)).module()(x, t), expected)
    assert programs() == 0


def training(steps, state=None):
    net = compiled(**MIXED)
    optimizer = AdamWInBackward(weight_norm_groups(net), lr=1e-3)
    for part, saved in zip((net, optimizer), state or (), strict=False):
        part.load_state_dict(saved)
    x, t = data(torch.float32)
    for _ in range(steps):
        net(x, t).square().mean().backward()
        optimizer.step()
    return [copy.deepcopy(part.state_dict()) for part in (net, optimizer)]


def test_a_resumed_training_computes_the_same_bits():
    expected = training(4)
    half = training(2)
    torch._dynamo.reset()  # as in a new process
    resumed = training(2, half)
    for name, weight in expected[0].items():
        assert torch.equal(resumed[0][name], weight), name
    assert any(not torch.equal(weight, half[0][name]) for name, weight in expected[0].items())


def sharded_gradients(rank):
    net, (x, t) = sharded(compiled().double()), data()
    counters.clear()
    net(x, t).square().mean().backward()
    assert programs() > 0
    return {name: full_tensor(p.grad) for name, p in net.named_parameters()}


def test_sharded_weights_get_the_same_gradients(tmp_path):
    net, (x, t) = compiled().double(), data()
    found = ask_two(sharded_gradients, tmp_path)
    net(x, t).square().mean().backward()
    assert worst_error(found, {name: p.grad for name, p in net.named_parameters()}) <= 1e-9


@pytest.mark.parametrize("precision", ["exact", "exact-mixed"])
def test_exact_precision_is_refused(precision):
    with pytest.raises(ValueError, match=f"precision='{precision}'.*choose 'float32' or 'mixed'"):
        one_level(compile_branches=True, precision=precision)


def test_a_missing_compiler_is_named_at_the_start(tmp_path):
    script = "from monai_idm.networks import InvertibleDiffusionUNet as N; N(3, 2, 2, compile_branches=True)"
    variables = {**os.environ, "CXX": "/nowhere/g++", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: torch.compile does not work on this CPU:"), done.stderr
    assert "/nowhere/g++" in last
    assert "set --compile_branches false" in last
