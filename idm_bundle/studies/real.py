"""The evaluations of the phantom studies on a folder of real cases, however few, trained on a part of the split.

Of two cases, one is for training and the other for evaluation: this shows that everything runs, and nothing about other
patients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from idm_bundle.studies import quality, synthesis

__all__ = ["STUDIES"]


def _short_run(dataset_dir: str, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml for a short training run on a BraTS folder."""
    return {
        "dataset_dir": dataset_dir,
        "spatial_size": [side] * 3,
        "epoch_length": steps // 10,
        "max_epochs": 10,
        "val_interval": 5,
        "batch_size": 1,
    }


def reconstruct_and_generate(steps: int, side: int, dataset_dir: str) -> dict[str, Any]:
    """:func:`idm_bundle.studies.quality.evaluate_variant` on real cases, without their names in the results."""
    found = quality.evaluate_variant(_short_run(dataset_dir, steps, side), steps, side)
    for t in ("t250", "t500"):
        del found[t]["ssim_of"]
    return found


def synthesise(known: str, steps: int, side: int, dataset_dir: str) -> dict[str, Any]:
    """:func:`idm_bundle.studies.synthesis.compare` on real cases: T2 from T1, or T1 from T2."""
    return synthesis.compare({**_short_run(dataset_dir, steps, side), "known": [known]}, [[known]], steps, side)


STUDIES = {
    "real": {
        "reconstruction and generation": reconstruct_and_generate,
        "T1 to T2": partial(synthesise, "t1"),
        "T2 to T1": partial(synthesise, "t2"),
    }
}
