"""Quality of reconstructions and samples of phantoms, and the settings that it depends on.

- ``quality``: prediction type, distribution of the training timesteps, weights of the loss, and average of the weights.
- ``peers``: our network and MONAI's DiffusionModelUNet with the same number of parameters and steps, three seeds.
  MONAI's has a third of our learning rate, which suits it better: with ours, its loss jumped in one of two runs.
- ``chain``: reconstruction with few and with all steps of several samplers.
- ``grid``: bookends of stride 2, for ``--side 64`` in the time that a side of 32 takes without them.
- ``twin``: the losses with rebuilt and with stored activations.

Networks are trained on 64 phantoms with the same number of steps, and evaluated on 8 others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from idm_bundle.studies.configs import configured
from idm_bundle.studies.runs import demo, evaluate, train
from monai_idm.metrics.comparison import columns
from monai_idm.metrics.statistics import describe
from monai_idm.schedulers import StridedDDPMScheduler, noise_levels

__all__ = ["MONAI", "STUDIES", "SUMMARIES", "reconstructed", "timestep_of"]

MONAI = {
    "network_def": {
        "_target_": "DiffusionModelUNet",
        "spatial_dims": 3,
        "in_channels": "$len(@task.inputs)",
        "out_channels": "$len(@task.drawn)",
        "channels": [32, 48, 56, 56],  # 2.99M parameters
        "num_res_blocks": 1,
        "attention_levels": [False, False, True, False],
        "norm_num_groups": 8,
        "num_head_channels": 8,
    },
    "learning_rate": 5.0e-4,
}
"""Values of train.yaml for MONAI's network of the size of ``light``."""
_OURS, _THEIRS = "reversible", "MONAI's DiffusionModelUNet"
_VELOCITY = {"prediction_type": "v_prediction"}
_VARIANTS: dict[str, dict[str, Any]] = {
    "flow, little noise more often": {},
    "v, little noise more often": _VELOCITY,
    "v, uniform": {**_VELOCITY, "timestep_power": 1.0},
    "v, uniform, min-SNR 5": {**_VELOCITY, "timestep_power": 1.0, "min_snr_gamma": 5.0},
    "v, little noise more often, zero terminal SNR": {**_VELOCITY, "zero_terminal_snr": True},
    "v, little noise more often, no average of weights": {**_VELOCITY, "ema_decay": 0.0},
    "noise, uniform (the paper)": {"prediction_type": "epsilon", "timestep_power": 1.0},
    "noise, uniform, min-SNR 5": {"prediction_type": "epsilon", "timestep_power": 1.0, "min_snr_gamma": 5.0},
    "image, uniform": {"prediction_type": "sample", "timestep_power": 1.0},
}
_CHAINS = {
    "DPM-Solver++": ("DPMSolverPlusPlusScheduler", (5, 10, 20, 50, 100, 2000)),
    "DDIM": ("StridedDDIMScheduler", (5, 20, 100, 2000)),
    "Heun": ("StridedHeunScheduler", (3, 10, 25)),
    "DDPM": ("StridedDDPMScheduler", (20, 100, 2000)),
}
_NUM_SAMPLES = 16


def evaluate_variant(changes: Mapping[str, Any], steps: int, side: int, seed: int = 0) -> dict[str, Any]:
    """Train on phantoms, then reconstruct those of the test split, and sample.

    Args:
        changes: Values of train.yaml that are changed.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        seed: Seed of weights and batches; the phantoms stay the same.
    Returns:
        ``parameters``, ``step_gflop``, ``step_s`` (median), ``loss`` (mean of the last tenth of the steps); for
        ``t250`` and ``t500`` the figures of :func:`reconstructed`; and those of GenerationMetrics, of 16 samples.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, steps, side), **changes}
        _, found = train(values, seed=seed)
        del found["losses"]
        for t in (250, 500):
            found[f"t{t}"] = reconstructed(values, t)
        generated = evaluate({**values, "num_samples": _NUM_SAMPLES}, "evaluate_generation").state.metrics
        found["generation"] = dict(generated)
    return found


def chain(steps: int, side: int) -> dict[str, Any]:
    """Train our network on phantoms, then reconstruct from t = 500 of 2000: figures by sampler and number of steps."""
    with tempfile.TemporaryDirectory() as folder:
        values = demo(folder, steps, side)
        train(values)
        return {
            f"{name}, {number} of 2000 steps": reconstructed(
                {**values, "sampler": sampler, "num_inference_steps": number}, 500
            )
            for name, (sampler, numbers) in _CHAINS.items()
            for number in numbers
        }


def twin(steps: int, side: int) -> dict[str, float]:
    """Compare the losses of two runs on exact streams, one of which rebuilds its activations.

    Returns:
        ``first_loss`` and ``last_loss``, the number of losses that are ``different``, and the largest ``difference``.
    """
    losses = []
    for activations in ("rebuilt", "stored"):
        with tempfile.TemporaryDirectory() as folder:
            values = {**demo(folder, steps, side), "precision": "exact", "activations": activations}
            losses.append(train(values)[1]["losses"])
    apart = [abs(a - b) for a, b in zip(*losses, strict=True)]
    return {
        "first_loss": losses[0][0],
        "last_loss": losses[0][-1],
        "different": sum(d > 0 for d in apart),
        "difference": max(apart),
    }


def compare(results: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of SSIM in the brain, our network's minus MONAI's, over the cases of all seeds, by timestep."""
    found = {}
    for t in ("t250", "t500"):
        differences = []
        for name, reversible in results.items():
            if name.startswith(_OURS):
                theirs = results.get(name.replace(_OURS, _THEIRS), {t: {"ssim_of": {}}})[t]["ssim_of"]
                differences += [reversible[t]["ssim_of"][case] - ssim for case, ssim in theirs.items()]
        found[t] = describe(differences)
    return found


def timestep_of(values: Mapping[str, Any], timestep: int) -> int:
    """The timestep at which a training has the ratio of noise to image that velocity has at another one.

    Args:
        values: Values of train.yaml that are changed.
        timestep: Timestep of velocity, of 2000 of the cosine schedule.
    """
    alpha, sigma = noise_levels(StridedDDPMScheduler(2000, "cosine", "v_prediction"), timestep)
    scheduler = configured(values).get_parsed_content("scheduler")
    alphas, sigmas = noise_levels(scheduler, torch.arange(1, scheduler.num_train_timesteps))
    return 1 + int((sigmas / alphas - sigma / alpha).abs().argmin())


def reconstructed(knobs: Mapping[str, Any], timestep: int) -> dict[str, Any]:
    """Reconstruct the test cases.

    Args:
        knobs: Values of train.yaml that are changed.
        timestep: Timestep of velocity; they are noised to the same ratio of noise to image.
    Returns:
        Means over cases and modalities, by method, metric and region; and ``ssim_of``, each case's SSIM in the brain.
    """
    evaluate({**knobs, "reconstruction_timestep": timestep_of(knobs, timestep), "evaluation_split": "test"}, "evaluate")
    rows = json.loads(Path(knobs["output_dir"], "evaluation", "reconstruction.json").read_text())["cases"]
    series: dict[str, list[float]] = {}
    cases: dict[str, list[float]] = {}
    for row in rows:
        if row["space"] == "image":
            for metric in columns("image"):
                series.setdefault(f"{row['method']}_{metric}_{row['region']}", []).append(row[metric])
            if (row["method"], row["region"]) == ("reconstruction", "brain"):
                cases.setdefault(row["subject"], []).append(row["ssim"])
    return {
        **{name: mean(of) for name, of in series.items()},
        "ssim_of": {case: mean(of) for case, of in cases.items()},
    }


STUDIES: dict[str, dict[str, partial[dict[str, Any]]]] = {
    # stored activations take less time, and their gradients are equal to rounding
    "quality": {
        name: partial(evaluate_variant, {"activations": "stored", **changes}) for name, changes in _VARIANTS.items()
    },
    "peers": {
        f"{name}, seed {seed}": partial(evaluate_variant, changes, seed=seed)
        for seed in (0, 1, 2)
        for name, changes in ((_OURS, {}), (_THEIRS, MONAI))
    }
    | {
        f"MONAI's at our learning rate, seed {seed}": partial(
            evaluate_variant, {"network_def": MONAI["network_def"]}, seed=seed
        )
        for seed in (0, 1)
    },
    "chain": {"reversible": partial(chain)},
    "grid": {"bookend_stride 2": partial(evaluate_variant, {"activations": "stored", "bookend_stride": 2})},
    "twin": {"rebuilt and stored": partial(twin)},
}
SUMMARIES = {"peers": compare}
