"""Short training runs of the demo that answer one question each.

- ``precision``: does training on exact streams reach the same loss as training in float32?
- ``inverse``: does eq. 8's lambda_R align the inverse of the network with the network?
- ``bookends``: what does the network lose without its ordinary convolutions at both ends?
- ``optimizer``: do 8-bit states and bfloat16 weights reach the same loss as float32?
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from monai.bundle import ConfigParser

from idm_bundle.studies.runs import demo, train

__all__ = ["EIGHT_BIT", "STUDIES"]

EIGHT_BIT: dict[str, Any] = {
    "optimizer": {
        "_target_": "AdamWInBackward",
        "params": "$monai_idm.optimizers.weight_norm_groups(@network, @muon)",
        "lr": "@learning_rate",
        "betas": "@betas",
        "lambda_l2": "@lambda_l2",
        "states": "8bit",
    }
}
_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "precision": {p: {"precision": p} for p in ("float32", "exact")},
    # as in the paper, the network predicts the noise: the noisy volume does not follow from a velocity
    "inverse": {f"lambda_R {r:g}": {"lambda_r": r, "prediction_type": "epsilon"} for r in (0.001, 0.03, 1.0)},
    "bookends": {
        "with": {},
        # 2 channels of 32^3 voxels become 16 channels of 16^3: the same core, one level deeper
        "without": {
            "network_def#bookends": False,
            "network_def#channels": [16, 32, 64, 128],
            "network_def#num_head_channels": 16,
        },
    },
    "optimizer": {
        "AdamW": {"muon": False},
        "AdamW, mixed": {"muon": False, "precision": "mixed"},
        "8-bit states": {**EIGHT_BIT, "muon": False},
        "8-bit states, mixed": {**EIGHT_BIT, "muon": False, "precision": "mixed"},
        "8-bit states, mixed, bfloat16 weights": {
            **EIGHT_BIT,
            "muon": False,
            "precision": "mixed",
            "weight_dtype": "bfloat16",
        },
    },
}


def short(changes: Mapping[str, Any], steps: int, side: int) -> dict[str, float]:
    """Train on few phantoms for some steps.

    Args:
        changes: Values of train.yaml that are changed.
        steps: Iterations.
        side: Voxels per axis.
    Returns:
        ``loss``, the mean over the last tenth of the steps; ``psnr_brain_db`` of the validation's reconstructions;
        ``inverse_error``, the mean of |x_t - U^-1(U(x_t, t))| of the validation's volumes, if an inverse is trained.
    """
    with tempfile.TemporaryDirectory() as folder:
        few = {"demo#num_subjects": 20, "demo#phantom_size": [64, 64, 48]}
        config, trained = train({**demo(folder, steps, side, epochs=1, validations=1), **few, **changes})
        found = {
            "loss": trained["loss"],
            "psnr_brain_db": float(config.get_parsed_content("validate#evaluator").state.metrics["psnr_brain"]),
        }
        if config.get_parsed_content("lambda_r"):
            found["inverse_error"] = _inverse_error(config)
    return found


def _inverse_error(config: ConfigParser) -> float:
    network, scheduler = (config.get_parsed_content(name) for name in ("network", "scheduler"))
    errors = []
    torch.manual_seed(0)
    with torch.no_grad():
        for case in config.get_parsed_content("validate#dataset"):
            x = case["image"].as_tensor()[None].to(next(network.parameters()).device)
            for t in (250, 1000, 1750):
                timestep = torch.tensor([t], device=x.device)
                x_t = scheduler.add_noise(x, torch.randn_like(x), timestep)
                errors.append(float((network.inverse(network(x_t, timestep)) - x_t).abs().mean()))
    return sum(errors) / len(errors)


STUDIES = {
    study: {name: partial(short, changes) for name, changes in variants.items()}
    for study, variants in _VARIANTS.items()
}
