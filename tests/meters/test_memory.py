"""Counted bytes against sums worked out by hand, and fake tensors against real ones."""

import random

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

from monai_idm.meters import LiveBytes, PeakMemoryMeter, live_bytes

MIB = 2**20
N = MIB // 4  # float32 numbers in 1 MiB


def test_a_storage_counts_once_from_its_making_to_its_end():
    with live_bytes() as memory:
        a = torch.zeros(N)
        assert memory.current_bytes == MIB
        views = [a[1:], a.view(2, -1), a.detach(), a.add_(1)]
        assert memory.current_bytes == MIB
        b = a + 1
        assert memory.current_bytes == 2 * MIB
        del b
        assert memory.current_bytes == MIB
        del a
        assert memory.current_bytes == MIB  # its views keep it
        del views
        assert memory.current_bytes == 0
        assert memory.peak_bytes == 2 * MIB


def test_random_lives_agree_with_a_ledger():
    chance = random.Random(0)
    alive: dict[int, tuple[torch.Tensor, int]] = {}
    peak = 0
    with live_bytes() as memory:
        for step in range(500):
            if alive and chance.random() < 0.5:
                alive.pop(chance.choice(list(alive)))
            else:
                size = chance.randrange(1, 1000)
                alive[step] = (torch.empty(size, dtype=torch.float64), 8 * size)
            expected = sum(size for _, size in alive.values())
            peak = max(peak, expected)
            assert memory.current_bytes == expected
        assert memory.peak_bytes == peak


def test_tensors_made_from_python_numbers_count():
    with live_bytes() as memory:
        kept = torch.tensor([1.0, 2.0, 3.0])
        assert memory.current_bytes == 12
        del kept
        assert memory.current_bytes == 0


def test_a_resized_storage_counts_with_its_new_size():
    with live_bytes() as memory:
        kept = torch.empty(10)
        kept.resize_(100)
        assert memory.current_bytes == 400
        del kept
    assert memory.current_bytes == 0


def test_what_was_there_before_counts_only_as_baseline():
    before = torch.zeros(N)
    with live_bytes() as memory:
        kept = [before[1:], before.add_(1), torch.mul(before, 2, out=before), before.view(-1).detach()]
    assert (memory.peak_bytes, memory.current_bytes) == (0, 0)
    with live_bytes(before, [before[1:]]) as memory:
        assert memory.current_bytes == MIB
        del before, kept
        assert memory.current_bytes == 0


def test_a_baseline_holds_parameters_buffers_gradients_and_optimizer_states():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10, affine=False))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    weight, norm = 400, 2 * 40 + 8  # running mean and variance, number of batches
    assert LiveBytes(net).current_bytes == 2 * weight + norm  # with its gradient
    assert LiveBytes(net, {"states": optimizer}).current_bytes == 4 * weight + norm + 4  # two moments, step
    with live_bytes(net) as memory:
        optimizer.zero_grad(set_to_none=True)
        assert memory.current_bytes == weight + norm


def test_the_count_falls_after_the_block_and_grows_no_more():
    with live_bytes() as memory:
        kept = torch.zeros(N)
    other = torch.zeros(N)
    assert memory.current_bytes == MIB
    del kept, other
    assert (memory.current_bytes, memory.peak_bytes) == (0, MIB)


def test_nested_blocks_count_each_for_themselves():
    with live_bytes() as outer:
        a = torch.zeros(N)
        with live_bytes() as inner:
            b = a + 1
        c = b + 1
    del a
    assert (outer.peak_bytes, inner.peak_bytes) == (3 * MIB, MIB)
    del b, c
    assert (outer.current_bytes, inner.current_bytes) == (0, 0)


def test_the_mode_ends_where_the_block_raises():
    with pytest.raises(ZeroDivisionError), live_bytes() as memory:
        _ = 1 / 0
    _ = torch.zeros(N)
    assert memory.peak_bytes == 0


OPERATIONS = 3


def layer(x):
    for _ in range(OPERATIONS):
        x = torch.tanh(x)  # stores its result and nothing else
    return x


def chain_peak(layers: int, checkpointed: bool) -> int:
    x = torch.zeros(N, requires_grad=True)
    with live_bytes() as memory:
        y = x
        for _ in range(layers):
            y = checkpoint(layer, y, use_reentrant=False) if checkpointed else layer(y)
        y.sum().backward()
    return memory.peak_bytes


@pytest.mark.parametrize("layers", [2, 5])
def test_a_layer_costs_its_stored_activations_and_a_checkpointed_one_only_its_input(layers):
    assert chain_peak(layers + 1, False) - chain_peak(layers, False) == OPERATIONS * MIB
    assert chain_peak(layers + 1, True) - chain_peak(layers, True) == MIB


def training_bytes(checkpointed: bool) -> list[int]:
    torch.manual_seed(0)
    counts = []
    with live_bytes() as memory:
        net = nn.Sequential(
            *(nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()) for _ in range(3))
        )
        x = torch.randn(2, 4, 5, 7, 6)
        optimizer = torch.optim.AdamW(net.parameters())
        for _ in range(2):
            with live_bytes(net, optimizer, x) as step:
                y = x
                for block in net:
                    y = checkpoint(block, y, use_reentrant=False) if checkpointed else block(y)
                loss = y.square().mean()
                counts.append(memory.current_bytes)
                loss.backward()
                del y, loss
                optimizer.step()
            counts += [memory.current_bytes, memory.peak_bytes, step.current_bytes, step.peak_bytes]
    return counts


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fake_tensors_weigh_what_real_ones_do(checkpointed):
    real = training_bytes(checkpointed)
    with FakeTensorMode():
        assert training_bytes(checkpointed) == real


def test_fake_tensors_weigh_the_same_with_the_modes_the_other_way_round():
    def step():
        net = nn.Conv3d(4, 4, 3, padding=1)
        net(torch.randn(2, 4, 5, 7, 6)).square().mean().backward()

    with live_bytes() as real:
        step()
    with live_bytes() as fake, FakeTensorMode():
        step()
    assert fake.peak_bytes == real.peak_bytes > 0


def test_a_network_larger_than_this_machine_is_weighed():
    with FakeTensorMode(), live_bytes() as memory:
        kept = torch.empty(2**40)
        kept = kept + 1
    assert memory.peak_bytes == 2 * 2**42


def test_the_cpu_meter_names_counted_and_resident_peaks_in_gib():
    meter = PeakMemoryMeter("cpu")
    before = torch.zeros(N)
    meter.start(before)
    kept = torch.ones(3 * N)
    del kept
    figures = meter.stop()
    assert figures["live_peak_gib"] == 4 * MIB / 2**30
    assert 0.05 < figures["process_peak_gib"] < 50
    assert _get_current_dispatch_mode_stack() == []
    meter.start()
    assert meter.stop()["live_peak_gib"] == 0


def test_the_cpu_meter_reads_without_closing():
    meter = PeakMemoryMeter("cpu")
    meter.start()
    assert meter.running
    _ = torch.zeros(N)
    assert meter.read()["live_peak_gib"] == MIB / 2**30
    _ = (_, torch.zeros(N))
    assert meter.stop()["live_peak_gib"] == 2 * MIB / 2**30
    assert not meter.running


def test_the_process_peak_is_absent_without_the_resource_module(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    meter = PeakMemoryMeter("cpu")
    meter.start()
    assert list(meter.stop()) == ["live_peak_gib"]


def test_a_meter_opens_and_closes_in_turn():
    meter = PeakMemoryMeter("cpu")
    with pytest.raises(RuntimeError, match=r"not running; call start\(\)"):
        meter.stop()
    meter.start()
    with pytest.raises(RuntimeError, match=r"call stop\(\) before the next start"):
        meter.start()
    meter.stop()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_cuda_meter_reads_the_allocator_and_counted_bytes_come_close():
    meter = PeakMemoryMeter("cuda")
    held = torch.cuda.memory_allocated()
    meter.start()
    with live_bytes() as memory:
        net = nn.Sequential(*(nn.Linear(1024, 1024, device="cuda") for _ in range(4)))
        y = net(torch.randn(65536, 1024, device="cuda"))
        # not y.sum(): its gradient is one number in the shape of y, which a matrix product copies where nothing counts
        y.backward(torch.ones_like(y))
    figures = meter.stop()
    assert figures["reserved_peak_gib"] >= figures["allocated_peak_gib"] > 0
    allocated = figures["allocated_peak_gib"] * 2**30 - held
    assert memory.peak_bytes == pytest.approx(allocated, rel=0.1)  # the allocator adds cuBLAS's workspace, 32 MiB
