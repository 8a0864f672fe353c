"""Federated learning with MONAI's own client: two sites, one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from tests.bundle.workspace import CONFIGS, TINY


def client(name: str, folder: Path, seed: int) -> MonaiAlgo:
    """A site with its own phantoms."""
    places = {"bundle_root": str(CONFIGS.parent), "output_dir": str(folder), "ckpt_dir": str(folder / "models")}
    knobs = {**TINY, **places, "seed": seed, "demo#num_subjects": 4}
    algo = MonaiAlgo(
        bundle_root=str(CONFIGS.parent),
        config_train_filename="configs/train.yaml",
        train_kwargs=dict(knobs),
        config_evaluate_filename=["configs/train.yaml", "configs/evaluate.yaml"],
        eval_kwargs=dict(knobs),
    )
    algo.initialize({ExtraItems.CLIENT_NAME: name})
    return algo


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> list[MonaiAlgo]:
    return [client(f"site{seed}", tmp_path_factory.mktemp(f"site{seed}"), seed) for seed in (1, 2)]


def test_two_sites_train_one_model(sites):
    theirs = {name: tensor.clone() for name, tensor in sites[0].trainer.network.state_dict().items()}
    changes = []
    for site in sites:
        site.train(ExchangeObject(weights=theirs))
        sent = site.get_weights()
        assert sent.weight_type == WeightType.WEIGHT_DIFF
        assert sent.statistics["num_executed_iterations"] == 2
        for name, change in sent.weights.items():
            now = site.trainer.network.state_dict()[name]
            torch.testing.assert_close(theirs[name] + torch.as_tensor(change), now, rtol=1e-4, atol=1e-6)
        changes.append(sent.weights)
    assert any(
        (torch.as_tensor(changes[0][name]) - torch.as_tensor(changes[1][name])).abs().max() > 1e-4 for name in theirs
    )
    mean = {name: theirs[name] + sum(torch.as_tensor(change[name]) for change in changes) / 2 for name in theirs}
    for site in sites:
        site.evaluate(ExchangeObject(weights=mean))
        for name, tensor in site.evaluator.network.state_dict().items():
            torch.testing.assert_close(tensor, mean[name])


def test_a_site_judges_the_model_it_is_sent_on_its_own_cases(sites):
    given = {name: tensor.clone() for name, tensor in sites[0].evaluator.network.state_dict().items()}
    found = [site.evaluate(ExchangeObject(weights=given)).metrics["psnr_brain"] for site in sites]
    assert all(5 < psnr < 40 for psnr in found)
    assert found[0] != found[1]
    nothing = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    assert sites[0].evaluate(ExchangeObject(weights=nothing)).metrics["psnr_brain"] != found[0]
