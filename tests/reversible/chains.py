"""Chains of operations for the tests of the engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_idm.reversible import (
    AdditiveCoupling,
    AttentionScale,
    CheckerboardAttention,
    Merge,
    OrthogonalDownsample,
    OrthogonalMixing,
    OrthogonalUpsample,
    ReversibleOperation,
    ReversibleSequence,
    Split,
)


class Branch(nn.Module):
    """A small branch with everything a real one has: convolution, normalisation, nonlinearity, conditioning."""

    def __init__(self, dims: int, channels: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.norm = nn.GroupNorm(2, channels)
        self.conv = convolution(channels, channels, 3, padding=1)
        self.project = nn.Linear(embedding, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = torch.tanh(self.conv(self.norm(x)))
        return self.dropout(h * self.project(e).unflatten(1, (-1, *[1] * (x.ndim - 2))))


def coupling(dims: int, channels: int, dropout: float = 0.0) -> AdditiveCoupling:
    return AdditiveCoupling(Branch(dims, channels // 2, 5, dropout))


def unet(dims: int, channels: int = 16, couplings: int = 1) -> ReversibleSequence:
    """Two levels with every kind of operation."""
    low = 2 * channels // 2**dims
    skip = channels - low
    heads = skip // 2
    operations: list[ReversibleOperation] = [
        *(coupling(dims, channels) for _ in range(couplings)),
        OrthogonalMixing(channels),
        Split(skip // 2),
        OrthogonalDownsample(dims, low),
        *(coupling(dims, 2 * channels) for _ in range(couplings)),
        OrthogonalUpsample(dims, low),
        CheckerboardAttention(AttentionScale(dims, skip, heads, 2)),
        Merge(skip // 2),
        OrthogonalMixing(channels),
        *(coupling(dims, channels) for _ in range(couplings)),
    ]
    return disturb(ReversibleSequence(operations))


def disturb(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Move all parameters away from initial values, at which branches are zero and orthogonal maps the identity."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))
    return module


def halves(dims: int, channels: int = 16, batch: int = 2, sides=(4, 8, 2), **kwargs) -> tuple[Tensor, Tensor]:
    shape = (batch, channels // 2, *sides[:dims])
    return torch.randn(shape, **kwargs), torch.randn(shape, **kwargs)


def gradients(chain: ReversibleSequence, inputs, embedding: Tensor, activations: str) -> dict[str, Tensor]:
    """dL/d(inputs), dL/d(embedding) and dL/d(parameters) of a fixed nonlinear loss."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    embedding = embedding.detach().clone().requires_grad_()
    chain.zero_grad()
    outputs = chain(inputs, embedding, activations)
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sin().sum() for y in outputs)
    loss.backward()
    found = {f"input{i}": x.grad for i, x in enumerate(inputs)} | {"embedding": embedding.grad}
    return found | {name: p.grad for name, p in chain.named_parameters()}


def with_branch_batch(chain: ReversibleSequence, branch_batch: int) -> ReversibleSequence:
    for operation in chain.operations:
        if isinstance(operation, AdditiveCoupling):
            operation.branch_batch = branch_batch
    return chain
