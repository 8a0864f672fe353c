"""Stepping in the backward pass equals stepping after it, and keeps no gradients."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from monai_idm.meters import live_bytes
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, weight_norm_groups
from tests.networks.test_invertible_unet import small


def network():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))


def pair():
    return (net := network()), copy.deepcopy(net)


def loss_of(net, step):
    return net(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()


def train(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def assert_equal(net, twin):
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1, "amsgrad": True, "betas": (0.5, 0.9)}, {"fused": True}], ids=str
)
def test_it_equals_adamw_on_a_reversible_network(settings):
    ours, twin = (net := small(2)), copy.deepcopy(net)
    optimizers = (
        AdamWInBackward(ours.parameters(), 1e-2, **settings),
        AdamW(twin.parameters(), 1e-2, **{"weight_decay": 0.0, **settings}),
    )
    schedules = [CosineAnnealingLR(optimizer, 40) for optimizer in optimizers]
    for step in range(50):
        x = torch.randn(1, 2, 4, 4)
        for net, optimizer, schedule in zip((ours, twin), optimizers, schedules, strict=True):
            optimizer.zero_grad()
            net(x, torch.tensor([step])).square().mean().backward()
            optimizer.step()
            schedule.step()
            if step == 45:
                optimizer.param_groups[0]["lr"] = 0.1  # as ignite's schedules do
    assert_equal(ours, twin)


def test_the_norm_of_the_weights_is_that_before_the_pass():
    ours, twin = pair()
    train(ours, AdamWInBackward(weight_norm_groups(ours), 0.1, lambda_l2=0.3), range(5))
    train(twin, AdamWWeightNorm(weight_norm_groups(twin), 0.3, lr=0.1), range(5))
    assert_equal(ours, twin)


def test_gradients_never_exist_all_at_once():
    peaks = []
    for make in (AdamW, AdamWInBackward):
        net = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(20)))
        optimizer = make(net.parameters(), fused=True)
        for _ in range(2):  # the states exist from the second step on
            optimizer.zero_grad()
            with live_bytes() as memory:
                net(torch.randn(1, 64)).sum().backward()
                optimizer.step()
        assert (make is AdamW) == any(p.grad is not None for p in net.parameters())
        peaks.append(memory.peak_bytes)
    gradient = 4 * 64 * 64
    assert peaks[0] > 20 * gradient
    assert peaks[1] < 4 * gradient  # a few, and the activations


@pytest.mark.parametrize("last_is_held", [False, True])
def test_held_gradients_are_stepped_with_as_a_sum(last_is_held):
    ours, twin = pair()
    in_backward, plain = AdamWInBackward(ours.parameters()), AdamW(twin.parameters(), weight_decay=0)
    for step in (0, 10):
        for i in range(3):
            loss_of(twin, step + i).backward()
        plain.step()
        plain.zero_grad()
        with in_backward.hold():
            for i in range(2):
                loss_of(ours, step + i).backward()
            if last_is_held:
                loss_of(ours, step + 2).backward()
        if not last_is_held:
            loss_of(ours, step + 2).backward()
            assert all(p.grad is None for p in ours.parameters())
        in_backward.step()
        assert all(p.grad is None for p in ours.parameters())
    assert_equal(ours, twin)


def test_gradients_are_clipped_in_hold():
    ours, twin = pair()
    in_backward, plain = AdamWInBackward(ours.parameters()), AdamW(twin.parameters(), weight_decay=0)
    for step in range(5):
        with in_backward.hold():
            loss_of(ours, step).backward()
        plain.zero_grad()
        loss_of(twin, step).backward()
        for net, optimizer in ((ours, in_backward), (twin, plain)):
            assert clip_grad_norm_(net.parameters(), 1e-3) > 1e-3
            optimizer.step()
    assert_equal(ours, twin)


@pytest.mark.parametrize("make", [AdamWInBackward, AdamW])
def test_a_checkpoint_continues_as_if_nothing_had_happened(make, tmp_path):
    ours, twin = pair()
    optimizer = make(weight_norm_groups(ours) if make is AdamWInBackward else ours.parameters(), weight_decay=0.0)
    schedule = CosineAnnealingLR(optimizer, 5)
    train(ours, optimizer, range(3))
    schedule.step()
    torch.save([ours.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    resumed = AdamWInBackward(weight_norm_groups(twin) if make is AdamWInBackward else twin.parameters(), lambda_l2=0.0)
    train(twin, resumed, [9])  # so that it has other states, groups and weights before it loads
    weights, states = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    twin.load_state_dict(weights)
    resumed.load_state_dict(states)
    train(ours, optimizer, range(3, 6))
    train(twin, resumed, range(3, 6))
    assert_equal(ours, twin)
    assert resumed.param_groups[0]["lambda_l2"] == 0


def test_groups_may_come_later_and_parameters_be_frozen_for_a_time():
    ours, twin = pair()
    ours[2].requires_grad_(False)
    twin[2].requires_grad_(False)
    in_backward, plain = AdamWInBackward(ours[:3].parameters()), AdamW(twin[:3].parameters(), weight_decay=0)
    train(ours, in_backward, range(2))
    train(twin, plain, range(2))
    for net, optimizer in ((ours, in_backward), (twin, plain)):
        net[2].requires_grad_(True)
        optimizer.zero_grad()
        optimizer.add_param_group({"params": net[4].parameters(), "lr": 0.1})
    in_backward.zero_grad()
    loss_of(ours, 2).backward()
    assert all(p.grad is None for p in ours.parameters())
    in_backward.step()
    train(twin, plain, [2])
    assert_equal(ours, twin)


def test_a_pass_that_fails_leaves_nothing_behind():
    ours, _ = pair()
    in_backward = AdamWInBackward(weight_norm_groups(ours), 0.1, lambda_l2=0.3)
    train(ours, in_backward, range(2))
    handle = ours[2].register_full_backward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss_of(ours, 2).backward()
    handle.remove()
    twin = copy.deepcopy(ours)
    plain = AdamWWeightNorm(weight_norm_groups(twin))
    plain.load_state_dict(copy.deepcopy(in_backward.state_dict()))
    train(ours, in_backward, [3])
    train(twin, plain, [3])
    assert_equal(ours, twin)


def test_stepping_ends_with_the_optimizer_or_its_hooks():
    net = network()
    before = copy.deepcopy(net)
    optimizer = AdamWInBackward(net.parameters())
    del optimizer
    gc.collect()
    loss_of(net, 0).backward()
    assert_equal(net, before)
    net.zero_grad()
    optimizer = AdamWInBackward(net.parameters())
    optimizer.remove()
    loss_of(net, 0).backward()
    assert_equal(net, before)
    optimizer.step()
    assert not torch.equal(net[0].weight, before[0].weight)


def test_a_parameter_has_one_optimizer_at_a_time():
    net = network()
    first = AdamWInBackward(net[0].parameters())
    with pytest.raises(ValueError, match="call its remove") as error:
        AdamWInBackward([{"params": net[4].parameters()}, {"params": net[0].parameters()}])
    before = copy.deepcopy(net)
    loss_of(net, 0).backward()
    assert torch.equal(net[4].weight, before[4].weight)  # although the error keeps the failed optimizer alive
    del error
    assert not torch.equal(net[0].weight, before[0].weight)
    first.remove()
    AdamWInBackward(net.parameters())


@pytest.mark.parametrize("states", ["float32", "8bit"])
def test_weights_that_were_stepped_are_known_to_be_others(states):
    if states == "8bit":
        pytest.importorskip("bitsandbytes")
    net = small(2)
    optimizer = AdamWInBackward(net.parameters(), states=states)
    loss = net(torch.randn(1, 2, 4, 4), torch.tensor([3])).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|were changed"):
        loss.backward()


class Run:
    """A SupervisedTrainer, set up as usual."""

    def __init__(self, net, optimizer, folder, checkpoint=None, epochs=2, **settings):
        schedule = CosineAnnealingLR(optimizer, 6)
        everything = {"net": net, "optimizer": optimizer, "schedule": schedule}
        handlers = [LrScheduleHandler(schedule, print_lr=False, epoch_level=False)]
        handlers.append(CheckpointSaver(str(folder), everything, save_interval=1, n_saved=9))
        if checkpoint:
            handlers.append(CheckpointLoader(str(checkpoint), everything, strict=True))
        data = [{"image": torch.randn(3), "label": torch.zeros(2)} for _ in range(6)]
        SupervisedTrainer(
            torch.device("cpu"), epochs, torch.utils.data.DataLoader(data, 2), net, optimizer, nn.MSELoss(),
            train_handlers=handlers, **settings,
        ).run()  # fmt: skip


def test_monai_trains_and_resumes_with_it_unchanged(tmp_path):
    ours, twin = pair()
    for net, optimizer in (
        (ours, AdamWInBackward(ours.parameters())),
        (twin, AdamW(twin.parameters(), weight_decay=0)),
    ):
        torch.manual_seed(1)
        Run(net, optimizer, tmp_path / type(optimizer).__name__)
    assert_equal(ours, twin)
    saved = sorted((tmp_path / "AdamWInBackward").glob("*epoch=1.pt"))
    resumed = network()
    torch.manual_seed(1)
    Run(resumed, AdamWInBackward(resumed.parameters()), tmp_path / "resumed", saved[0], epochs=1)
    assert_equal(resumed, ours)


def test_accumulation_that_is_not_held_is_refused(tmp_path):
    net = network()
    with pytest.raises(RuntimeError, match=r"in optimizer\.hold"):
        Run(net, AdamWInBackward(net.parameters()), tmp_path, accumulation_steps=2)


def test_scaled_gradients_are_refused():
    net = network()
    optimizer = AdamWInBackward(net.parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(net, 0)).backward()
    with pytest.raises(RuntimeError, match="amp=False"):
        scaler.step(optimizer)
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_l2": -1.0}, "choose 0 or more"),
        ({"states": "4bit"}, "choose one of float32, 8bit"),
        ({"max_grad_norm": 1.0}, "optimizer.hold"),
        ({"lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdamWInBackward(network().parameters(), **settings)


def test_a_closure_and_half_precision_are_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        AdamWInBackward(network().parameters()).step(lambda: 0)
    with pytest.raises(ValueError, match="keep them in float32"):
        AdamWInBackward(network().half().parameters())


def test_a_gradient_above_the_limit_steps_nothing_and_goes():
    net, twin = pair()
    before = copy.deepcopy(net)
    loss_of(twin, 0).backward()
    norms = [float(p.grad.norm()) for p in twin.parameters()]
    optimizer = AdamWInBackward(net.parameters(), 1e-2)
    optimizer.skip_above = sorted(norms)[len(norms) // 2]
    loss_of(net, 0).backward()
    assert float(optimizer.squared_norm) == pytest.approx(sum(norm**2 for norm in norms), rel=1e-5)
    optimizer.step()
    assert optimizer.squared_norm == 0
    assert all(p.grad is None for p in net.parameters())
    for p, q, norm in zip(net.parameters(), before.parameters(), norms, strict=True):
        assert torch.equal(p, q) == (norm > optimizer.skip_above)


def test_a_gradient_that_is_no_number_is_above_every_limit():
    net, twin = pair()
    optimizer = AdamWInBackward(net.parameters())
    optimizer.skip_above = float("inf")
    (loss_of(net, 0) * float("nan")).backward()
    optimizer.step()
    assert_equal(net, twin)
