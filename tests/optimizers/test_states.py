"""AdamW's states in float32 and in 8 bits, and the steps of bfloat16 weights."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from monai_idm.meters import live_bytes
from monai_idm.optimizers import AdamWInBackward
from monai_idm.optimizers.states import STATES, ParameterStep

BFLOAT16_ULP = 2**-7  # for numbers in [1, 2)


@pytest.fixture(params=STATES)
def states(request):
    if request.param == "8bit":
        pytest.importorskip("bitsandbytes")
    return request.param


def network(dtype=torch.float32):
    """A weight of 4608 elements (not a whole number of kilobytes), which has 8-bit states, and small ones without."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 32, 3), nn.SiLU(), nn.Conv2d(32, 16, 3, bias=False), nn.GroupNorm(4, 16)).to(dtype)
    return net[:3].to(dtype).append(net[3].float()) if dtype == torch.bfloat16 else net


def train(net, optimizer, steps):
    for step in steps:
        x = torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(step)).to(net[0].weight.dtype)
        optimizer.zero_grad()
        net[3](net[:3](x).float()).pow(4).mean().backward()
        optimizer.step()


def weights(value, count=10_000, dtype=torch.bfloat16):
    return nn.Parameter(torch.full((count,), value, dtype=dtype))


def step_down(p, optimizer, steps=1):
    """AdamW with a constant gradient moves by the learning rate."""
    for _ in range(steps):
        p.float().sum().backward()
        optimizer.step()


def test_8bit_is_bitsandbytes():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    ours, twin = (net := network()), copy.deepcopy(net)
    optimizer = AdamWInBackward(ours.parameters(), 1e-2, weight_decay=0.1, states="8bit")
    train(ours, optimizer, range(20))
    train(twin, bitsandbytes.optim.AdamW8bit(twin.parameters(), 1e-2, weight_decay=0.1), range(20))
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert optimizer.state[ours[0].weight]["state1"].dtype == torch.float32  # less than 4096 elements
    assert optimizer.state[ours[2].weight]["state1"].dtype == torch.uint8


def test_8bit_keeps_channels_last():
    pytest.importorskip("bitsandbytes")
    ours, twin = (net := network()).to(memory_format=torch.channels_last), copy.deepcopy(net)
    train(ours, AdamWInBackward(ours.parameters(), 1e-2, states="8bit"), range(5))
    train(twin, AdamWInBackward(twin.parameters(), 1e-2, states="float32"), range(5))
    assert ours[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert not ours[2].weight.is_contiguous()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-2)  # after five steps of 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_continues_as_if_nothing_had_happened(states, dtype, tmp_path):
    ours, resumed = network(dtype), network(dtype)
    optimizer = AdamWInBackward(ours.parameters(), 1e-2, states=states)
    train(ours, optimizer, range(3))
    torch.save([ours.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    train(ours, optimizer, range(3, 6))
    other = AdamWInBackward(resumed.parameters(), states=states)
    for part, state in zip((resumed, other), torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(resumed, other, range(3, 6))
    for p, q in zip(ours.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_as_large_as_promised(states, dtype):
    p = weights(1.0, 2**16, dtype)
    optimizer = AdamWInBackward([p], states=states)
    step_down(p, optimizer)
    found = sum(t.nbytes for t in optimizer.state[p].values() if torch.is_tensor(t)) / p.numel()
    # 8bit: one scale per 256 elements
    assert found == pytest.approx({"float32": 8, "8bit": 2 + 8 / 256}[states], rel=0.02)


@pytest.mark.parametrize(("dtype", "bytes_per_weight"), [(torch.float32, 0), (torch.bfloat16, 8)])
def test_a_step_takes_as_much_memory_as_promised(dtype, bytes_per_weight):
    p = weights(1.0, 2**16, dtype)
    optimizer = AdamWInBackward([p], fused=True)
    step_down(p, optimizer)
    with optimizer.hold():
        p.float().sum().backward()
    with live_bytes(p.grad) as memory:
        gradient = memory.current_bytes
        optimizer.step()
    assert memory.peak_bytes - gradient == pytest.approx(bytes_per_weight * p.numel(), abs=1000)
    assert memory.current_bytes < 1000


def test_a_bfloat16_step_is_that_of_float32_rounded_up_or_down(states):
    p, g = torch.randn(2, 10_000).bfloat16()
    exact, p = nn.Parameter(p.float()), nn.Parameter(p)
    exact.grad = g.float()
    torch.optim.AdamW([exact], 1e-3, weight_decay=0.1).step()
    optimizer = AdamWInBackward([p], 1e-3, weight_decay=0.1, states=states)
    (p.float() * g.float()).sum().backward()
    spacing = 2.0 ** (exact.abs().log2().floor() - 7)
    error = ((p.float() - exact) / spacing).detach()
    assert error.abs().max() <= 1
    assert error.mean().abs() < 0.02  # 0.4 / sqrt(10 000) is one standard deviation
    assert error.abs().max() > 0.9  # rounding to nearest would leave at most 0.5
    optimizer.step()


def test_a_bfloat16_weight_goes_the_way_of_many_small_steps(states):
    stochastic, nearest = weights(1.5), weights(1.5)
    step_down(stochastic, AdamWInBackward([stochastic], 1e-4, states=states), steps=500)
    step_down(nearest, torch.optim.AdamW([nearest], 1e-4, weight_decay=0), steps=5)
    assert BFLOAT16_ULP > 50 * 1e-4
    assert (nearest == 1.5).all()
    assert (1.5 - stochastic.float()).mean().item() == pytest.approx(500 * 1e-4, rel=0.02)


def test_the_states_of_a_bfloat16_weight_are_those_of_a_float32_weight(states):
    p, twin = weights(1.0), weights(1.0, dtype=torch.float32)
    optimizer, other = (AdamWInBackward([w], 1e-4, states=states) for w in (p, twin))
    for _ in range(20):
        g = torch.randn(p.shape).bfloat16().float()  # with bfloat16 states, the second moment would never fall
        for w in (p, twin):
            (w.float() * g).sum().backward()
        optimizer.step()
        other.step()
    for key, value in other.state[twin].items():
        torch.testing.assert_close(optimizer.state[p][key], value, rtol=0, atol=0)


def test_rounding_draws_the_same_everywhere_and_nothing_from_training(states):
    p, q, other = weights(1.0), weights(1.0), weights(1.0)
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    first = AdamWInBackward([p, other], 1e-3, states=states)
    (p + other).float().sum().backward()
    first.step()
    step_down(q, AdamWInBackward([q], 1e-3, states=states))
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(p, q)  # as on another process
    assert not torch.equal(p, other)
    rounded_down = p < 1
    before = p.detach().clone()
    step_down(p, first)
    assert not torch.equal(before - p < BFLOAT16_ULP / 4, rounded_down)


def test_an_empty_part_of_a_parameter_is_passed_over(states):
    p = weights(1.0, 0)
    optimizer = AdamWInBackward([p], states=states)
    step_down(p, optimizer)
    assert not optimizer.state[p]


def test_parameters_may_step_at_the_same_time(states):
    """Parameters on several devices do."""
    step = ParameterStep(states, lr=1e-3)
    pairs = [(p := weights(1.0, 5000, torch.float32), copy.deepcopy(p)) for _ in range(2)]

    def run(p, seed):
        state, generator = {}, torch.Generator().manual_seed(seed)
        for _ in range(100):
            p.grad = torch.randn(5000, generator=generator)
            step(p, {**step.defaults, "lambda_l2": 0.0}, state, None, 0)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, [p for p, _ in pairs], (0, 1)))
    for seed, (p, twin) in enumerate(pairs):
        run(twin, seed)
        assert torch.equal(p, twin)


def test_states_of_the_other_kind_are_refused(states):
    optimizers = {kind: AdamWInBackward([weights(1.0, 10)], states=kind) for kind in STATES}
    other = optimizers.pop(next(kind for kind in STATES if kind != states))
    p = optimizers[states].param_groups[0]["params"][0]
    step_down(p, optimizers[states])
    with pytest.raises(ValueError, match=f'build the optimizer with states="{states}"'):
        other.load_state_dict(optimizers[states].state_dict())


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=r'pip install "monai-idm\[low-memory\]"'):
        AdamWInBackward([weights(1.0)], states="8bit")
