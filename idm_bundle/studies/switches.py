"""Whether the switches that save memory cost quality: short trainings on real brains, with several seeds.

Trainings are kept in the folder ``--work``, and an interrupted one is resumed there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from idm_bundle.studies.brains import training_values
from idm_bundle.studies.reconstruction import EIGHT_BIT
from idm_bundle.studies.runs import train_once

__all__ = ["STUDIES"]

_SEEDS = (0, 1, 2)
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
        ``loss``, the mean of the last tenth of the steps; ``step_s``; ``peak_mib``; and some 200 of the ``losses``.
    """
    folder = Path(work, f"{name.replace(', ', '_')}_{seed}")
    values = {**training_values(dataset_dir, folder, steps, side), **_SWITCHES[name]}
    measured = train_once(folder / "training.json", values, seed=seed)
    return {part: measured[part] for part in ("loss", "step_s", "peak_mib", "losses")}


STUDIES = {"switches": {f"{name}, seed {seed}": partial(switched, name, seed) for seed in _SEEDS for name in _SWITCHES}}
