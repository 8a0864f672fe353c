"""The tables of a folder of real cases, however few: what the phantoms' studies judge, trained on a part of the split.

Of two cases one is trained on and the other judged, which shows that everything runs, and nothing about other patients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from idm_bundle.studies import quality, synthesis

__all__ = ["STUDIES"]


def _own(dataset_dir: str, steps: int, side: int) -> dict[str, Any]:
    """Values of train.yaml for a short training on a BraTS folder."""
    return {
        "dataset_dir": dataset_dir,
        "spatial_size": [side] * 3,
        "epoch_length": steps // 10,
        "max_epochs": 10,
        "val_interval": 5,
        "batch_size": 1,
    }


def reconstruct_and_generate(steps: int, side: int, dataset_dir: str) -> dict[str, Any]:
    """As :func:`idm_bundle.studies.quality.judge`, without the names of the cases."""
    found = quality.judge(_own(dataset_dir, steps, side), steps, side)
    for t in ("t250", "t500"):
        del found[t]["ssim_of"]
    return found


def synthesise(known: str, steps: int, side: int, dataset_dir: str) -> dict[str, Any]:
    """As :func:`idm_bundle.studies.synthesis.compare`, of the other of T1 and T2."""
    return synthesis.compare({**_own(dataset_dir, steps, side), "known": [known]}, [[known]], steps, side)


STUDIES = {
    "real": {
        "reconstruction and generation": reconstruct_and_generate,
        "T1 to T2": partial(synthesise, "t1"),
        "T2 to T1": partial(synthesise, "t2"),
    }
}
