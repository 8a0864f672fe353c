"""Which timesteps, noise and missing conditions a training step draws."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

from monai_idm.schedulers import StridedDDPMScheduler
from monai_idm.tasks import (
    TrainingStep,
)
from tests.tasks.supervised import SAMPLE, trainer
from tests.tasks.watched import ONE, Watched, drawn, images, one_step


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_timesteps_follow_the_power(power):
    step = TrainingStep(ONE, DDPMScheduler(2000, "cosine"), power)
    t = torch.cat([step.get_timesteps(torch.empty(3, 1), k) for k in range(20_000)])
    assert 0 <= t.min() < t.max() == 1999
    assert t.dtype == torch.long
    assert (t < 400).double().mean() == pytest.approx(0.2 ** (1 / power), abs=0.01)


def test_a_batch_covers_all_timesteps_evenly():
    step = TrainingStep(ONE, DDPMScheduler(2000, "cosine"))
    quarters = [(step.get_timesteps(torch.empty(4, 1), k) // 500).tolist() for k in range(8)]
    assert all(sorted(found) == [0, 1, 2, 3] for found in quarters)
    assert {found[0] for found in quarters} == {0, 1, 2, 3}  # a process, or a place in the batch, sees all of them


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("first", [1, 977])
def test_iterations_in_a_row_cover_all_timesteps_more_evenly_than_chance(batch, first):
    steps = [TrainingStep(ONE, DDPMScheduler(2000, "cosine"), seed=seed) for seed in (0, 1)]
    found = [[step.get_timesteps(torch.empty(batch, 1), k) for k in range(first, first + 40)] for step in steps]
    for t in found:
        u, _ = (torch.cat(t).double() / 2000).sort()
        even = (torch.arange(len(u)) + 0.5) / len(u)
        assert (u - even).abs().max() < 2.5 / len(u)  # of random numbers: about 0.8 / sqrt(len(u))
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_of_a_flow_are_logit_normal_and_shifted(shift):
    step = TrainingStep(ONE, StridedDDPMScheduler(2000, prediction_type="flow", noise_shift=shift), None)
    t = torch.cat([step.get_timesteps(torch.empty(3, 1), k) for k in range(20_000)]) / 2000
    assert 0 < t.min() < t.max() <= 1
    normal = (
        t / (1 - t.clamp(max=0.9999)) / shift
    ).log()  # of t = shift x / (1 + (shift - 1) x) with x = 1 / (1 + e^-n)
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.02)


def test_monais_flow_draws_its_own_timesteps():
    torch.manual_seed(0)
    step = TrainingStep(ONE, RFlowScheduler(1000, sample_method="logit-normal", use_timestep_transform=True))
    small, large = (step.get_timesteps(torch.empty(5000, 1, side, side, side), 1) for side in (2, 64))
    assert small.float().mean() < 100 < 500 < large.float().mean()


def test_processes_draw_together_what_one_would_draw(monkeypatch):
    step = TrainingStep(ONE, DDPMScheduler(2000, "cosine"), 2.0)
    x0 = images(1, 4)
    alone = drawn(step, x0)
    assert len({tuple(noise.flatten().tolist()) for noise in alone[0]}) == 4
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        for found, expected in zip(drawn(step, x0[rank::2]), alone, strict=True):
            assert torch.equal(found, expected[rank::2])


CONDITIONS = torch.tensor([[0.5, 1.0], [-2.0, torch.nan], [1.0, 0.0], [torch.nan, 1.0]])


def dropped(seen):
    """Which images lost their conditions; the others must have kept theirs."""
    lost = seen["conditions"].isnan().all(1)
    torch.testing.assert_close(seen["conditions"][~lost], CONDITIONS[~lost], rtol=0, atol=0, equal_nan=True)
    return lost.tolist()


def test_conditions_reach_the_network_except_those_that_are_dropped():
    batch = {"image": images(1, 4), "conditions": CONDITIONS}

    def steps(**options):
        network = Watched(1)
        trainer(TrainingStep(ONE, SAMPLE, **options), [batch] * 200, network)[0].run()
        return network.seen

    found = steps(condition_dropout=0.25, seed=3)
    lost = [dropped(seen) for seen in found]
    assert torch.tensor(lost).double().mean() == pytest.approx(0.25, abs=0.05)
    assert lost == [dropped(seen) for seen in steps(condition_dropout=0.25, seed=3)]
    assert lost != [dropped(seen) for seen in steps(condition_dropout=0.25, seed=4)]
    assert not any(any(dropped(seen)) for seen in steps(condition_dropout=0.0))
    _, without = one_step(TrainingStep(ONE, SAMPLE, seed=3), {"image": images(1, 4)})
    assert without["conditions"] is None
    assert torch.equal(without["x"], found[0]["x"])  # noise and timesteps are as without conditions
    assert torch.equal(without["timesteps"], found[0]["timesteps"])


def test_processes_drop_together_what_one_would_drop(monkeypatch):
    step = TrainingStep(ONE, SAMPLE, condition_dropout=0.5)

    def dropped_after_the_draws(conditions):
        drawn(step, images(1, len(conditions)))
        return step.get_conditions(conditions)

    alone = dropped_after_the_draws(CONDITIONS)
    assert 0 < alone.isnan().all(1).sum() < 4
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        found = dropped_after_the_draws(CONDITIONS[rank::2])
        torch.testing.assert_close(found, alone[rank::2], rtol=0, atol=0, equal_nan=True)


def test_draws_depend_on_seed_and_iteration_alone():
    def labels(data, seed=3, torch_seed=0, start=0):
        torch.manual_seed(torch_seed)
        engine, outputs = trainer(TrainingStep(ONE, DDPMScheduler(100), seed=seed), data, Watched(1))
        engine.load_state_dict({"iteration": start, "epoch_length": 4, "max_epochs": 1})
        engine.run()
        return [output["label"] for output in outputs]

    data = [{"image": images(1)}] * 4
    whole = labels(data)
    assert len({float(label.sum()) for label in whole}) == 4
    resumed = labels(data, torch_seed=9, start=2)
    assert len(resumed) == 2
    assert all(torch.equal(*pair) for pair in zip(resumed, whole[2:], strict=True))
    assert not torch.equal(labels(data, seed=4)[0], whole[0])
