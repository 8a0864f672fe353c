"""The evaluations of the phantom studies on a folder of real cases, however few, trained on a part of the split.

With so few this shows that everything runs, and nothing about other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def synthesise(
    changes: Mapping[str, Any], known_sets: Sequence[Sequence[str]], steps: int, side: int, dataset_dir: str
) -> dict[str, Any]:
    """:func:`idm_bundle.studies.synthesis.compare` on real cases."""
    return synthesis.compare({**_short_run(dataset_dir, steps, side), **changes}, known_sets, steps, side)


STUDIES = {
    "real": {
        "reconstruction and generation": reconstruct_and_generate,
        **{name: partial(synthesise, *synthesis.TASKS[name]) for name in ("T1 to T2", "T2 to T1", "any to any")},
    }
}
