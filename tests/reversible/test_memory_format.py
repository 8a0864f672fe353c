"""Channels last and the ordinary memory format give the same numbers, and every operation keeps the format it gets."""

from __future__ import annotations

import pytest
import torch

from monai_idm.networks import InvertibleDiffusionUNet, bookends
from monai_idm.reversible import (
    AttentionScale,
    CheckerboardAttention,
    Merge,
    OrthogonalDownsample,
    OrthogonalMixing,
    OrthogonalUpsample,
    Split,
    is_channels_last,
    memory_format_of,
)

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SIDES = (4, 6, 8)

# operation of d dimensions, and the channels of its inputs
OPERATIONS = {
    "mixing": lambda d: (OrthogonalMixing(8), [4, 4]),
    "down": lambda d: (OrthogonalDownsample(d, 8), [4, 4]),
    "up": lambda d: (OrthogonalUpsample(d, 8), [4 * 2**d, 4 * 2**d]),
    "split": lambda d: (Split(3), [5, 5]),
    "merge": lambda d: (Merge(3), [3, 3, 2, 2]),
    "attention": lambda d: (CheckerboardAttention(AttentionScale(d, 8, 4, 2)), [4, 4, 3, 3]),
}


def case(name, d, batch):
    torch.manual_seed(0)
    operation, channels = OPERATIONS[name](d)
    for p in operation.double().parameters():
        torch.nn.init.normal_(p)
    x = [torch.randn(batch, c, *SIDES[:d], dtype=torch.float64) for c in channels]
    return operation, x, [w.detach() for w in operation.condition(x[0])]


def copies(tensors):
    """Tensors that may be overwritten."""
    return [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_the_same_in_both_formats_and_keeps_the_format(name, d, batch):
    operation, x, condition = case(name, d, batch)
    y = operation.map(x, condition)
    dy = [torch.randn_like(t) for t in y]
    expected = operation.rebuild(copies(y), copies(dy), condition, [])

    x, dy = ([t.contiguous(memory_format=LAST[d]) for t in tensors] for tensors in (x, dy))
    z = operation.map(x, condition)
    found = operation.rebuild(copies(z), copies(dy), condition, [])

    torch.testing.assert_close(z, y)
    torch.testing.assert_close(found, expected)
    for t in (*z, *found.inputs, *found.input_gradients):
        assert memory_format_of(t) == LAST[d]
        assert t.stride(0) == t[0].numel()  # kernels of torch compare this stride in a batch of one, too


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed", "stored"])
@pytest.mark.parametrize(("batch", "images"), [(1, 2), (3, 2), (1, 1)])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_does_the_same_in_both_formats(spatial_dims, batch, images, activations, monkeypatch):
    torch.manual_seed(0)
    network = InvertibleDiffusionUNet(
        spatial_dims,
        images,
        images,
        channels=(16, 32, 64),
        num_res_blocks=1,
        attention_levels=(False, True, False),
        num_head_channels=8,
        norm_num_groups=4,
        embedding_channels=8,
        activations=activations,
        branch_batch=2,
    ).double()
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = torch.randn(batch, images, *[8] * spatial_dims, dtype=torch.float64)

    def step():
        network.zero_grad()
        y = network(x, torch.full((batch,), 300))
        y.square().sum().backward()
        return [y.detach(), *(p.grad for p in network.parameters())]

    streams = []
    network.core.register_forward_hook(lambda core, args, outputs: streams.extend(outputs))
    last = step()
    assert all(is_channels_last(stream) for stream in streams)
    assert last[0].is_contiguous()
    monkeypatch.setattr(bookends, "fastest_format", lambda x: torch.contiguous_format)
    streams.clear()
    ordinary = step()
    assert not any(is_channels_last(stream) for stream in streams)
    torch.testing.assert_close(last, ordinary)
