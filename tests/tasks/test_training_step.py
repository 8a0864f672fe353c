"""What a training step draws, shows the network and learns from, on MONAI's trainer."""

from __future__ import annotations

import copy
from types import SimpleNamespace

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
from tests.tasks.watched import ONE, Watched, drawn, images, one_step

NAMES = ["t1", "t1ce", "t2"]


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
