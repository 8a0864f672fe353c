"""Muon for the kernels of convolutions, or AdamW for all weights: at several learning rates, and for three tasks.

Networks are trained on 64 phantoms and evaluated on 8 others.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from idm_bundle.studies import segmentation, synthesis
from idm_bundle.studies.quality import reconstructed
from idm_bundle.studies.runs import demo, train

__all__ = ["STUDIES"]

_RATE = 1.5e-3  # of light
_TIMESTEP = 250


def generation(muon: bool, steps: int, side: int, rate: float = 1.0, longer: int = 1) -> dict[str, float]:
    """Train on phantoms, then reconstruct those of the test split from timestep 250.

    Args:
        muon: Whether kernels are stepped by Muon.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        rate: Factor of the learning rate.
        longer: Factor of the iterations.
    Returns:
        ``step_s`` (median), ``loss`` (mean of the last tenth of the steps), and the figures of
        :func:`idm_bundle.studies.quality.reconstructed`.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, longer * steps, side), "muon": muon, "learning_rate": rate * _RATE}
        _, measured = train(values)
        found = reconstructed(values, _TIMESTEP)
        del found["ssim_of"]
        return {name: measured[name] for name in ("step_s", "loss")} | found


def of_task(task: str, muon: bool, steps: int, side: int) -> dict[str, Any]:
    """Train for a task, and evaluate it; the figures are those of its own study.

    Args:
        task: ``"segmentation"`` or ``"synthesis"`` (of T2 from T1).
        muon: Whether kernels are stepped by Muon.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    """
    if task == "segmentation":
        return segmentation.compare({"muon": muon}, steps, side)
    return synthesis.compare({"muon": muon}, [["t1"]], steps, side)


_OPTIMIZERS = {"Muon": True, "AdamW": False}
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    ", half the learning rate": {"rate": 0.5},
    ", twice the learning rate": {"rate": 2.0},
    ", four times the iterations": {"longer": 4},
}
STUDIES = {
    "optimizers": {
        **{
            f"{name}{words}": partial(generation, muon, **settings)
            for name, muon in _OPTIMIZERS.items()
            for words, settings in _VARIANTS.items()
        },
        **{
            f"{task}, {name}": partial(of_task, task, muon)
            for task in ("segmentation", "synthesis")
            for name, muon in _OPTIMIZERS.items()
        },
    }
}
