"""Whether the switches that save memory cost quality: short trainings on real brains, with several seeds.

The loss in training is computed in the training's own precision. It is compared with that of predictions, which are in
float32, for the validation cases, with the same noise for every network. Trainings and comparisons are kept in the
folder ``--work``, and an interrupted training is resumed there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import mse_loss

from idm_bundle.studies.brains import preprocessed, training_values
from idm_bundle.studies.configs import configured
from idm_bundle.studies.reconstruction import EIGHT_BIT
from idm_bundle.studies.runs import train_once
from monai_idm.atomic_file import write_json
from monai_idm.checkpoints import read_weights
from monai_idm.noise import seeded_noise
from monai_idm.schedulers import prediction_target

__all__ = ["STUDIES"]

_SEEDS = (0, 1, 2)
_TIMESTEPS = {  # at which predictions are compared
    "validation_loss": range(100, 2000, 200),
    "little_noise": range(0, 20, 4),  # at most a hundredth of it, much of which rounding to bfloat16 hides
}
_PLAIN: dict[str, Any] = {"muon": False, "precision": "float32", "activations": "rebuilt"}
_MIXED = {**_PLAIN, "precision": "mixed"}
_WEIGHTS = {**_MIXED, **EIGHT_BIT, "weight_dtype": "bfloat16"}
_SWITCHES: dict[str, dict[str, Any]] = {
    "AdamW, float32": _PLAIN,
    "mixed": _MIXED,
    "bfloat16 gradients of streams": {**_PLAIN, "gradient_dtype": "bfloat16"},
    "8-bit states": {**_PLAIN, **EIGHT_BIT},
    "mixed, 8-bit states, bfloat16 weights": _WEIGHTS,
    "all of them": {**_WEIGHTS, "gradient_dtype": "bfloat16"},
    "Muon, float32": {**_PLAIN, "muon": True},
    "Muon, all of them": {**_WEIGHTS, "gradient_dtype": "bfloat16", "muon": True},
}


def switched(name: str, seed: int, steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """Train on T1.

    Args:
        name: Name of the switches.
        seed: Seed of weights, batches and noise; the split of the cases stays the same.
        steps: Iterations.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases.
        work: Folder that keeps the trainings.
    Returns:
        ``loss``, the mean of the last tenth of the steps; ``step_s``; ``peak_mib``; some 200 of the ``losses``; and the
        mean losses of predictions, ``validation_loss`` over all timesteps, and with ``little_noise``.
    """
    folder = Path(work, f"{name.replace(', ', '_')}_{seed}")
    values = {**training_values(dataset_dir, folder, steps, side), **_SWITCHES[name]}
    values["val_interval"] = values["max_epochs"]
    measured = train_once(folder / "training.json", values, seed=seed)
    predictions = folder / "predictions.json"
    if not predictions.is_file():
        write_json(predictions, _of_predictions(values))
    measured |= json.loads(predictions.read_text())
    return {part: measured[part] for part in ("loss", "step_s", "peak_mib", "losses", *_TIMESTEPS)}


@torch.no_grad()
def _of_predictions(values: Mapping[str, Any]) -> dict[str, float]:
    config = configured(values)
    network, scheduler, datalist = (config.get_parsed_content(name) for name in ("network", "scheduler", "datalist"))
    network.eval().load_state_dict(read_weights(Path(values["ckpt_dir"], "model.pt"))[0])
    images = 2 * torch.stack(preprocessed(config, datalist["validation"])) - 1
    noise = torch.stack([seeded_noise(images.shape[1:], seed) for seed in range(len(images))])

    def loss(timestep: int) -> float:
        t = torch.full((len(images),), timestep)
        prediction = network(scheduler.add_noise(images, noise, t), t)
        return float(mse_loss(prediction, prediction_target(scheduler, images, noise, t)))

    return {name: fmean(map(loss, timesteps)) for name, timesteps in _TIMESTEPS.items()}


STUDIES = {"switches": {f"{name}, seed {seed}": partial(switched, name, seed) for seed in _SEEDS for name in _SWITCHES}}
