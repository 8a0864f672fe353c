"""Laws of the baseline, PatchDDM's network."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from monai_idm.meters import live_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.patch_unet import GroupNorm, PatchDiffusionUNet, ResidualBlock
from tests.reversible.chains import disturb


def small(dims=3, **overrides) -> PatchDiffusionUNet:
    arguments = {"in_channels": 2, "out_channels": 1, "channels": (6, 12, 15), "num_res_blocks": 1}
    return disturb(PatchDiffusionUNet(dims, **{**arguments, "norm_num_groups": 3, **overrides}))


def gradients(net, x, t):
    x = x.detach().clone().requires_grad_()
    net.zero_grad()
    y = net(x, t)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return {"x": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def peak_bytes(shape, **arguments) -> int:
    """Peak memory of a forward and backward pass, including weights and gradients."""
    with FakeTensorMode():
        net = PatchDiffusionUNet(len(shape) - 2, shape[1], 1, **arguments)
        with live_bytes(net) as memory:
            net(torch.empty(shape)).sum().backward()
    return memory.peak_bytes


def test_the_small_preset_is_as_large_as_the_small_reversible_network():
    with torch.device("meta"):
        ours = InvertibleDiffusionUNet.from_preset("light", in_channels=8, out_channels=1)
        net = PatchDiffusionUNet.from_preset("light")
    assert net.divisor == ours.divisor
    counts = [sum(p.numel() for p in n.parameters()) for n in (net, ours)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_the_preset_has_the_size_of_patchddm():
    with torch.device("meta"):
        net = PatchDiffusionUNet.from_preset("patchddm")
        other = PatchDiffusionUNet.from_preset("patchddm", in_channels=2, out_channels=2)
    count = sum(p.numel() for p in net.parameters())
    assert count == 24_260_299
    assert count == pytest.approx(24.26e6, rel=1e-3)
    assert count - sum(p.numel() for p in other.parameters()) == 29 * 27 * (8 - 2) - (29 * 27 + 1) * (2 - 1)
    assert net.divisor == 64
    convolutions = Counter(tuple(m.stride) for m in net.modules() if isinstance(m, torch.nn.Conv3d))
    assert convolutions[2, 2, 2] == sum(isinstance(m, torch.nn.Upsample) for m in net.modules()) == 6
    assert [sum(isinstance(m, ResidualBlock) for m in part) for part in (net.encoder, net.middle, net.decoder)] == [
        7 * 2,
        2,
        7 * 3,
    ]


@pytest.mark.parametrize(("channels", "blocks"), [((6, 12, 15), 2), ((12, 6, 9), 1)])
def test_every_block_of_the_decoder_is_averaged_with_a_skip_of_its_width(channels, blocks):
    net, skips, entries = small(channels=channels, num_res_blocks=blocks), [], []
    for layer in net.encoder:
        layer.register_forward_hook(lambda _, inputs, y: skips.append(y))
    for layer in (*net.middle, *net.decoder):
        layer.register_forward_hook(lambda layer, inputs, y: entries.append((layer, inputs[0], y)))
    net(torch.randn(2, 2, 4, 8, 4), torch.tensor([3, 700]))
    for (_, _, h), (layer, entry, _) in pairwise(entries[1:]):
        expected = (h + skips.pop()) / 2 if isinstance(layer, ResidualBlock) else h
        torch.testing.assert_close(entry, expected, rtol=0, atol=0)
    assert not skips


@pytest.mark.parametrize("dims", [2, 3])
def test_two_levels_by_hand(dims):
    net = small(dims, channels=(6, 12), num_res_blocks=1)
    x, t = torch.randn(2, 2, *(4, 6, 2)[:dims]), torch.tensor([3, 700])
    e = net.embedding(t)
    conv = {2: functional.conv2d, 3: functional.conv3d}[dims]

    def block(layer, h):
        norm1, _, conv1 = layer.first
        norm2, _, conv2 = layer.second
        inner = functional.silu(functional.group_norm(h, 3, norm1.weight, norm1.bias))
        inner = conv(inner, conv1.weight, conv1.bias, padding=1)
        inner = inner + (e @ layer.project.weight.T + layer.project.bias).view(2, -1, *[1] * dims)
        inner = functional.silu(functional.group_norm(inner, 3, norm2.weight, norm2.bias))
        inner = conv(inner, conv2.weight, conv2.bias, padding=1)
        widths_differ = hasattr(layer.shortcut, "weight")
        return inner + (conv(h, layer.shortcut.weight, layer.shortcut.bias) if widths_differ else h)

    entry, block0, down, block1 = net.encoder
    s0 = conv(x, entry.weight, entry.bias, padding=1)
    s1 = block(block0, s0)
    s2 = conv(s1, down.weight, down.bias, padding=1, stride=2)
    s3 = block(block1, s2)
    h = block(net.middle[1], block(net.middle[0], s3))
    h = block(net.decoder[1], (block(net.decoder[0], (h + s3) / 2) + s2) / 2)
    for axis in range(2, x.ndim):
        h = h.repeat_interleave(2, axis)
    h = conv(h, net.decoder[2][1].weight, net.decoder[2][1].bias, padding=1)
    h = block(net.decoder[4], (block(net.decoder[3], (h + s1) / 2) + s0) / 2)
    h = functional.silu(functional.group_norm(h, 3, net.exit[0].weight, net.exit[0].bias))
    torch.testing.assert_close(net(x, t), conv(h, net.exit[2].weight, net.exit[2].bias, padding=1))


def test_concatenated_skips_meet_the_same_layers_with_twice_the_channels():
    averaged, net = small(channels=(6, 12)), small(channels=(6, 12), skips="concatenated")
    blocks = [layer for layer in net.decoder if isinstance(layer, ResidualBlock)]
    twins = [layer for layer in averaged.decoder if isinstance(layer, ResidualBlock)]
    for block, twin in zip(blocks, twins, strict=True):
        assert block.first[2].in_channels == 2 * twin.first[2].in_channels
        assert block.first[2].out_channels == twin.first[2].out_channels
    skips, entries = [], []
    for layer in net.encoder:
        layer.register_forward_hook(lambda _, inputs, y: skips.append(y))
    net.middle[-1].register_forward_hook(lambda _, inputs, y: entries.append(y))
    blocks[0].register_forward_hook(lambda _, inputs, y: entries.append(inputs[0]))
    net(torch.randn(2, 2, 4, 8, 4), torch.tensor([3, 700]))
    torch.testing.assert_close(entries[1], torch.cat([entries[0], skips[-1]], 1), rtol=0, atol=0)


def test_a_new_network_returns_zeros_and_a_new_block_its_shortcut():
    net = PatchDiffusionUNet(2, 2, 1, (6, 12), 1, 3)
    assert not net(torch.randn(1, 2, 4, 6)).any()
    h, e = torch.randn(1, 6, 4, 6), torch.randn(1, 24)
    wider, same = net.encoder[3], net.encoder[1]
    torch.testing.assert_close(same(h, e), h, rtol=0, atol=0)
    torch.testing.assert_close(wider(h, e), wider.shortcut(h), rtol=0, atol=0)


@pytest.mark.parametrize(("dims", "size"), [(3, (4, 8, 4)), (2, (12, 8))])
def test_checkpointed_gradients_equal_stored_gradients(dims, size):
    net = small(dims, channels=(6, 9, 9)).double()
    x, t = torch.randn(1, 2, *size, dtype=torch.float64), torch.tensor([3])
    expected = gradients(net.with_activations("stored"), x, t)
    found = gradients(net.with_activations("checkpointed"), x, t)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-10, msg=name)


def test_memory_falls_with_checkpoints_and_with_bfloat16():
    case = {"shape": (1, 2, 32, 32, 32), "channels": (6, 18), "norm_num_groups": 3}
    stored = peak_bytes(**case)
    assert peak_bytes(activations="checkpointed", **case) < 0.5 * stored
    # more than half: the inputs of normalisations are kept in float32
    assert 0.6 * stored < peak_bytes(precision="mixed", **case) < 0.75 * stored


def test_mixed_precision_returns_float32_and_is_close():
    exact, mixed = small(2), small(2, precision="mixed")
    mixed.load_state_dict(exact.state_dict())
    x, t, kept = torch.randn(2, 2, 12, 8), torch.tensor([3, 700]), []
    mixed.encoder[1].register_forward_hook(lambda _, inputs, y: kept.append(y.dtype))
    found, expected = mixed(x, t), exact(x, t)
    assert found.dtype == torch.float32
    assert kept == [torch.bfloat16]
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.1
    expected = gradients(mixed, x, t)
    found = gradients(mixed.with_activations("checkpointed"), x, t)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_normalisation_computes_in_float32_and_returns_bfloat16():
    norm, x = disturb(GroupNorm(2, 4)), torch.randn(2, 4, 5, 3).bfloat16()
    found = norm(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, torch.nn.GroupNorm.forward(norm, x.float()).bfloat16(), rtol=0, atol=0)


def test_monais_inferer_calls_it():
    net, scheduler = small(in_channels=3), DDPMScheduler(20)
    image, noise, condition = (torch.randn(2, c, 4, 8, 4) for c in (1, 1, 2))
    t = torch.tensor([3, 17])
    found = DiffusionInferer(scheduler)(image, net, noise, t, condition=condition, mode="concat")
    noisy = scheduler.add_noise(image, noise, t)
    torch.testing.assert_close(found, net(torch.cat([noisy, condition], 1), t))


def test_policies_share_weights_and_state():
    net = small()
    twin = net.with_activations("checkpointed")
    assert (net.activations, twin.activations) == ("stored", "checkpointed")
    assert all(p is q for p, q in zip(net.parameters(), twin.parameters(), strict=True))
    assert net.state_dict().keys() == twin.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dims": 1}, "spatial_dims=1 is unknown; choose one of 2, 3"),
        ({"norm_num_groups": 4}, r"channels=\(6, 12, 15\) must be multiples of norm_num_groups=4"),
        ({"activations": "rebuilt"}, "'stored', 'checkpointed'"),
        ({"precision": "exact"}, "'float32', 'mixed'"),
        ({"skips": "added"}, "'averaged', 'concatenated'"),
    ],
)
def test_unfit_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        small(**arguments)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="preset='base' is unknown; choose one of 'light', 'patchddm'"):
        PatchDiffusionUNet.from_preset("base")
    with pytest.raises(ValueError, match="'stored', 'checkpointed'"):
        small().with_activations("rebuilt")
