"""How often training, sampling and evaluation wait for the GPU, counted on fake tensors."""

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
from monai_idm.metrics import ReconstructionMetrics
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, weight_norm_groups
from monai_idm.optimizers.offload import Offload
from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.schedulers import SAMPLERS, StridedDDPMScheduler
from monai_idm.tasks import DrawingInferer, Generation, Segmentation, TrainingStep, drawing

logging.disable(logging.CRITICAL)
move = Offload._replace


def moved(offload, p, part, tensor):
    move(offload, p, part, tensor)
    if part == "weights":
        p.fake_device = tensor.device  # which a fake tensor keeps when its data are replaced


Offload._replace = moved
LEVELS = dict(
    channels=(32, 64), num_res_blocks=1, attention_levels=(True, False), num_head_channels=12, embedding_channels=64
)


def network(**settings):
    with torch.device("cuda"):
        return InvertibleDiffusionUNet(3, 2, 2, **LEVELS, **settings)


def passes(waits, **settings):
    net, x = network(**settings), torch.rand(2, 2, 16, 16, 16, device="cuda")
    waits.counts.clear()
    nn.functional.mse_loss(net(x, torch.zeros(2, device="cuda")), x).backward()


def training(waits, make_optimizer, steps=4, offload_levels=0, **settings):
    net = network(**settings)
    offload = {"offload": net.deep_couplings(offload_levels)} if offload_levels else {}
    optimizer = make_optimizer(weight_norm_groups(net), **offload)
    scheduler = StridedDDPMScheduler(1000, schedule="cosine", prediction_type="v_prediction")
    guard = StepGuard(net, optimizer)
    handlers = [
        guard,
        UpdateEMA(HostEMA(net, every=4)),
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


def sampling(waits, device):
    net, found = network(), {}
    for name, sampler in SAMPLERS.items():
        scheduler = sampler(1000, schedule="cosine", prediction_type="v_prediction")
        scheduler.set_timesteps(3, device=device)
        noise = torch.rand(2, 2, 16, 16, 16, device="cuda")
        waits.counts.clear()
        InvertibleDiffusionInferer(scheduler).sample(noise, net, verbose=False, seeds=[1, 2])
        found[name] = sum(waits.counts.values())
    waits.counts = found


def drawing_together(waits):
    drawing.free_memory_bytes = lambda device: 2**40
    net, found = network(), {}
    for name, sampler in SAMPLERS.items():
        scheduler = sampler(1000, schedule="cosine", prediction_type="v_prediction", num_inference_steps=3)
        inferer = DrawingInferer(scheduler, Segmentation([], ["whole"]), num_draws=5)
        condition = torch.rand(2, 1, 16, 16, 16, device="cuda")
        waits.counts.clear()
        inferer.draws(condition, lambda x, timesteps: net(x, timesteps)[:, :1])
        found[name] = sum(waits.counts.values())
    waits.counts = found


def evaluation(waits):
    volumes = {
        name: torch.rand(2, 16, 16, 16, device="cuda")
        for name in ("pred", "reference", "noisy", "noise", "predicted_noise", "one_step")
    }
    waits.counts.clear()
    # the mask is the batch's, on the host
    ReconstructionMetrics(["t1", "t2"]).update("case", mask=torch.ones(1, 16, 16, 16), **volumes)


CASES = {
    "sampling": lambda waits: sampling(waits, "cpu"),
    "sampling, timesteps on the device": lambda waits: sampling(waits, "cuda"),
    "drawing": drawing_together,
    "evaluation": evaluation,
    "float32": lambda waits: passes(waits),
    "mixed": lambda waits: passes(waits, precision="mixed"),
    "exact": lambda waits: passes(waits, precision="exact"),
    "stored": lambda waits: passes(waits, activations="stored"),
    "training": lambda waits: training(
        waits, lambda groups: AdamWWeightNorm(groups, lr=1e-3, fused=True), precision="mixed"
    ),
    "training in backward": lambda waits: training(
        waits, lambda groups: AdamWInBackward(groups, lr=1e-3, lambda_l2=1e-4, fused=True), precision="mixed"
    ),
    "training in backward, two levels on the host": lambda waits: training(
        waits, lambda groups, **offload: AdamWInBackward(groups, lr=1e-3, lambda_l2=1e-4, fused=True, **offload),
        precision="mixed", offload_levels=2,
    ),
    "training in backward, bfloat16 weights": lambda waits: training(
        waits, lambda groups: AdamWInBackward(groups, lr=1e-3, fused=True), precision="mixed", weight_dtype="bfloat16"
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


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("sampling", 0),
        ("sampling, timesteps on the device", 1),  # the host reads them once
        ("drawing", 2),  # noise goes to the device: of the pass whose memory is counted, and of all draws together
    ],
)
def test_no_step_of_a_sampling_waits(case, expected, waits):
    assert len(waits[case]) == 4
    assert {*waits[case].values()} == {expected}


def test_the_metrics_of_a_case_are_read_at_once(waits):
    assert waits["evaluation"] == {"copy from cuda to cpu": 1, "copy from cpu to cuda": 3}  # MONAI's kernels of 3 SSIMs


@pytest.mark.parametrize(
    ("case", "ends"),
    [
        ("training", 0),
        ("training in backward", 0),
        ("training in backward, bfloat16 weights", 0),
        ("training in backward, two levels on the host", 4),  # until what was stepped is on the host
    ],
)
def test_a_step_waits_once_with_all_handlers(case, ends, waits):
    assert waits[case].pop("copy from cuda to cpu") == 4  # the numbers of each step
    assert waits[case].pop("synchronize") == 1 + ends  # all weights, every fourth step
    assert sum(waits[case].values()) <= 3  # once in a run: the scheduler's tables, the metric at its end
