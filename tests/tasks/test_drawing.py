"""Draws together and one by one, and what a validation step of segmentation returns on a real MONAI evaluator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_idm.handlers import EvaluationReport
from monai_idm.meters import live_bytes
from monai_idm.metrics import SegmentationMetrics
from monai_idm.networks import InvertibleDiffusionUNet, plan
from monai_idm.reversible import fixed_matrices
from monai_idm.schedulers import SAMPLERS, DPMSolverPlusPlusScheduler, StridedDDIMScheduler, StridedDDPMScheduler
from monai_idm.tasks import DiffusionSegmentationInferer, DrawingInferer, DrawingIteration, Segmentation, drawing
from tests.reversible.chains import disturb

SIZE = (6, 8, 6)


class Wavering(nn.Module):
    """Predicts the mask in the condition, inverted where the noise exceeds 1."""

    def forward(self, x, timesteps, context=None):
        return torch.where(x[:, :1] > 1, -x[:, 1:2], x[:, 1:2])


def test_draws_mean_variance_and_labels_agree_and_reach_the_report():
    inferer = DiffusionSegmentationInferer(
        StridedDDIMScheduler(100, prediction_type="sample", num_inference_steps=3), num_draws=4, seed=2
    )
    condition = torch.where(torch.rand(2, 1, *SIZE) > 0.5, 1.0, -1.0)
    label = (condition > 0).float()
    items = [{"image": condition[i], "label": label[i], "subject": f"case{i}"} for i in range(2)]
    report = EvaluationReport(SegmentationMetrics())
    outputs = []

    class Keep:
        def attach(self, engine):
            engine.add_event_handler("ITERATION_COMPLETED", lambda e: outputs.extend(e.state.output))

    network = Wavering().train()
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        torch.utils.data.DataLoader(items, 2),
        network,
        inferer=inferer,
        iteration_update=DrawingIteration(),
        key_val_metric={"dice": report},
        val_handlers=[Keep()],
    )
    evaluator.run()
    draws = inferer.draws(condition, network)
    for i, output in enumerate(outputs):
        assert output["draws"].shape == (4, 1, *SIZE)
        torch.testing.assert_close(output["draws"], draws[i])
        assert torch.equal(output["draw"], output["draws"][0])
        torch.testing.assert_close(output["mean"], draws[i].mean(0))
        torch.testing.assert_close(output["variance"], ((draws[i] - draws[i].mean(0)) ** 2).mean(0))
        torch.testing.assert_close(output["pred"], inferer(condition, network)[i])
    assert len(outputs) == 2
    metrics = evaluator.state.metrics
    assert metrics["draw_dice"] < metrics["dice"] == evaluator.state.best_metric < 1
    assert {row["method"] for row in report.metrics.rows()} == {"draw", "ensemble"}


def network():
    levels = {"channels": (8, 16), "attention_levels": (False, False), "norm_num_groups": 4, "embedding_channels": 16}
    return disturb(InvertibleDiffusionUNet(3, 3, 1, num_res_blocks=1, **levels)).eval()


class Counting:
    """A callable that is no module; records the batch of each call."""

    def __init__(self, net):
        self.net, self.batches = net, []

    def __call__(self, x, timesteps, context=None):
        self.batches.append(len(x))
        return self.net(x, timesteps)


class Continuous(Segmentation):
    """Masks before they are clipped to 0 and 1."""

    def finished(self, draws, condition):
        return draws


def inferer(sampler=StridedDDPMScheduler, **settings):
    scheduler = sampler(100, prediction_type="sample", num_inference_steps=3)
    return DrawingInferer(scheduler, Continuous([], ["whole"]), **settings)


def condition(batch=1):
    return torch.randn(batch, 2, 8, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def free(monkeypatch):
    """What is free, in bytes; the draws may take all of it."""
    memory = SimpleNamespace(bytes=2**40)
    monkeypatch.setattr(drawing, "free_memory_bytes", lambda device: memory.bytes)
    monkeypatch.setattr(plan, "SHARES", {"cpu": 1.0})
    return memory


def bytes_of_a_draw(batch=1, window=None):
    net, x = network(), torch.zeros(batch, 3, 8, 8, 8)
    with torch.no_grad(), fixed_matrices(net), live_bytes() as memory:
        inferer(window=window)._predictor(net, 1)(x, timesteps=torch.zeros(1))
    return memory.peak_bytes + 5 * x.nbytes


WINDOWS = [None, SlidingWindowInferer((8, 4, 8), 1, 0.25, "gaussian")]


@pytest.mark.parametrize("sampler", [StridedDDPMScheduler, DPMSolverPlusPlusScheduler])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("window", WINDOWS, ids=["whole", "patches"])
@pytest.mark.parametrize("wrap", [Counting, lambda net: net], ids=["callable", "module"])
def test_draws_together_are_those_drawn_one_by_one(sampler, batch, window, wrap, free):
    free.bytes = 4 * bytes_of_a_draw(batch, window)
    net = wrap(network())
    together = inferer(sampler, num_draws=5, window=window, seed=4).draws(condition(batch), net)
    if wrap is Counting:  # five in two passes: three and two; and one to count
        assert {*net.batches} == ({batch, 3 * batch, 2 * batch} if window is None else {1, 3, 2})
    alone = [inferer(sampler, window=window, seed=4 + i).draws(condition(batch), net) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-2


@pytest.mark.parametrize("window", WINDOWS, ids=["whole", "patches"])
@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_draws_take_no_more_memory_than_is_free(sampler, window, free):
    net, asked = network(), inferer(sampler, num_draws=8, window=window)
    for draws in (2, 4, 8):
        free.bytes, given = draws * bytes_of_a_draw(window=window), condition()
        with fixed_matrices(net), live_bytes() as memory:
            asked.draws(given, net)
        assert 0.7 * free.bytes < memory.peak_bytes <= free.bytes


def test_draws_are_one_by_one_where_no_more_fits_or_weights_are_sharded(free, monkeypatch):
    for free.bytes in (None, 0, 1.9 * bytes_of_a_draw()):
        net = Counting(network())
        inferer(num_draws=3).draws(condition(), net)
        assert {*net.batches} == {1}
    free.bytes, net = 2**40, network()
    monkeypatch.setattr(net, "parameters", lambda: [SimpleNamespace(to_local=None)])
    assert inferer(num_draws=3)._draws_per_pass(condition(), net) == 1
    assert inferer(num_draws=3)._draws_per_pass(condition(), network()) == 3
