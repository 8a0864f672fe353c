"""What a validation step returns, on a real MONAI evaluator."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_idm.handlers import ReconstructionErrorHandler
from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.schedulers import StridedDDIMScheduler, StridedDDPMScheduler
from monai_idm.tasks import GenerateVolumes, Generation, ReconstructionIteration, SamplingPrepareBatch
from tests.reversible.chains import disturb

SCHEDULER = DDPMScheduler(100, "cosine")
ONE = Generation(["t1"])
DDIM = StridedDDIMScheduler(100, "cosine", num_inference_steps=10)


class Oracle(nn.Module):
    """Predicts the noise exactly, because every image is constant 0.5."""

    def forward(self, x, timesteps, context=None):
        a = SCHEDULER.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1)
        return (x - a.sqrt() * 0.5) / (1 - a).sqrt()


class Blind(nn.Module):
    """Predicts no noise, so that nothing corrects what a sampler adds."""

    def forward(self, x, timesteps, context=None):
        return torch.zeros_like(x)


def run(subjects, batch_size=1, network=None, handlers=(), scheduler=DDIM, seed=3):
    items = [{"image": MetaTensor(torch.full((1, 4, 4), 0.5)), "subject": s} for s in subjects]
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        torch.utils.data.DataLoader(items, batch_size, collate_fn=collate),
        network or Oracle(),
        inferer=InvertibleDiffusionInferer(SCHEDULER),
        iteration_update=ReconstructionIteration(40, scheduler, seed),
        val_handlers=list(handlers),
    )
    outputs = {}
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: outputs.update({b["subject"]: o for b, o in zip(e.state.batch, e.state.output, strict=True)}),
    )
    evaluator.run()
    return evaluator, outputs


def collate(items):
    return {"image": torch.stack([i["image"] for i in items]), "subject": [i["subject"] for i in items]}


def test_a_step_returns_image_reconstruction_and_both_noises():
    _, outputs = run(["a"])
    a = outputs["a"]
    torch.testing.assert_close(a["pred"], torch.full((1, 4, 4), 0.5), rtol=0, atol=1e-2)
    torch.testing.assert_close(a["noise_pred"], a["noise"], rtol=0, atol=1e-4)
    alpha_bar = SCHEDULER.alphas_cumprod[40]
    noisy = 0.5 + (1 - alpha_bar).sqrt() / alpha_bar.sqrt() * a["noise"]
    torch.testing.assert_close(a["noisy"], noisy)


def test_the_noise_of_a_case_depends_on_its_name_and_the_seed_alone():
    _, one = run(["a", "b", "c"])
    _, other = run(["c", "a"], batch_size=2)
    assert torch.equal(one["a"]["noise"], other["a"]["noise"])
    assert torch.equal(one["c"]["noise"], other["c"]["noise"])
    assert not torch.equal(one["a"]["noise"], one["b"]["noise"])
    assert not torch.equal(one["a"]["noise"], run(["a"], seed=4)[1]["a"]["noise"])


def test_a_stochastic_reconstruction_depends_on_the_case_s_name_alone():
    ddpm = StridedDDPMScheduler(100, "cosine", num_inference_steps=10)
    _, one = run(["a", "b", "c"], network=Blind(), scheduler=ddpm)
    _, other = run(["c", "a"], batch_size=2, network=Blind(), scheduler=ddpm)
    torch.testing.assert_close(one["a"]["pred"], other["a"]["pred"])
    assert not torch.allclose(one["a"]["pred"], one["b"]["pred"])


def test_a_case_s_class_reaches_the_network():
    class Classes(Oracle):
        def forward(self, x, timesteps, context=None, class_labels=None):
            return super().forward(x, timesteps) + class_labels.view(-1, 1, 1, 1)

    items = [{"image": torch.zeros(1, 4, 4), "subject": str(i), "class_label": 3 * i} for i in range(2)]
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        torch.utils.data.DataLoader(items, 2),
        Classes(),
        inferer=InvertibleDiffusionInferer(SCHEDULER),
        iteration_update=ReconstructionIteration(40, DDIM),
    )
    evaluator.run()
    first, second = (case["noise_pred"] - case["noise"] for case in evaluator.state.output)
    torch.testing.assert_close(second.mean() - first.mean(), torch.tensor(3.0), rtol=0.1, atol=0)
    seen = []
    evaluator.network = lambda x, timesteps, context=None, class_labels=None: seen.append(class_labels) or x
    evaluator.mode = lambda network: torch.no_grad()
    GenerateVolumes(Generation(["t1"], classes=["HGG", "LGG"]), (4, 4), scheduler=DDIM)(evaluator)
    assert {tuple(labels.tolist()) for labels in seen} == {(0, 0)}
    seen.clear()
    GenerateVolumes(ONE, (4, 4), scheduler=DDIM)(evaluator)
    assert {*seen} == {None}


def test_a_case_s_conditions_reach_the_network_and_generated_volumes_have_none():
    seen = []

    class Conditions(Oracle):
        def forward(self, x, timesteps, context=None, conditions=None):
            seen.append(conditions)
            return super().forward(x, timesteps)

    given = torch.tensor([[0.5, torch.nan], [-1.0, 1.0]])
    items = [{"image": torch.zeros(1, 4, 4), "subject": str(i), "conditions": given[i]} for i in range(2)]
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        torch.utils.data.DataLoader(items, 2),
        Conditions(),
        inferer=InvertibleDiffusionInferer(SCHEDULER),
        iteration_update=ReconstructionIteration(40, DDIM),
    )
    evaluator.run()
    assert len(seen) > 2  # of the reconstruction and of the single pass
    assert all(torch.equal(c.nan_to_num(7), given.nan_to_num(7)) for c in seen)
    seen.clear()
    task = Generation(["t1"], numeric_conditions=[{"name": "Sex", "words": ["F", "M"]}])
    GenerateVolumes(task, (4, 4), scheduler=DDIM)(evaluator)
    assert {*seen} == {None}


def test_a_sample_s_seed_class_and_conditions_reach_the_inferer():
    batch = {"image": torch.zeros(1, 1, 4, 4), "seed": torch.tensor([3])}
    assert SamplingPrepareBatch()(batch)[3] == {"seeds": [3]}
    more = {"class_label": torch.tensor([1]), "conditions": torch.tensor([[0.5, -1.0]])}
    noise, _, _, given = SamplingPrepareBatch()(batch | more)
    assert noise is batch["image"]
    assert given == {"seeds": [3], "class_labels": more["class_label"], "conditions": more["conditions"]}


def test_a_stochastic_sampler_leaves_the_random_state_of_training():
    found = []
    for scheduler in (DDIM, None):  # DDPM draws noise, DDIM does not
        torch.manual_seed(9)
        evaluator, _ = run(["a"], scheduler=scheduler)
        GenerateVolumes(ONE, (4, 4), (-1.0, 1.0), scheduler)(evaluator)
        found.append(torch.rand(3))
    assert torch.equal(*found)


def test_generated_volumes_are_in_range_and_the_same_every_time():
    evaluator, _ = run(["a"])
    generate = GenerateVolumes(ONE, (4, 4), (-1.0, 1.0), DDIM, num_volumes=3, seed=5)
    generate(evaluator)
    first = evaluator.state.generated
    assert first.shape == (3, 1, 4, 4)
    torch.testing.assert_close(first, torch.full((3, 1, 4, 4), 0.75), rtol=0, atol=2e-2)  # 0.5 of [-1, 1]
    generate(evaluator)
    assert torch.equal(evaluator.state.generated, first)


def test_a_generated_volume_does_not_depend_on_how_many_there_are():
    evaluator, _ = run(["a"], network=Blind())
    found = []
    for seed, number in ((5, 3), (6, 1)):
        ddpm = StridedDDPMScheduler(100, "cosine")
        GenerateVolumes(ONE, (4, 4), scheduler=ddpm, num_volumes=number, seed=seed)(evaluator)
        found.append(evaluator.state.generated)
    torch.testing.assert_close(found[0][1], found[1][0])
    assert not torch.equal(found[0][0], found[0][1])


def test_the_reconstruction_error_of_the_core_is_a_metric():
    network = disturb(
        InvertibleDiffusionUNet(2, 1, 1, channels=(16, 32), num_res_blocks=1, attention_levels=(False, False),
                                norm_num_groups=4, embedding_channels=16)
    )  # fmt: skip
    evaluator, _ = run(["a"], network=network, handlers=[ReconstructionErrorHandler()])
    assert evaluator.state.metrics["core_reconstruction_error"] == pytest.approx(
        network.reconstruction_error(torch.full((1, 1, 4, 4), 0.5))
    )
    assert 0 < evaluator.state.metrics["core_reconstruction_error"] < 1e-4


@pytest.mark.parametrize(
    ("precision", "error", "limit", "alarm"),
    [
        ("float32", 1e-6, None, False),
        ("float32", 2e-2, None, True),
        ("float32", 2e-2, 0.1, False),
        ("float32", float("nan"), None, True),
        ("mixed", 2e-2, None, False),  # branches rounded to bfloat16
        ("mixed", 0.2, None, True),
        ("exact-mixed", 2e-2, None, True),
    ],
)
def test_an_error_beyond_the_limit_raises_the_alarm(precision, error, limit, alarm, caplog, monkeypatch):
    network = InvertibleDiffusionUNet(
        2, 1, 1, channels=(16, 32), attention_levels=(False, False), norm_num_groups=4, precision=precision
    )
    monkeypatch.setattr(network, "reconstruction_error", lambda x: error)
    run(["a"], network=network, handlers=[ReconstructionErrorHandler(limit)])
    assert ("gradients are inaccurate" in caplog.text) == alarm
    with pytest.raises(ValueError, match="larger than 0"):
        ReconstructionErrorHandler(limit=0.0)
