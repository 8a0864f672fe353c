"""Real brains in one contrast: how prediction type, shift of the noise, sampler and number of steps change the samples.

Trainings take hours, so they are kept in the folder ``--work``, and an interrupted one is resumed there. Each network
is trained on the training cases of the folder's split and compared with its test cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import Dataset
from torch import Tensor

from idm_bundle.studies.quality import MONAI, reconstructed
from idm_bundle.studies.runs import evaluate, train_once

__all__ = ["AGED", "STUDIES", "kept", "preprocessed", "training_values", "values_of"]

_VARIANTS: dict[str, dict[str, Any]] = {
    "velocity": {"prediction_type": "v_prediction"},
    "flow": {"prediction_type": "flow"},
    "noise": {"prediction_type": "epsilon", "timestep_power": 1.0},
}
_Samplers = dict[str, tuple[str, str, tuple[int, ...]]]  # scheduler, timestep_spacing, numbers of steps
_SAMPLERS: _Samplers = {"DPM-Solver++": ("DPMSolverPlusPlusScheduler", "karras", (5, 10, 20, 50))}
# each step of which takes long
_SAMPLER_OF_MONAI: _Samplers = {"DPM-Solver++": ("DPMSolverPlusPlusScheduler", "karras", (10,))}
_FIRST = "flow, logit-normal, shifted, Age, Sex, AdamW"
_OTHER_SAMPLERS: _Samplers = {  # of the first training: which sampler is best is asked once
    "DPM-Solver++, trailing": ("DPMSolverPlusPlusScheduler", "trailing", (5, 10, 20, 50)),
    "DDIM (Euler)": ("StridedDDIMScheduler", "karras", (10,)),
    "Heun": ("StridedHeunScheduler", "karras", (5, 10)),
}
_NUM_SAMPLES = 30
AGED = "flow, shifted, Age, Sex"
"""Name of the training whose samples are asked for by age and sex."""
_NAMES = (
    AGED,
    "velocity, shifted, Age, Sex",
    "velocity, shifted, MONAI's network",
    "flow, shifted, Age, Sex, stride 2",
    "velocity, shifted, Age, Sex, stride 2",
    "noise, shifted, Age, Sex, stride 2",
    "flow, uniform, shifted, Age, Sex, stride 2",
    "flow, logit-normal, shifted, Age, Sex, stride 2",
    _FIRST,
    "flow, logit-normal, shifted, Age, Sex, stride 2, AdamW",
    "velocity, shifted, Age, Sex, stride 2, AdamW",
)
_THEIR_TIME = 8.7
"""Time of a step of MONAI's network at 64^3 relative to ours, of benchmark_speed_cpu.jsonl: it gets fewer steps."""


def generated(name: str, steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """Train, reconstruct the test cases, and compare samples with them; arguments as in :func:`values_of`.

    Returns:
        What the training measured, with some 200 of its ``losses``; ``reconstruction``, see
        :func:`idm_bundle.studies.quality.reconstructed`, without the cases' names; and, by sampler and number of steps,
        the samples' ``figures``, those of the ``real`` cases, and ``sd_of_halves``, the standard deviation over halves
        of the samples, which is about the standard error of the figures.
    """
    values = values_of(name, dataset_dir, work, steps, side)
    folder = Path(values["output_dir"]).parent
    found = train_once(folder / "training.json", values)
    found["reconstruction"] = reconstructed({**values, "num_inference_steps": 20}, 250)
    del found["reconstruction"]["ssim_of"]
    samplers = _SAMPLER_OF_MONAI if "MONAI's network" in name else _SAMPLERS
    if name == _FIRST:
        samplers = {**samplers, **_OTHER_SAMPLERS}
    for label, (sampler, spacing, counts) in samplers.items():
        for count in counts:
            how = {"sampler": sampler, "timestep_spacing": spacing, "num_inference_steps": count}
            where = folder / f"{sampler}_{spacing}_{count}"
            found[f"{label}, {count} steps"] = _compared({**values, **how, "num_samples": _NUM_SAMPLES}, where)
    return found


def _compared(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Compare samples with the test cases, or read what ``folder`` holds of it."""
    file = folder / "generation.json"
    if not file.is_file():
        evaluate({**values, "evaluation_dir": str(folder)}, "evaluate_generation")
    summary = json.loads(file.read_text())["summary"]
    halves = summary["by_number"]["generated"][str(summary["cases"] // 2)]
    return {
        "figures": summary["methods"]["generated"],
        "real": summary["methods"]["real"],
        "sd_of_halves": {name: figure["sd_of_subsets"] for name, figure in halves.items()},
    }


def values_of(name: str, dataset_dir: str, work: str, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml of a training.

    Args:
        name: Its name in ``STUDIES["brains"]``.
        dataset_dir: Folder of the cases, with T1; for age and sex also with ``participants.csv``.
        work: Folder that keeps the trainings.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    """
    kind, *more = name.split(", ")
    if "MONAI's network" in more:
        steps = round(steps / _THEIR_TIME)
    values = {**training_values(dataset_dir, Path(work, name.replace(", ", "_")), steps, side), **_VARIANTS[kind]}
    values["noise_shift"] = side / 32 if "shifted" in more else 1.0
    if "logit-normal" in more:
        values["timestep_power"] = None
    if "uniform" in more:
        values["timestep_power"] = 1.0
    if "AdamW" in more:
        values["muon"] = False
    if "stride 2" in more:
        values["bookend_stride"] = 2
    if "MONAI's network" in more:
        values |= {**MONAI, "val_interval": values["max_epochs"]}  # its validation takes as long as half an epoch
    if "Age" in more:
        values |= {"conditions": str(Path(dataset_dir, "participants.csv")), "condition_columns": ["Age", "Sex"]}
    return values


def training_values(dataset_dir: str, folder: Path, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml of any training on T1.

    Args:
        dataset_dir: Folder of the cases.
        folder: Folder of the training.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    """
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


def kept(name: str, dataset_dir: str, work: str, steps: int, side: int) -> dict[str, Any]:
    """The values of a training that ``work`` holds; arguments as in :func:`values_of`.

    Raises:
        FileNotFoundError: If it holds none.
    """
    values = values_of(name, dataset_dir, work, steps, side)
    if not Path(values["ckpt_dir"], "model.pt").is_file():
        raise FileNotFoundError(
            f"no training in {values['ckpt_dir']}; make it with the study brains and the same --work"
        )
    return values


def preprocessed(config: Any, items: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Volumes as a network is trained on them, ``(1, X, Y, Z)``, 0 to 1.

    Args:
        config: The config of its training.
        items: Items of the datalist.
    """
    dataset = Dataset(items, config.get_parsed_content("validate#preprocessing"))
    return [(dataset[i]["image"].as_tensor() + 1) / 2 for i in range(len(dataset))]


STUDIES = {"brains": {name: partial(generated, name) for name in _NAMES}}
