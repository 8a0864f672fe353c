"""What a validation step of segmentation returns, on a real MONAI evaluator."""

from __future__ import annotations

import torch
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_idm.handlers import EvaluationReport
from monai_idm.metrics import SegmentationMetrics
from monai_idm.schedulers import StridedDDIMScheduler
from monai_idm.tasks import DiffusionSegmentationInferer, DrawingIteration

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
