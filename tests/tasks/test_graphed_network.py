"""Steps launched as CUDA graphs are the same steps, bit for bit."""

from __future__ import annotations

import pytest
import torch

from monai_idm.optimizers import AdamWInBackward
from monai_idm.tasks import Generation, TrainingStep
from monai_idm.tasks.graphed_network import GraphedNetwork
from tests.networks.test_invertible_unet import small
from tests.tasks.supervised import trainer
from tests.tasks.test_training_step import ONE, SCHEDULERS, Watched, images


def test_a_graph_is_recorded_for_each_shape_and_gets_the_inputs_by_name(monkeypatch):
    recorded = []

    def record(module, samples, allow_unused_input):
        recorded.append([tuple(s.shape) for s in samples])
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    network = Watched(1)
    graphed = GraphedNetwork(network)
    x, t, classes = images(1), torch.tensor([3, 4]), torch.tensor([1, 0])
    for batch in (2, 2, 1):
        inputs = {"timesteps": t[:batch], "class_labels": classes[:batch]}
        torch.testing.assert_close(graphed(x[:batch], **inputs), network(x[:batch], **inputs), rtol=0, atol=0)
    assert recorded == [[tuple(x.shape), (2,), (2,)], [(1, *x.shape[1:]), (1,), (1,)]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cpu"}, "on cpu, which is no CUDA device"),
        ({"accumulation_steps": 2}, "with accumulated gradients"),
        ({"optim_set_to_none": False}, "without optim_set_to_none"),
        ({"optimizer": AdamWInBackward}, "with an AdamWInBackward"),
    ],
)
def test_a_trainer_whose_steps_cannot_be_graphs_is_refused(settings, message):
    device, optimizer = settings.pop("device", "cuda"), settings.pop("optimizer", torch.optim.AdamW)
    network = Watched(1)
    step = TrainingStep(ONE, SCHEDULERS["flow"], cuda_graphs=True)
    settings = {"optim_set_to_none": True, **settings}
    engine, _ = trainer(step, [{"image": images(1)}], network, optimizer(network.parameters(), lr=0.1), **settings)
    engine.state.device = torch.device(device)
    with pytest.raises(ValueError, match=f"cuda_graphs=True {message}"):
        engine.run()
    assert not network.seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("activations", ["stored", "rebuilt"])
def test_the_weights_after_some_steps_are_equal(activations):
    trained, errors = [], []
    data = [{"image": torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(4)]
    for cuda_graphs in (False, True):
        network = small(activations=activations, precision="mixed").cuda()
        step = TrainingStep(Generation(["t1", "t2"]), SCHEDULERS["flow"], cuda_graphs=cuda_graphs)
        with torch.backends.cudnn.flags(deterministic=True):
            engine, _ = trainer(step, data, network, optim_set_to_none=True)
            engine.state.device = torch.device("cuda")
            engine.run()
        trained.append(network.state_dict())
        errors.append(network.training_error())
    for name, weight in trained[0].items():
        if isinstance(weight, torch.Tensor):
            assert torch.equal(weight, trained[1][name]), name
    assert (errors[0] is None) == (errors[1] is None) == (activations == "stored")
    assert errors[0] is None or torch.equal(*errors)
