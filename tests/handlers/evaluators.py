"""A small real evaluator whose network halves noisy volumes."""

from __future__ import annotations

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents

SIZE = (10, 12, 9)
MODALITIES = ("t1", "t2")


def make_item(number: int) -> dict:
    generator = torch.Generator().manual_seed(number)
    mask = torch.zeros(1, *SIZE)
    mask[:, 2:8, 3:9, 2:7] = 1
    return {"image": torch.rand(2, *SIZE, generator=generator) * mask, "subject": f"case{number}"}


def reconstruct(engine, batch):
    """An iteration: reference, noisy volume, half of it as the reconstruction, noise and its prediction."""
    image = batch["image"]
    noise = torch.ones_like(image) / 4
    engine.state.output = {
        "image": image,
        "noisy": image + noise,
        "pred": engine.network(image + noise),
        "noise": noise,
        "noise_pred": noise / 2,
    }
    engine.fire_event(IterationEvents.MODEL_COMPLETED)  # where MONAI decollates
    return engine.state.output


class Halved(torch.nn.Module):
    def forward(self, x):
        return x / 2


def make_evaluator(handlers, items=None, iteration=reconstruct, batch_size=2, **options):
    items = [make_item(number) for number in range(3)] if items is None else items
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=batch_size, num_workers=0),
        network=Halved(),
        iteration_update=iteration,
        val_handlers=handlers,
        **options,
    )
