"""``python -m idm_bundle.studies NAME``: short trainings of the demo that answer one question each.

- ``precision``: does training on exact streams end where training in float32 does?
- ``inverse``: does eq. 8's lambda_R align the inverse of the network with the network?
- ``bookends``: what does the network lose without its ordinary convolutions at both ends?
- ``optimizer``: do 8-bit states and bfloat16 weights end where float32 does?

Every training is train.yaml's own, on phantoms, with a few values changed; the same seed, hence the same batches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_idm import find_bundle_root
from monai_idm.atomic_file import atomic_file
from monai_idm.machine import VERSIONS, device_name

__all__ = ["STUDIES", "train"]

_EIGHT_BIT = {
    "optimizer": {
        "_target_": "AdamWInBackward",
        "params": "$monai_idm.optimizers.weight_norm_groups(@network)",
        "lr": "@learning_rate",
        "betas": "@betas",
        "lambda_l2": "@lambda_l2",
        "states": "8bit",
    }
}
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "precision": {p: {"precision": p} for p in ("float32", "exact")},
    # as in the paper, the network predicts the noise: from a velocity the noisy volume cannot be told
    "inverse": {f"lambda_R {r:g}": {"lambda_r": r, "prediction_type": "epsilon"} for r in (0.001, 0.03, 1.0)},
    "bookends": {
        "with": {},
        # 2 channels of 32^3 voxels become 16 of 16^3: the same core, one level further down
        "without": {
            "network_def#bookends": False,
            "network_def#channels": [16, 32, 64, 128],
            "network_def#num_head_channels": 16,
        },
    },
    "optimizer": {
        "AdamW": {},
        "AdamW, mixed": {"precision": "mixed"},
        "8-bit states": _EIGHT_BIT,
        "8-bit states, mixed": {**_EIGHT_BIT, "precision": "mixed"},
        "8-bit states, mixed, bfloat16 weights": {**_EIGHT_BIT, "precision": "mixed", "weight_dtype": "bfloat16"},
    },
}


def train(steps: int, side: int, **changes: Any) -> dict[str, float]:
    """Train the demo for some steps.

    Args:
        steps: Iterations.
        side: Voxels per axis.
        changes: Of train.yaml's values.
    Returns:
        ``loss``, the mean over the last tenth of the steps; ``psnr_brain_db`` of the validation's reconstructions;
        ``inverse_error``, the mean of |x_t - U^-1(U(x_t, t))| of the validation's volumes, where there is an inverse.
    """
    set_determinism(0)
    config = ConfigParser()
    config.read_config(Path(find_bundle_root()) / "configs" / "train.yaml")
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config.update(
            {
                "output_dir": f"{folder}/output",
                "ckpt_dir": f"{folder}/models",
                "demo#num_subjects": 20,
                "demo#phantom_size": [64, 64, 48],
                "demo#spatial_size": [side] * 3,
                "demo#epoch_length": steps,
                "demo#max_epochs": 1,
                "demo#val_interval": 1,
                **changes,
            }
        )
        trainer: Engine = config.get_parsed_content("train#trainer")
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
        )
        trainer.run()
        found = {
            "loss": sum(losses[-steps // 10 :]) / len(losses[-steps // 10 :]),
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


def main() -> None:
    parser = argparse.ArgumentParser("python -m idm_bundle.studies", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=16, help="voxels per axis (16)")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    results = {}
    for name, changes in STUDIES[options.study].items():
        results[name] = train(options.steps, options.side, **changes)
        print(name, results[name], flush=True)
    if options.json:
        record = {
            "study": options.study,
            "steps": options.steps,
            "side": options.side,
            "results": results,
            "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),  # as train.yaml chooses
            "versions": VERSIONS,
        }
        with atomic_file(options.json) as unfinished:
            unfinished.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
