"""Segmentation of phantoms by diffusion: patches or whole volumes, PatchDDM's network or the reversible one.

- ``segmentation``: both networks, on patches and on whole volumes.
- ``patches``: patch size, averaged or concatenated skips, with or without coordinates, one region or three; two seeds.
- ``sampling``: sampler, number of steps and number of draws.

Networks are trained on 24 phantoms with the same number of steps, and evaluated on 8 others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any

from idm_bundle.studies.runs import demo, evaluate, train

__all__ = ["STUDIES"]

_PATCHDDM = {
    "network_def": {
        "_target_": "monai_idm.networks.PatchDiffusionUNet.from_preset",
        "preset": "light",
        "in_channels": "$len(@task.inputs)",
        "out_channels": "$len(@task.drawn)",
    },
    "activations": "stored",
}
_PATCH = {"patch_size": [16, 16, 16]}  # an eighth of a volume of 32^3, like 128^3 of 256^3
_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "segmentation": {
        "patch": {**_PATCHDDM, **_PATCH},
        "whole": _PATCHDDM,
        "reversible": {},
        "both": _PATCH,
    },
    "patches": {
        "PatchDDM, 16^3": {**_PATCHDDM, **_PATCH},
        "PatchDDM, 24^3": {**_PATCHDDM, "patch_size": [24, 24, 24]},
        "PatchDDM, 16^3, concatenated skips": {**_PATCHDDM, **_PATCH, "network_def#skips": "concatenated"},
        "PatchDDM, 16^3, no coordinates": {**_PATCHDDM, **_PATCH, "coordinates": False},
        "reversible, 16^3": _PATCH,
        "reversible, 16^3, no coordinates": {**_PATCH, "coordinates": False},
        "reversible, 16^3, three regions": {**_PATCH, "regions": ["core", "whole", "enhancing"]},
    },
}
_BLENDED = {
    "sw_batch_size": 8,
    "overlap": 0.25,
    "mode": "gaussian",
}  # the same as in DrawingInferer, eight patches at a time
_SAMPLERS = {"DDIM": "StridedDDIMScheduler", "Heun": "StridedHeunScheduler"}
_STEPS = {"DDIM": (1, 2, 5, 10, 20, 50, 100, 1000), "Heun": (1, 2, 5, 10, 25)}


def compare(
    changes: Mapping[str, Any], steps: int, side: int, seed: int = 0, in_patches: bool = False
) -> dict[str, float]:
    """Train on phantoms, then segment those of the test split.

    Args:
        changes: Values of train.yaml and segmentation.yaml that are changed.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        seed: Seed of weights and batches; the phantoms stay the same.
        in_patches: Whether to segment also in overlapping patches of the size used in training: ``dice_in_patches``, of
            5 draws.
    Returns:
        ``parameters``, ``peak_mib`` of training, ``step_gflop``, ``step_s`` (median), and for the test split
        ``draw_dice`` (one draw), ``dice`` and ``hd95_mm`` (5 draws), ``otsu_dice`` and ``best_threshold_dice``; of
        several regions ``dice`` is the mean, and each has its own, ``dice_<region>``.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, steps, side), **changes}
        _, found = train(values, "segmentation", seed=seed)
        found.pop("losses")
        scores = _evaluate(values)
        found |= {name: scores[name] for name in ("draw_dice", "dice", "otsu_dice", "best_threshold_dice")}
        found["hd95_mm"] = scores["hd95_mm_whole"]
        found |= {f"dice_{region}": scores[f"dice_{region}"] for region in changes.get("regions", ())}
        if in_patches:
            window = {"_target_": "SlidingWindowInferer", "roi_size": changes["patch_size"], **_BLENDED}
            found["dice_in_patches"] = _evaluate({**values, "draw#window": window})["dice"]
    return found


def sample(steps: int, side: int) -> dict[str, float]:
    """Train the reversible network on phantoms, then segment the test split with several samplers.

    Args:
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    Returns:
        Dice of one draw, by sampler and number of network passes, and Dice of 1 to 10 draws.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = demo(folder, steps, side)
        train(values, "segmentation")
        found = {}
        for name, counts in _STEPS.items():
            for n in counts:
                passes = 2 * n - 1 if name == "Heun" else n
                settings = {"sampler": _SAMPLERS[name], "num_inference_steps": n, "num_draws": 1}
                found[f"{name}, {passes} passes"] = _evaluate({**values, **settings})["dice"]
        for draws in (1, 2, 3, 5, 10):
            found[f"{draws} draws"] = _evaluate({**values, "num_draws": draws})["dice"]
    return found


def _evaluate(values: Mapping[str, Any]) -> dict[str, float]:
    return dict(evaluate(values, "segmentation", "evaluate_segmentation").state.metrics)


STUDIES: dict[str, dict[str, partial[dict[str, float]]]] = {
    "segmentation": {
        name: partial(compare, changes, in_patches="patch_size" in changes)
        for name, changes in _VARIANTS["segmentation"].items()
    },
    "patches": {
        f"{name}, seed {seed}": partial(compare, changes, seed=seed)
        for seed in (0, 1)
        for name, changes in _VARIANTS["patches"].items()
    },
    "sampling": {"reversible": partial(sample)},
}
