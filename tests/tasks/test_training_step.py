"""What a training step draws, shows the network and learns from, on MONAI's trainer."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import DiffusionPrepareBatch, IterationEvents
from monai.inferers import DiffusionInferer, SlidingWindowInferer
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import nn

from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.losses import InvertibleDiffusionLoss
from monai_idm.noise import mixed_seed
from monai_idm.optimizers import AdamWInBackward
from monai_idm.schedulers import StridedDDIMScheduler, StridedDDPMScheduler, predicted_noise, predicted_sample
from monai_idm.tasks import (
    ChooseKnownd,
    DrawingInferer,
    Generation,
    Inpainting,
    Segmentation,
    Synthesis,
    TrainingStep,
    predicted_channels,
)
from tests.networks.test_invertible_unet import small
from tests.tasks.supervised import SAMPLE, Supervised, Timed, trainer

SIZE = (4, 6, 4)
NAMES = ["t1", "t1ce", "t2"]
ONE = Generation(["t1"])


def images(channels, cases=2, seed=0):
    return torch.randn(cases, channels, *SIZE, generator=torch.Generator().manual_seed(seed))


class Watched(nn.Module):
    """Predicts a function of its arguments, and records them."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.channels, self.seen = channels, []

    def forward(self, x, timesteps, context=None, class_labels=None, conditions=None):
        given = {"class_labels": class_labels, "conditions": conditions}
        self.seen.append({"x": x.detach(), "timesteps": timesteps, **given})
        shift = timesteps / 100 + (0 if class_labels is None else class_labels)
        return self.scale * torch.tanh(x[:, : self.channels] + shift.view(-1, 1, 1, 1, 1))


def one_step(step, batch, network=None, **settings):
    """The output of a step, and what the network was given."""
    network = network or Watched(len(step.task.drawn))
    engine, outputs = trainer(step, [batch], network, **settings)
    engine.run()
    return outputs[0], network.seen[0]


def drawn(step, x0, iteration=1):
    """The noise and the timesteps of a step, which depend on its seed and the iteration alone."""
    torch.manual_seed(mixed_seed(step.seed, "step", iteration))
    return step.get_noise(x0), step.get_timesteps(x0, iteration)


def known(*chosen):
    """A batch for synthesis, in which each case has its own known contrasts."""
    items = [
        ChooseKnownd("image", NAMES, names)({"image": x})
        for names, x in zip(chosen, images(3, len(chosen)), strict=True)
    ]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "target")}


MASKS = (images(1, seed=1) > 0).float()
SYNTHESIS = known(["t1"], ["t1", "t2"])
HIDDEN = {"target": images(3), "image": torch.cat([images(3) * (1 - MASKS), MASKS], 1)}
CASES = {  # task, batch, x_0
    "generation": (Generation(NAMES), {"image": images(3)}, images(3)),
    "generation of classes": (
        Generation(["t1"], classes=["HGG", "LGG"]),
        {"image": images(1), "class_label": torch.tensor([1, 0])},
        images(1),
    ),
    "segmentation": (
        Segmentation(NAMES, ["whole"], coordinates=False), {"image": images(3), "label": MASKS}, 2 * MASKS - 1
    ),
    "synthesis": (Synthesis(NAMES), SYNTHESIS, SYNTHESIS["target"]),
    "inpainting": (Inpainting(NAMES), HIDDEN, HIDDEN["target"]),
    "synthesis of one": (Synthesis(NAMES, ["t2"]), known(["t2"]), known(["t2"])["target"]),
}  # fmt: skip


SCHEDULERS = {
    **{kind: DDPMScheduler(100, "cosine", prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")},
    "flow": StridedDDPMScheduler(100, prediction_type="flow"),
    "MONAI's flow": RFlowScheduler(100),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_target_is_what_the_scheduler_takes_for_a_prediction(scheduler):
    x0 = images(1, 4).double()
    step = TrainingStep(ONE, scheduler)
    output, seen = one_step(step, {"image": x0})
    noise, timesteps = drawn(step, x0)
    assert torch.equal(seen["timesteps"], timesteps)
    for i, t in enumerate(timesteps):
        torch.testing.assert_close(predicted_sample(scheduler, output["label"][i], t, seen["x"][i]), x0[i])
        torch.testing.assert_close(predicted_noise(scheduler, output["label"][i], t, seen["x"][i]), noise[i])


@pytest.mark.parametrize("case", CASES)
def test_training_gives_the_network_what_inference_does(case):
    task, batch, x0 = CASES[case]
    step = TrainingStep(task, SAMPLE)
    output, training = one_step(step, batch)
    noise, t = drawn(step, x0)
    network, condition = Watched(len(task.drawn)), task.condition(batch)
    inferer = InvertibleDiffusionInferer(SAMPLE)
    if condition is None:
        prediction = inferer(x0, network, noise, t, class_labels=batch.get("class_label"))
    else:
        prediction = inferer(x0, task.under_condition(network), noise, t, condition, "concat")
    (inference,) = network.seen
    assert torch.equal(training["x"], inference["x"])
    assert torch.equal(training["timesteps"], inference["timesteps"])
    assert (training["class_labels"] is None) == (inference["class_labels"] is None)
    if training["class_labels"] is not None:
        assert torch.equal(training["class_labels"], inference["class_labels"])
    assert torch.equal(output["pred"], prediction)
    assert torch.equal(output["image"], x0)
    weight = task.weight(condition)
    assert torch.equal(output["label"], x0 if weight is None else x0 * weight)


@pytest.mark.parametrize("case", ["synthesis", "inpainting"])
def test_a_regression_learns_the_image_from_the_condition_alone_as_in_inference(case):
    kind, batch, _ = CASES[case]
    task = type(kind)(kind.modalities, regression=True)
    scheduler = StridedDDPMScheduler(100)  # of velocity: what the scheduler predicts does not count
    output, training = one_step(TrainingStep(task, scheduler), batch)
    unknown = task.weight(batch["image"]) > 0
    assert not training["x"][:, : len(task.drawn)][unknown].any()
    assert training["timesteps"].tolist() == [99, 99]
    assert torch.equal(output["label"], batch["target"] * unknown)
    network = Watched(len(task.drawn))
    sampler = StridedDDIMScheduler(100, num_inference_steps=2)
    draws = DrawingInferer(sampler, task, num_draws=3).draws(batch["image"], network)
    (inference,) = network.seen
    assert torch.equal(inference["x"], training["x"])
    assert draws.shape == (2, 1, *batch["target"].shape[1:])
    assert torch.equal(draws[:, 0], torch.where(unknown, output["pred"], batch["target"]))
    assert predicted_channels(task, "v_prediction") == task.drawn
    parts = DrawingInferer(sampler, task, window=SlidingWindowInferer((4, 4, 4))).draws(batch["image"], network)
    assert parts.shape == draws.shape


def test_classes_of_a_case_do_not_hide_what_a_task_tells_the_network():
    task, batch, _ = CASES["synthesis"]
    _, seen = one_step(TrainingStep(task, SAMPLE), {**batch, "class_label": torch.tensor([7, 7])})
    assert seen["class_labels"].tolist() == [0b001, 0b101]


class TheSameDraws(DiffusionPrepareBatch):
    """MONAI's prepare_batch, with the noise and timesteps of a TrainingStep."""

    def __init__(self, step):
        super().__init__(step.scheduler.num_train_timesteps)
        self.get_noise, self.get_timesteps = step.get_noise, lambda images: step.get_timesteps(images, self.iteration)

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self.start)

    def start(self, engine):
        self.iteration = engine.state.iteration
        torch.manual_seed(mixed_seed(3, "step", self.iteration))


class EventLog:
    """Records a trainer's events, with the keys of its output and the gradients at each."""

    def __init__(self):
        self.notes = []

    def attach(self, engine):
        for event in IterationEvents:
            if event.name.endswith("_COMPLETED"):
                engine.add_event_handler(event, self, event.name)

    def __call__(self, engine, name):
        gradients = [p.grad for p in engine.network.parameters() if p.grad is not None]
        self.notes.append((name, sorted(engine.state.output), [float(g.sum()) for g in gradients]))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("to_none", [False, True])
def test_it_equals_monai_s_own_step_on_the_same_draws(steps, to_none):
    ours = Watched(1)
    twin = copy.deepcopy(ours)
    step = TrainingStep(ONE, DDPMScheduler(100, "cosine"), 2.0, seed=3)
    draws = TheSameDraws(step)
    log, expected = EventLog(), EventLog()
    settings = {"epochs": 2, "accumulation_steps": steps, "optim_set_to_none": to_none}
    data = [{"image": images(1, seed=seed)} for seed in range(5)]  # 5: an epoch ends within an accumulation
    engine, found = trainer(step, data, ours, handlers=[log], **settings)
    engine.run()
    engine, outputs = trainer(
        None, data, twin, loss=nn.MSELoss(), handlers=[draws, expected], prepare_batch=draws,
        inferer=DiffusionInferer(step.scheduler), **settings,
    )  # fmt: skip
    engine.run()
    assert torch.equal(ours.scale, twin.scale)
    assert log.notes == expected.notes
    for one, other in zip(found, outputs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_accumulated_gradients_are_those_of_one_large_batch():
    torch.manual_seed(0)
    ours = Timed(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    twin = copy.deepcopy(ours)
    x = torch.randn(12, 3).double()
    for network, batch, steps in ((ours, 2, 3), (twin, 6, 1)):
        data = [{"image": part, "label": part.sum(1, keepdim=True)} for part in x.split(batch)]
        trainer(TrainingStep(Supervised(), SAMPLE), data, network, epochs=2, accumulation_steps=steps)[0].run()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_accumulation_is_refused_where_the_backward_pass_steps():
    network = Watched(1)
    optimizer = AdamWInBackward(network.parameters())
    data = [{"image": images(1)}] * 2
    with pytest.raises(RuntimeError, match=r"in optimizer\.hold"):
        trainer(TrainingStep(ONE, SAMPLE), data, network, optimizer, accumulation_steps=2)[0].run()


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


def test_the_loss_gets_what_its_terms_need():
    net, scheduler = small(inverse_head=True), DDPMScheduler(100, "cosine")
    loss = InvertibleDiffusionLoss(net, 0.5, min_snr_gamma=5.0, scheduler=scheduler)
    step = TrainingStep(Generation(["t1", "t2"]), scheduler)
    x0 = torch.randn(2, 2, 8, 8, 8)
    noise, t = drawn(step, x0)
    x_t = scheduler.add_noise(x0, noise, t)
    expected = loss(net(x_t, t), noise, x=x_t, timesteps=t)
    engine, outputs = trainer(step, [{"image": x0}], net, loss=loss)
    engine.run()
    assert torch.equal(outputs[0]["loss"], expected)


def test_the_inverse_starts_from_all_that_the_network_put_out():
    calls = []

    class Recording(InvertibleDiffusionLoss):
        def __call__(self, prediction, target, **named):
            calls.append({"prediction": prediction, **named})
            return super().__call__(prediction, target, **named)

    task, batch, _ = CASES["synthesis"]
    _, seen = one_step(TrainingStep(task, SAMPLE), batch, network := Watched(3), loss=Recording(network))
    output = calls[0]["output"]
    assert torch.equal(calls[0]["x"], seen["x"])
    assert calls[0]["prediction"][:, 0].abs().max() == 0  # t1 is known in both cases
    assert output[:, 0].abs().min() > 0
    assert torch.equal(calls[0]["prediction"], output * task.weight(batch["image"]))
    assert network.scale.grad is not None


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_other_loss_compares_prediction_and_target_alone(reduction):
    task, batch, _ = CASES["synthesis"]
    output, _ = one_step(TrainingStep(task, SAMPLE), batch, loss=nn.L1Loss(reduction=reduction))
    torch.testing.assert_close(output["loss"], (output["pred"] - output["label"]).abs().mean())


def test_metadata_stays_behind():
    output, _ = one_step(TrainingStep(ONE, SAMPLE), {"image": MetaTensor(images(1))})
    assert {type(tensor) for tensor in output.values()} == {torch.Tensor}


def test_impossible_choices_are_refused():
    with pytest.raises(ValueError, match="choose 1"):
        TrainingStep(ONE, SAMPLE, 0.5)
    for probability in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"choose 0 .* to below 1"):
            TrainingStep(ONE, SAMPLE, condition_dropout=probability)
    scheduler = DDPMScheduler(100, "cosine")
    scheduler.prediction_type = "noise"
    with pytest.raises(ValueError, match="choose one of epsilon, sample, v_prediction, flow"):
        TrainingStep(ONE, scheduler)
    with pytest.raises(ValueError, match=r"SimpleNamespace has no noise levels .* which the training target needs"):
        TrainingStep(ONE, SimpleNamespace(num_train_timesteps=100, prediction_type="epsilon"))
    with pytest.raises(ValueError, match=r"amp=True .* build the network with precision=\"mixed\""):
        one_step(TrainingStep(ONE, SAMPLE), {"image": images(1)}, amp=True)
