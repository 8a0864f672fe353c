"""A small real trainer."""

from __future__ import annotations

import torch
from monai.engines import SupervisedTrainer
from torch import nn


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        x = torch.randn(3, generator=torch.Generator().manual_seed(i))
        return {"image": x, "label": x.sum()[None]}


def trainer(handlers, epochs=3, lr=0.1, network=None, loss=None, **kwargs):
    network = nn.Linear(3, 1) if network is None else network
    optimizer = torch.optim.Adam(network.parameters(), lr)
    engine = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        torch.utils.data.DataLoader(Batches(), 2),
        network,
        optimizer,
        loss or nn.MSELoss(),
        train_handlers=handlers(network, optimizer) if callable(handlers) else handlers,
        **kwargs,
    )
    return engine, network
