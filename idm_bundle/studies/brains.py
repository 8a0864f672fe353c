"""Real brains in one contrast: how prediction type, shift of the noise, sampler and number of steps change the samples.

Trainings take hours, so they are kept in the folder ``--work``, and an interrupted one is resumed there. Each network
is trained on the training cases of the folder's split and compared with its test cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idm_bundle.studies.quality import reconstructed
from idm_bundle.studies.runs import evaluate, train
from monai_idm.atomic_file import write_json
from monai_idm.schedulers import StridedDDPMScheduler, noise_levels

__all__ = ["STUDIES", "aged", "timestep_of"]

_VARIANTS: dict[str, dict[str, Any]] = {
    "velocity": {},
    "flow": {"prediction_type": "flow"},
    "noise": {"prediction_type": "epsilon", "timestep_power": 1.0},
}
_SAMPLERS = {
    "DPM-Solver++": "DPMSolverPlusPlusScheduler",
    "DDIM (Euler)": "StridedDDIMScheduler",
    "Heun": "StridedHeunScheduler",
}
_STEPS = (5, 10, 20, 50)
_NUM_SAMPLES = 30
_AGED = "flow, shifted, Age, Sex"
_NOISE = 250
"""Timestep, of 2000 of the default schedule, whose ratio of noise to image all variants are reconstructed from."""


def generated(
    name: str, changes: Mapping[str, Any], steps: int, side: int, dataset_dir: str, work: str
) -> dict[str, Any]:
    """Train, reconstruct the test cases, and compare samples with them.

    Args:
        name: Name of the training's folder.
        changes: Values of train.yaml that are changed.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases, with T1.
        work: Folder that keeps the trainings.
    Returns:
        What the training measured, with some 200 of its ``losses``; ``reconstruction``, see
        :func:`idm_bundle.studies.quality.reconstructed`, without the cases' names; and the metrics of the samples, by
        sampler and number of steps.
    """
    folder = _folder(work, name)
    values = {**_run(dataset_dir, folder, steps, side), **changes}
    done = folder / "training.json"
    if not done.is_file():
        _, measured = train({**values, "resume": True})
        measured["losses"] = measured["losses"][:: max(1, steps // 200)]
        write_json(done, measured)
    found = json.loads(done.read_text())
    found["reconstruction"] = reconstructed(values, timestep_of(values))
    del found["reconstruction"]["ssim_of"]
    for label, sampler in _SAMPLERS.items():
        for count in _STEPS:
            samples = {"sampler": sampler, "num_inference_steps": count, "num_samples": _NUM_SAMPLES}
            where = {"evaluation_dir": str(folder / f"{sampler}_{count}")}
            state = evaluate({**values, **samples, **where}, "evaluate_generation").state
            found[f"{label}, {count} steps"] = dict(state.metrics)
    return found


def timestep_of(values: Mapping[str, Any]) -> int:
    """The timestep at which a training has the same ratio of noise to image as the default has at timestep 250.

    Args:
        values: Values of train.yaml that are changed.
    """
    default: dict[str, Any] = {"prediction_type": "v_prediction", "noise_shift": 1.0}
    alpha, sigma = noise_levels(StridedDDPMScheduler(2000, "cosine", **default), _NOISE)
    ours = {knob: values.get(knob, value) for knob, value in default.items()}
    alphas, sigmas = noise_levels(StridedDDPMScheduler(2000, "cosine", **ours), torch.arange(1, 2000))
    return 1 + int((sigmas / alphas - sigma / alpha).abs().argmin())


def _run(dataset_dir: str, folder: Path, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml for a training on volumes of ``side``^3 voxels."""
    return {
        "dataset_dir": dataset_dir,
        "modalities": ["t1"],
        "spatial_size": [side] * 3,
        "batch_size": 2 if side <= 32 else 1,
        "epoch_length": min(steps, 100),
        "max_epochs": max(1, steps // 100),
        "val_interval": max(1, steps // 1000),
        "activations": "stored",
        "precision": "mixed",
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "output"),
    }


def aged(dataset_dir: str, work: str, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml of the training with age and sex, which the study must have made before.

    Args:
        dataset_dir: Folder of the cases.
        work: Folder that keeps the trainings.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    Raises:
        FileNotFoundError: If the folder has no such training.
    """
    folder = _folder(work, _AGED)
    if not (folder / "models" / "model.pt").is_file():
        raise FileNotFoundError(f"{folder} holds no training; make it with the study brains and the same --work")
    return {**_run(dataset_dir, folder, steps, side), **_with_conditions(dataset_dir), "noise_shift": side / 32}


def _with_conditions(dataset_dir: str) -> dict[str, Any]:
    table = {"conditions": str(Path(dataset_dir, "participants.csv")), "condition_columns": ["Age", "Sex"]}
    return {**_VARIANTS["flow"], **table}


def _aged(dataset_dir: str, **arguments: Any) -> dict[str, Any]:
    return _shifted(name=_AGED, changes=_with_conditions(dataset_dir), dataset_dir=dataset_dir, **arguments)


def _folder(work: str, name: str) -> Path:
    return Path(work, name.replace(", ", "_"))


def _shifted(steps: int, side: int, changes: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    return generated(changes={**changes, "noise_shift": side / 32}, steps=steps, side=side, **arguments)


STUDIES = {
    "brains": {
        _AGED: _aged,
        **{name: partial(generated, name, changes) for name, changes in _VARIANTS.items()},
        **{
            f"{name}, shifted": partial(_shifted, name=f"{name}, shifted", changes=_VARIANTS[name])
            for name in ("velocity", "flow")
        },
    }
}
