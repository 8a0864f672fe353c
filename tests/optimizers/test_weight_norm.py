"""Eq. 8's regularisation in the optimizer's step equals the same term in the loss."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_idm.optimizers import AdamWWeightNorm, weight_norm_groups
from monai_idm.reversible import OrthogonalMixing


def network():
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GroupNorm(1, 3), torch.nn.Conv2d(3, 1, 3)).double()


def test_it_equals_the_term_in_the_loss():
    ours, twin = (net := network()), copy.deepcopy(net)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    optimizer = AdamWWeightNorm(weight_norm_groups(ours), lambda_l2=0.3, lr=1e-2)
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(5):
        for net, step in ((ours, optimizer), (twin, plain)):
            step.zero_grad()
            loss = net(x).square().mean()
            if net is twin:
                weights = torch.cat([p.flatten() for p in twin.parameters() if p.ndim >= 2])
                loss = loss + 0.3 * weights.norm()
            loss.backward()
            step.step()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_without_lambda_it_is_adamw():
    ours, twin = (net := network()), copy.deepcopy(net)
    for net, step in (
        (ours, AdamWWeightNorm(ours.parameters(), lambda_l2=0.0, lr=1e-2)),
        (twin, torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0)),
    ):
        net(torch.ones(1, 2, 8, 8, dtype=torch.float64)).sum().backward()
        step.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), twin.parameters(), strict=True))


def test_biases_norms_and_generators_are_left_alone():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GroupNorm(1, 3), OrthogonalMixing(4))
    regularised, free = weight_norm_groups(net)
    assert [id(p) for p in regularised["params"]] == [id(net[0].weight)]
    assert len(free["params"]) == 4
    assert free["lambda_l2"] == 0


def test_state_and_schedulers_work_as_for_any_optimizer():
    net = network()
    optimizer = AdamWWeightNorm(weight_norm_groups(net), lambda_l2=0.3, lr=1e-2)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    other = AdamWWeightNorm(weight_norm_groups(net), lambda_l2=0.1, lr=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert [group["lambda_l2"] for group in other.param_groups] == [0.3, 0.0]
    assert other.param_groups[0]["lr"] == 1e-2


def test_a_negative_lambda_and_a_closure_are_refused():
    with pytest.raises(ValueError, match="choose 0 or more"):
        AdamWWeightNorm(network().parameters(), lambda_l2=-1)
    with pytest.raises(ValueError, match="takes no closure"):
        AdamWWeightNorm(network().parameters()).step(lambda: 0)
