"""How often a training step waits for the GPU, counted on fake tensors."""

from __future__ import annotations

import json

import pytest

from tests import on_fake_cuda

PROGRAM = """
import json, logging, warnings
warnings.simplefilter("ignore")
from tests.fake_cuda import fake_cuda
import torch
from torch import nn
from monai.engines import SupervisedTrainer
from monai.handlers import StatsHandler, from_engine
from monai.inferers import SimpleInferer
from monai.handlers import MeanAbsoluteError
from monai_idm.handlers import DataWaitHandler, HostEMA, StepGuard, UpdateEMA
from monai_idm.losses import InvertibleDiffusionLoss
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, weight_norm_groups
from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.schedulers import SAMPLERS, StridedDDPMScheduler
from monai_idm.tasks import Generation, TrainingStep

logging.disable(logging.CRITICAL)
LEVELS = dict(channels=(16, 32, 64), attention_levels=(False, True, False), num_head_channels=12, embedding_channels=64)


def network(**settings):
    with torch.device("cuda"):
        return InvertibleDiffusionUNet(3, 2, 2, **LEVELS, **settings)


def passes(waits, **settings):
    net, x = network(**settings), torch.rand(2, 2, 16, 16, 16, device="cuda")
    waits.counts.clear()
    nn.functional.mse_loss(net(x, torch.zeros(2, device="cuda")), x).backward()


def training(waits, make_optimizer, steps=20, **settings):
    net = network(**settings)
    optimizer = make_optimizer(weight_norm_groups(net))
    scheduler = StridedDDPMScheduler(1000, schedule="cosine", prediction_type="v_prediction")
    guard = StepGuard(net, optimizer)
    handlers = [
        guard,
        UpdateEMA(HostEMA(net, every=10)),
        DataWaitHandler(),
        # as TensorBoard's handler does in each iteration
        StatsHandler(epoch_log=False, iteration_log=True, output_transform=from_engine(["loss"], first=True)),
    ]
    mae = MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))
    trainer = SupervisedTrainer(
        torch.device("cuda"), 1,
        [{"image": torch.rand(2, 2, 16, 16, 16), "subject": ["a", "b"]} for _ in range(steps)],
        net, optimizer, InvertibleDiffusionLoss(net), inferer=SimpleInferer(),
        iteration_update=TrainingStep(Generation(["t1", "t2"]), scheduler, 2.0, guard=guard),
        non_blocking=True, train_handlers=handlers, key_train_metric={"mae": mae},
    )
    waits.counts.clear()
    trainer.run()


def sampling(waits):
    net = network()
    for sampler in SAMPLERS.values():
        scheduler = sampler(1000, schedule="cosine", prediction_type="v_prediction")
        scheduler.set_timesteps(6, device="cuda")
        with torch.no_grad():
            noise = torch.rand(2, 2, 16, 16, 16, device="cuda")
            waits.counts.clear()
            InvertibleDiffusionInferer(scheduler).sample(noise, net, verbose=False, seeds=[1, 2])
        most[sampler.__name__] = sum(waits.counts.values())
    waits.counts = most


most = {}
CASES = {
    "sampling": sampling,
    "float32": lambda waits: passes(waits),
    "mixed": lambda waits: passes(waits, precision="mixed"),
    "exact": lambda waits: passes(waits, precision="exact"),
    "stored": lambda waits: passes(waits, activations="stored"),
    "training": lambda waits: training(waits, lambda groups: AdamWWeightNorm(groups, lr=1e-3), precision="mixed"),
    "training in backward": lambda waits: training(
        waits, lambda groups: AdamWInBackward(groups, lr=1e-3, lambda_l2=1e-4, fused=True), precision="mixed"
    ),
}
found = {}
for name, case in CASES.items():
    with fake_cuda() as waits:
        case(waits)
    found[name] = dict(waits.counts)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def waits():
    return json.loads(on_fake_cuda.run(PROGRAM).splitlines()[-1])


@pytest.mark.parametrize("case", ["float32", "mixed", "exact", "stored"])
def test_forward_and_backward_wait_for_nothing(case, waits):
    assert waits[case] == {}


def test_sampling_starts_from_timesteps_on_the_device_and_draws_there(waits):
    assert len(waits["sampling"]) == 4
    for sampler, count in waits["sampling"].items():
        passes = 11 if "Heun" in sampler else 6
        assert count <= passes + 1 + 5, sampler  # MONAI's copy of each timestep; tables; numbers of DPM-Solver++


@pytest.mark.parametrize("case", ["training", "training in backward"])
def test_a_step_waits_once_with_all_handlers(case, waits):
    assert waits[case].pop("copy from cuda to cpu") == 20  # the numbers of each step
    assert waits[case].pop("synchronize") == 2  # all weights, every tenth step
    assert sum(waits[case].values()) <= 3  # once in a run: the scheduler's tables, the metric at its end
